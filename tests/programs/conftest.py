"""Fixtures: sidecars between a program and an application, each for the tests of one file."""

import itertools
import os
import pathlib
import tempfile
from contextlib import ExitStack

import pytest

from mesh import Pair


@pytest.fixture(scope="module")
def ends():
    """What is entered here ends after the last test of the file, in reverse order."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def folder():
    """A folder that servers under another user can enter too; pytest's own are for root alone."""
    with tempfile.TemporaryDirectory(prefix="sidegate-programs-") as path:
        os.chmod(path, 0o755)
        yield pathlib.Path(path)


@pytest.fixture(scope="module")
def behind_sidecars(ends, folder):
    """`behind_sidecars(port, protocol)` puts a pair of sidecars in front of the application on `port`."""
    numbers = itertools.count(1)

    def pair(app_port, protocol, **more):
        place = folder / f"pair-{next(numbers)}"
        place.mkdir()
        return Pair(ends, place, app_port, protocol, **more)

    return pair

//! A token on its way into a file: written aside and synced, put into its place in one step, readable for its owner alone
//! from the first moment. What is not completed is taken away.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sidegate_control_plane::tokens::Secret;

use crate::{exit::Exit, failure::Failure};

/// What may be at the place of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Into {
    /// Nothing: a token is not written over another by mistake.
    NewFile,
    /// Whatever it replaces.
    AnyFile,
}

/// A token that waits aside, or for stdout.
pub(super) enum Delivery {
    Stdout,
    File { aside: Aside, path: PathBuf, into: Into },
}

/// A file that is removed unless it was renamed.
pub(super) struct Aside(PathBuf);

impl Delivery {
    pub(super) fn prepare(path: &Path, into: Into, secret: &Secret) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        if into == Into::NewFile && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let aside = Aside::write(path, secret).map_err(|error| unwritten(path, &error))?;
        Ok(Self::File { aside, path: path.to_owned(), into })
    }

    /// Whether stdout is free for words about it.
    pub(super) fn complete(self, secret: &Secret) -> Result<bool, Failure> {
        match self {
            Self::Stdout => {
                crate::table::print(&format!("{}\n", secret.as_str()))?;
                Ok(false)
            }
            Self::File { aside, path, into } => {
                let placed = match into {
                    Into::AnyFile => fs::rename(&aside.0, &path),
                    // A link refuses a name that is taken, also one that came since it was looked for.
                    Into::NewFile => fs::hard_link(&aside.0, &path),
                };
                placed.map_err(|error| unwritten(&path, &error))?;
                Ok(true)
            }
        }
    }
}

impl Aside {
    fn write(path: &Path, secret: &Secret) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("is no file's name"))?;
        let aside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        let written = Self(aside);
        file.write_all(format!("{}\n", secret.as_str()).as_bytes())?;
        file.sync_all()?;
        Ok(written)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // It may be in its place already.
        let _ = fs::remove_file(&self.0);
    }
}

fn exists(path: &Path) -> Failure {
    let next = "name another file, or `sidegate token rotate` the token that is in it";
    Failure::new(Exit::Usage, "no token was made", "the file is there already", next)
        .seen(path.display().to_string())
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    let next = "name a file in a folder that you may write to";
    Failure::new(Exit::Findings, "the token cannot be written", error.to_string(), next)
        .seen(path.display().to_string())
}

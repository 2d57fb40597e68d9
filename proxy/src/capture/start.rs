//! `sidegate-proxy capture run`: the start of a container whose network is a new one each time. The rules are in force; this
//! process gives up every privilege it had for them and becomes the sidecar. It never goes on with one of them left.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, path::Path, process::Command};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// Becomes the sidecar as user and group `uid`, with the configuration at `config`, or else with that of the environment. Returns
/// only to say why not.
pub(super) fn become_sidecar(uid: u32, config: Option<&Path>) -> io::Error {
    if let Err(error) = keep_nothing() {
        return error;
    }
    // Another user than root starts with no capability: the rest goes with the change of the user.
    let mut sidecar = Command::new("/proc/self/exe");
    sidecar.args(own_name()).uid(uid).gid(uid);
    if let Some(path) = config {
        sidecar.arg("--config").arg(path);
    }
    sidecar.exec()
}

/// No program gains a privilege from here on, whatever its file says, and none is handed down beside the user.
fn keep_nothing() -> io::Result<()> {
    set_no_new_privs(true)?;
    let own = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: CapabilitySet::empty(), ..own })?;
    Ok(())
}

/// What stands before `capture`: nothing, or `proxy` of the operator's program.
fn own_name() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1).take_while(|word| word != "capture")
}

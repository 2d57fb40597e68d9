//! The socket's file: made for whoever may connect and for nobody else, and taken away at the end. Refuses a folder in
//! which others could put a socket of their own in its place, and a path at which something else is.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use crate::config::{Users, WorkloadEndpoint};

/// An open socket. Its file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that the file of a successor is left alone.
    file: (u64, u64),
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("workloadApi.listen: {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error(
        "workloadApi.listen: {folder} has mode {mode:o} and belongs to user {owner}; others could put a socket of their own in \
         it. It must belong to the sidecar's user or to root and be writable for its owner alone; a folder that does not \
         exist is made so"
    )]
    OpenFolder { folder: PathBuf, mode: u32, owner: u32 },
    #[error("workloadApi.listen: {0} is there and is not a socket of this user: it is left alone")]
    Occupied(PathBuf),
    #[error("workloadApi.listen: another process answers at {0}")]
    InUse(PathBuf),
}

impl Socket {
    /// Within a runtime.
    pub(crate) fn open(endpoint: &WorkloadEndpoint) -> Result<Self, SocketError> {
        let path = &endpoint.socket;
        let failed = |cause| SocketError::Io { path: path.clone(), cause };
        check_folder(path.parent().unwrap_or(Path::new("/")))?;
        remove_stale(path)?;
        // Between these two others may connect already: what counts is the check of each connection's user.
        let listener = StdListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(mode(&endpoint.users))).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = identity(&fs::symlink_metadata(path).map_err(failed)?);
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, path: path.clone(), file })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file);
        // What stays behind is recognized as stale by the next start.
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's file stays behind");
        }
    }
}

/// Users other than the sidecar's own need to write to a socket to connect to it.
fn mode(users: &Users) -> u32 {
    match users {
        Users::Own => 0o600,
        Users::These(_) => 0o666,
    }
}

/// Makes the folder if it is missing.
fn check_folder(folder: &Path) -> Result<(), SocketError> {
    let failed = |cause| SocketError::Io { path: folder.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    let found = fs::metadata(folder).map_err(failed)?;
    let is_owned = found.uid() == own_user() || found.uid() == 0;
    if is_owned && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        Err(SocketError::OpenFolder { folder: folder.to_owned(), mode, owner })
    }
}

/// Takes away what a sidecar left behind that was killed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |cause| SocketError::Io { path: path.to_owned(), cause };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(cause)),
    };
    if !found.file_type().is_socket() || found.uid() != own_user() {
        return Err(SocketError::Occupied(path.to_owned()));
    }
    match StdStream::connect(path) {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(cause) => Err(failed(cause)),
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn endpoint(socket: PathBuf, users: Users) -> WorkloadEndpoint {
        WorkloadEndpoint { socket, users }
    }

    fn permissions(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn the_folder_is_made_and_the_socket_is_for_its_users_and_goes_at_the_end() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("workload/api.sock");
        for (users, want) in [(Users::Own, 0o600), (Users::These([1000].into()), 0o666)] {
            let socket = Socket::open(&endpoint(path.clone(), users)).unwrap();
            assert_eq!(permissions(&path), want);
            assert_eq!(permissions(&folder.path().join("workload")) & 0o022, 0);
            drop(socket);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_folder_that_others_may_write_is_refused() {
        let folder = TempDir::new().unwrap();
        for mode in [0o777, 0o1777, 0o770] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let refused = Socket::open(&endpoint(folder.path().join("api.sock"), Users::Own)).unwrap_err();
            assert!(matches!(refused, SocketError::OpenFolder { .. }), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_at_is_replaced_and_anything_else_is_not() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("api.sock");
        let open = || Socket::open(&endpoint(path.clone(), Users::Own));
        // The file of a socket outlives a process that is killed.
        drop(StdListener::bind(&path).unwrap());
        let first = open().unwrap();
        assert!(matches!(open().unwrap_err(), SocketError::InUse(_)));
        drop(first);

        fs::write(&path, "somebody's").unwrap();
        assert!(matches!(open().unwrap_err(), SocketError::Occupied(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(open().unwrap_err(), SocketError::Occupied(_)));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("api.sock");
        let socket = Socket::open(&endpoint(path.clone(), Users::Own)).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = StdListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}

//! The unix socket for sidecars of this host. Whoever is on it may connect, since the attestor goes by what the kernel says
//! of each process; nobody may put a socket of their own in its place: a folder that others can write to is refused.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use sidegate_codes::Code;
use tokio::net::{UnixListener, UnixStream};

use super::origin::LocalProcess;

/// The open socket. Its file goes with it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that the file of a successor is left alone.
    file: (u64, u64),
}

/// The unix socket for sidecars of this host cannot be opened. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LocalSocketError {
    /// Its file or folder.
    #[error("listen.socket: {}: {cause} ({})", path.display(), Code::LocalSocketUnusable)]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others could put a socket of their own there.
    #[error(
        "listen.socket: {} has mode {mode:o} and belongs to user {owner}; it must belong to root or the control plane's user \
         and be writable for its owner alone ({})",
        folder.display(),
        Code::LocalSocketUnusable
    )]
    OpenFolder {
        /// Of the socket.
        folder: PathBuf,
        /// As it is.
        mode: u32,
        /// Its user.
        owner: u32,
    },
    /// Something that is not ours to remove.
    #[error(
        "listen.socket: {} is there and is not a socket of this user: it is left alone ({})",
        .0.display(),
        Code::LocalSocketUnusable
    )]
    Occupied(PathBuf),
    /// A control plane that lives, most likely.
    #[error("listen.socket: another process answers at {} ({})", .0.display(), Code::LocalSocketUnusable)]
    InUse(PathBuf),
}

impl LocalSocket {
    /// Must be called within a runtime.
    pub(crate) fn open(path: &Path) -> Result<Self, LocalSocketError> {
        let failed = |cause| LocalSocketError::Io { path: path.to_owned(), cause };
        check_folder(path.parent().unwrap_or(Path::new("/")))?;
        remove_stale(path)?;
        let listener = StdListener::bind(path).map_err(failed)?;
        // To connect is to write. Who may is the attestor's to say.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = identity(&fs::symlink_metadata(path).map_err(failed)?);
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// The next connection, with its process as it was when it connected. Nothing is lost if it is not waited for.
    pub(super) async fn accept(&self) -> io::Result<(UnixStream, LocalProcess)> {
        let (stream, _) = self.listener.accept().await?;
        let process = stream.peer_cred()?;
        Ok((stream, LocalProcess { uid: process.uid(), gid: process.gid(), pid: process.pid() }))
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file);
        // What stays behind is recognized as stale by the next start.
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's file stays behind");
        }
    }
}

/// Makes the folder if it is missing.
fn check_folder(folder: &Path) -> Result<(), LocalSocketError> {
    let failed = |cause| LocalSocketError::Io { path: folder.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    let found = fs::metadata(folder).map_err(failed)?;
    let is_owned = found.uid() == own_user() || found.uid() == 0;
    if is_owned && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        Err(LocalSocketError::OpenFolder { folder: folder.to_owned(), mode, owner })
    }
}

/// Takes away what a control plane left behind that was killed.
fn remove_stale(path: &Path) -> Result<(), LocalSocketError> {
    let failed = |cause| LocalSocketError::Io { path: path.to_owned(), cause };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(cause)),
    };
    if !found.file_type().is_socket() || found.uid() != own_user() {
        return Err(LocalSocketError::Occupied(path.to_owned()));
    }
    match StdStream::connect(path) {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(LocalSocketError::InUse(path.to_owned())),
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

    fn permissions(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn the_folder_is_made_for_its_owner_alone_and_the_socket_for_all_and_it_goes_at_the_end() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("run/local.sock");
        let socket = LocalSocket::open(&path).unwrap();
        assert_eq!(permissions(&path), 0o666);
        assert_eq!(permissions(&folder.path().join("run")) & 0o022, 0);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_kernel_names_the_process_that_connects() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("local.sock");
        let socket = LocalSocket::open(&path).unwrap();
        let _connected = StdStream::connect(&path).unwrap();
        let (_, process) = socket.accept().await.unwrap();
        let own = LocalProcess {
            uid: own_user(),
            gid: rustix::process::getegid().as_raw(),
            pid: i32::try_from(std::process::id()).ok(),
        };
        assert_eq!(process, own);
    }

    #[tokio::test]
    async fn a_folder_that_others_may_write_is_refused() {
        let folder = TempDir::new().unwrap();
        for mode in [0o777, 0o1777, 0o770] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let refused = LocalSocket::open(&folder.path().join("local.sock")).unwrap_err();
            assert!(matches!(refused, LocalSocketError::OpenFolder { .. }), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_at_is_replaced_and_anything_else_is_not() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("local.sock");
        // The file of a socket outlives a process that is killed.
        drop(StdListener::bind(&path).unwrap());
        let first = LocalSocket::open(&path).unwrap();
        assert!(matches!(LocalSocket::open(&path).unwrap_err(), LocalSocketError::InUse(_)));
        drop(first);

        fs::write(&path, "somebody's").unwrap();
        assert!(matches!(LocalSocket::open(&path).unwrap_err(), LocalSocketError::Occupied(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(LocalSocket::open(&path).unwrap_err(), LocalSocketError::Occupied(_)));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("local.sock");
        let socket = LocalSocket::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = StdListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}

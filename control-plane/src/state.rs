//! The state folder: 0700, one process at a time, files 0600. It opens files without following links and refuses
//! whatever others could have read or written. It never overwrites a key.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags};
use sidegate_codes::Code;

/// The locked folder; the lock ends with it.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    /// `None`: opened beside whoever has it.
    _lock: Option<File>,
}

/// The state cannot be used as it is on disk. The operator's to mend; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Others may read or write a key, or own it.
    #[error("{}: {reason} ({code})", path.display(), code = Code::UnsafeKeyFile)]
    UnsafeKeyFile {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry is damaged, or somebody changed it. Nothing is issued on top of it.
    #[error("{}: {reason} ({code})", path.display(), code = Code::RegistryBroken)]
    RegistryBroken {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database of the registry does not answer, or not to us.
    #[error("{server}: {reason} ({code})", code = Code::RegistryUnreachable)]
    RegistryUnreachable {
        /// The database.
        server: String,
        /// What it or the network said.
        reason: String,
    },
    /// The registry was written since with another state folder.
    #[error("{}: {reason} ({code})", path.display(), code = Code::StateFolderBehind)]
    FolderBehind {
        /// The file that knows.
        path: PathBuf,
        /// What it missed.
        reason: String,
    },
    /// Anything else: permissions of the folder, damage, a second process, input and output.
    #[error("{}: {reason} ({code})", path.display(), code = Code::StateUnusable)]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StateError {
    /// The code that explains it.
    pub fn code(&self) -> Code {
        match self {
            Self::UnsafeKeyFile { .. } => Code::UnsafeKeyFile,
            Self::RegistryBroken { .. } => Code::RegistryBroken,
            Self::RegistryUnreachable { .. } => Code::RegistryUnreachable,
            Self::FolderBehind { .. } => Code::StateFolderBehind,
            Self::Unusable { .. } => Code::StateUnusable,
        }
    }
}

impl StateFolder {
    /// Makes the folder if there is none, checks it and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let folder = Self::open_beside(path)?;
        Ok(Self { _lock: Some(lock(&path.join("lock"))?), ..folder })
    }

    /// Makes the folder if there is none and checks it. A control plane may be using it: only what takes two writers may be
    /// written.
    pub(crate) fn open_beside(path: &Path) -> Result<Self, StateError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(path, error.to_string()));
            }
            _ => check_folder(path)?,
        }
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// Opens an existing folder to read what is in it; another process may be using it.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, StateError> {
        check_folder(path)?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The bytes of a secret, or `None` if there is no such file. Refuses one that others could know.
    pub(crate) fn read_secret(&self, name: &str) -> Result<Option<zeroize::Zeroizing<String>>, StateError> {
        let path = self.join(name);
        let mut options = OpenOptions::new();
        options.read(true);
        let mut file = match open_plain(&mut options, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| unusable(&path, error.to_string()))?,
        };
        check_private(&file, &path)?;
        let mut text = zeroize::Zeroizing::new(String::with_capacity(MAX_SECRET_BYTES));
        Read::by_ref(&mut file)
            .take(MAX_SECRET_BYTES as u64)
            .read_to_string(&mut text)
            .map_err(|error| unusable(&path, error.to_string()))?;
        Ok(Some(text))
    }

    /// Writes a secret that must not exist yet: whole and on disk, or not at all.
    pub(crate) fn create_secret(&self, name: &str, text: &str) -> Result<(), StateError> {
        let path = self.join(name);
        let partial = self.join(&format!("{name}.partial"));
        self.place(&path, &partial, text, 0o600).map_err(|error| unusable(&path, error.to_string()))
    }

    /// Writes a secret in place of what it was before: whole and on disk, or not at all.
    pub(crate) fn replace_secret(&self, name: &str, text: &str) -> Result<(), StateError> {
        let path = self.join(name);
        let partial = self.join(&format!("{name}.partial"));
        Self::write_aside(&partial, text, 0o600)
            .and_then(|()| fs::rename(&partial, &path))
            .and_then(|()| self.sync())
            .map_err(|error| unusable(&path, error.to_string()))
    }

    /// The names of everything in the folder.
    pub(crate) fn names(&self) -> Result<Vec<String>, StateError> {
        let read = fs::read_dir(&self.path).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        });
        read.map_err(|error| unusable(&self.path, error.to_string()))
    }

    /// Deletes a file for good; one that is gone already is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(&path, error.to_string())),
            _ => self.sync().map_err(|error| unusable(&self.path, error.to_string())),
        }
    }

    /// Opens a private file for appending and reading; makes it if there is none.
    pub(crate) fn open_journal(&self, name: &str) -> Result<File, StateError> {
        let path = self.join(name);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = open_plain(&mut options, &path).map_err(|error| unusable(&path, error.to_string()))?;
        check_private(&file, &path)
            .map_err(|error| unusable(&path, format!("others may read or write it: {error}")))?;
        self.sync().map_err(|error| unusable(&path, error.to_string()))?;
        Ok(file)
    }

    /// `hard_link` refuses an existing name, where `rename` would replace it: a key is never overwritten.
    fn place(&self, path: &Path, partial: &Path, text: &str, mode: u32) -> io::Result<()> {
        Self::write_aside(partial, text, mode)?;
        fs::hard_link(partial, path)?;
        fs::remove_file(partial)?;
        self.sync()
    }

    fn write_aside(partial: &Path, text: &str, mode: u32) -> io::Result<()> {
        match fs::remove_file(partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let mut file = open_plain(&mut options, partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// A new name is on disk only once its folder is.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

pub(crate) fn unusable(path: &Path, reason: impl Into<String>) -> StateError {
    StateError::Unusable { path: path.to_owned(), reason: reason.into() }
}

fn check_folder(path: &Path) -> Result<(), StateError> {
    let found = fs::symlink_metadata(path).map_err(|error| unusable(path, error.to_string()))?;
    if !found.is_dir() {
        return Err(unusable(path, "is not a folder"));
    }
    match looseness(&found) {
        Some(reason) => Err(unusable(path, format!("{reason}; it must be 0700 and owned by this user"))),
        None => Ok(()),
    }
}

fn check_private(file: &File, path: &Path) -> Result<(), StateError> {
    let found = file.metadata().map_err(|error| unusable(path, error.to_string()))?;
    if !found.is_file() {
        return Err(unusable(path, "is not a regular file"));
    }
    match looseness(&found) {
        Some(reason) => Err(StateError::UnsafeKeyFile { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

fn looseness(found: &fs::Metadata) -> Option<String> {
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Some(format!("is owned by uid {}, not by uid {user}", found.uid()));
    }
    let mode = found.mode() & 0o7777;
    (mode & 0o077 != 0).then(|| format!("has mode {mode:04o}, which lets others in"))
}

/// Follows no link at the last step: a link planted in the folder leads nowhere.
fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

fn lock(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = open_plain(&mut options, path).map_err(|error| unusable(path, error.to_string()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| unusable(path, "another control plane uses this state folder"))?;
    Ok(file)
}

/// A key and a certificate in PEM are about 2 KiB.
const MAX_SECRET_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        (parent, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn folder_and_secrets_are_private_from_the_first_moment() {
        let (_parent, path) = folder();
        let state = StateFolder::open(&path).unwrap();
        state.create_secret("key", "secret").unwrap();
        assert_eq!((mode(&path), mode(&path.join("key"))), (0o700, 0o600));
        assert_eq!(state.read_secret("key").unwrap().unwrap().as_str(), "secret");
    }

    #[test]
    fn a_secret_is_never_overwritten() {
        let (_parent, path) = folder();
        let state = StateFolder::open(&path).unwrap();
        state.create_secret("key", "first").unwrap();
        assert!(state.create_secret("key", "second").is_err());
        assert_eq!(state.read_secret("key").unwrap().unwrap().as_str(), "first");
    }

    #[test]
    fn what_a_crash_left_half_written_is_no_obstacle() {
        let (_parent, path) = folder();
        let state = StateFolder::open(&path).unwrap();
        fs::write(path.join("key.partial"), "half").unwrap();
        state.create_secret("key", "whole").unwrap();
        assert_eq!(state.read_secret("key").unwrap().unwrap().as_str(), "whole");
    }

    #[test]
    fn a_loose_folder_is_refused() {
        let (_parent, path) = folder();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(StateFolder::open(&path).unwrap_err().code(), Code::StateUnusable);
    }

    #[test]
    fn a_loose_key_is_refused() {
        let (_parent, path) = folder();
        let state = StateFolder::open(&path).unwrap();
        state.create_secret("key", "secret").unwrap();
        for loose in [0o644, 0o640, 0o602] {
            fs::set_permissions(path.join("key"), fs::Permissions::from_mode(loose)).unwrap();
            assert_eq!(state.read_secret("key").unwrap_err().code(), Code::UnsafeKeyFile, "{loose:o}");
        }
    }

    #[test]
    fn a_link_in_place_of_a_key_is_not_followed() {
        let (_parent, path) = folder();
        let state = StateFolder::open(&path).unwrap();
        state.create_secret("real", "secret").unwrap();
        symlink(path.join("real"), path.join("key")).unwrap();
        assert!(state.read_secret("key").is_err());
    }

    #[test]
    fn a_second_process_is_refused_until_the_first_ends() {
        let (_parent, path) = folder();
        let first = StateFolder::open(&path).unwrap();
        assert!(StateFolder::open(&path).unwrap_err().to_string().contains("another control plane"));
        drop(first);
        assert!(StateFolder::open(&path).is_ok());
    }
}

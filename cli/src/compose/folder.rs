//! The folder `.sidegate/` beside the Compose file, and every file that is written: whole or not at all, tokens for their owner alone.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use sidegate_codes::Code;

use super::{inject::IMAGE_USER, problem::Problem, settings::Settings};
use crate::{exit::Exit, failure::Failure, join_token};

/// `.sidegate/`.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder beside this file.
    pub(crate) fn beside(compose: &Path) -> Self {
        let parent = compose.parent().unwrap_or(Path::new(""));
        Self { path: parent.join(".sidegate") }
    }

    pub(crate) fn mesh(&self) -> PathBuf {
        self.path.join("mesh.yaml")
    }

    pub(crate) fn policy(&self, account: &str) -> PathBuf {
        self.path.join("policies").join(format!("{account}.yaml"))
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.path.join("compose.yaml")
    }

    fn token(&self, account: &str) -> PathBuf {
        self.path.join("tokens").join(account)
    }

    /// What `compose init` has decided; `None` before it.
    pub(crate) fn settings(&self) -> Result<Option<Settings>, Failure> {
        let path = self.settings_file();
        match fs::read_to_string(&path) {
            Ok(text) => Settings::parse(&text).map(Some).map_err(|problem| {
                super::problem::failure(format!("{} cannot be used", path.display()), &[problem])
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// Makes the folders, and the file that keeps tokens out of Git.
    pub(crate) fn create(&self) -> Result<(), Failure> {
        for name in ["policies", "tokens"] {
            let path = self.path.join(name);
            fs::create_dir_all(&path).map_err(|error| unwritable(&path, &error))?;
        }
        let tokens = self.path.join("tokens");
        fs::set_permissions(&tokens, Permissions::from_mode(0o700))
            .map_err(|error| unwritable(&tokens, &error))?;
        let ignore = self.path.join(".gitignore");
        if !ignore.exists() {
            replace(&ignore, "tokens/\n", 0o644)?;
        }
        Ok(())
    }

    /// The digest of a service's join token, which is made for `user` if it is not there.
    pub(crate) fn token_digest(&self, account: &str, user: &str) -> Result<String, Failure> {
        let path = self.token(account);
        match fs::read_to_string(&path) {
            Ok(token) => Ok(join_token::digest(token.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = join_token::random().map_err(|error| unwritable(&path, &error))?;
                replace(&path, token.as_str(), 0o600)?;
                give_away(&path, user)?;
                Ok(join_token::digest(token.as_str()))
            }
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    pub(crate) fn has_token(&self, account: &str) -> bool {
        self.token(account).exists()
    }

    /// Gives a token that is there to the user that its sidecar runs as now.
    pub(crate) fn give_token(&self, account: &str, user: &str) -> Result<(), Failure> {
        give_away(&self.token(account), user)
    }

    /// Where the token is, if it belongs to another than this user: that one's sidecar could not read it.
    pub(crate) fn token_of_another(&self, account: &str, user: &str) -> Option<PathBuf> {
        let path = self.token(account);
        let owner = fs::metadata(&path).ok()?.uid();
        (ids(user).is_none_or(|(user, _)| user != owner)).then_some(path)
    }
}

/// To the user that sidecars run as, which root alone can do; anybody else's sidecars run as their own user.
fn give_away(path: &Path, user: &str) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some((user, group)) = ids(user) else { return Ok(()) };
    chown(path, Some(user), Some(group)).map_err(|error| unwritable(path, &error))
}

fn ids(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// Whom sidecars run as, so that they can read the tokens that this process writes.
pub(crate) fn token_user() -> String {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() { IMAGE_USER.to_owned() } else { format!("{}:{}", user.as_raw(), group.as_raw()) }
}

/// Writes a file in one step: whoever reads it sees the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".sidegate-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| unwritable(path, &error))
}

/// A file that could not be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{} cannot be read", path.display()),
        error.to_string(),
        "check the path",
    )
    .coded(Code::ConfigUnreadable)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let next =
        "check who owns the folder and whether the disk is full, then run it again: what is there is kept";
    Failure::new(Exit::Findings, format!("{} cannot be written", path.display()), error.to_string(), next)
}

/// The way out where `compose init` has to come first.
pub(crate) fn not_yet(service: Option<&str>, what: impl Into<String>) -> Problem {
    Problem {
        code: Code::ComposeStale,
        service: service.map(ToOwned::to_owned),
        what: what.into(),
        next: Some("sidegate compose init".to_owned()),
    }
}

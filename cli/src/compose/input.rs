//! Where the application's Compose file is, and what it is called: a path or standard input goes in, a project with its plan
//! comes out.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use sidegate_codes::Code;

use super::{file::Project, folder::unreadable, plan::Plan, problem};
use crate::{exit::Exit, failure::Failure};

/// Which file is read.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Input {
    /// The application's Compose file, or `-` for standard input. Absent: compose.yaml, compose.yml, docker-compose.yaml or
    /// docker-compose.yml of this folder.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Input {
    /// Reads the file and plans the mesh.
    pub(crate) fn plan(&self) -> Result<(Project, Plan), Failure> {
        let path = self.path()?;
        let text = self.text(&path)?;
        let refused =
            |problems: Vec<_>| problem::failure(format!("{} cannot be meshed", path.display()), &problems);
        let mut project = Project::parse(&text).map_err(refused)?;
        project.read_env_files(path.parent().unwrap_or(Path::new(""))).map_err(refused)?;
        let plan = Plan::of(&project).map_err(refused)?;
        Ok((project, plan))
    }

    /// The file; of standard input, a name in this folder.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.file {
            return Ok(path.clone());
        }
        let found = NAMES.iter().map(PathBuf::from).find(|path| path.exists());
        found.ok_or_else(|| {
            let why = format!("this folder has none of {}", NAMES.join(", "));
            Failure::new(Exit::Usage, "there is no Compose file", why, "name it with --file")
                .coded(Code::ConfigUnreadable)
        })
    }

    pub(crate) fn is_stdin(&self) -> bool {
        self.file.as_deref() == Some(Path::new("-"))
    }

    /// The project's name as Compose finds it: the file's `name`, or the folder's.
    pub(crate) fn project_name(&self, project: &Project) -> Result<String, Failure> {
        if let Some(name) = &project.name {
            return Ok(name.clone());
        }
        let path = self.path()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = fs::canonicalize(parent).map_err(|error| unreadable(parent, &error))?;
        let name =
            folder.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        Ok(name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect())
    }

    fn text(&self, path: &Path) -> Result<String, Failure> {
        let mut text = String::new();
        let read = if self.is_stdin() {
            std::io::stdin().take(MOST_BYTES).read_to_string(&mut text)
        } else {
            fs::File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        };
        read.map_err(|error| unreadable(path, &error))?;
        Ok(text)
    }
}

const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// A file that is longer ends in the middle, which is an error of its syntax or a missing service: far above any real one.
const MOST_BYTES: u64 = 16 << 20;

//! The policies folder: every `*.yaml` and `*.yml` directly inside, in the order of their names, as text.
//! One file that cannot be read refuses the folder: the set would be incomplete without it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sidegate_codes::Code;

use super::read_bounded;
use crate::problem::Problem;

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyFile {
    /// As messages name it: `policies/payments.yaml`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Reads the folder as it is now.
pub(crate) fn read(folder: &Path) -> Result<Vec<PolicyFile>, Vec<Problem>> {
    let paths = list(folder).map_err(|problem| vec![problem])?;
    let mut files = Vec::with_capacity(paths.len());
    let mut problems = Vec::new();
    for path in paths {
        let name = display_name(folder, &path);
        match read_bounded(&path, MAX_FILE_BYTES) {
            Ok(text) => files.push(PolicyFile { name, text }),
            Err(error) => problems.push(unreadable(name, &error)),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let name = || folder.display().to_string();
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(name(), &error))? {
        let path = entry.map_err(|error| unreadable(name(), &error))?.path();
        if is_policy_file(&path) {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        let message = format!("holds {} files, more than {MAX_FILES}", paths.len());
        return Err(Problem::of_file(Code::PolicyTooLarge, name(), message));
    }
    paths.sort();
    Ok(paths)
}

/// Hidden files are an editor's or a mount's own (`.payments.yaml.swp`, `..data`).
fn is_policy_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}

fn display_name(folder: &Path, path: &Path) -> String {
    let folder = folder.file_name().unwrap_or_default();
    let file = path.file_name().unwrap_or_default();
    Path::new(folder).join(file).display().to_string()
}

fn unreadable(name: String, error: &std::io::Error) -> Problem {
    Problem::of_file(Code::PolicyUnreadable, name, error.to_string())
}

const MAX_FILES: usize = 10_000;
const MAX_FILE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_files_are_read_in_the_order_of_their_names_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", ".a.yaml.swp", ".hidden.yaml", "notes.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let files = read(folder.path()).unwrap();
        let texts: Vec<_> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.yaml", "b.yml"]);
        assert!(files[0].name.ends_with("/a.yaml"), "{}", files[0].name);
    }

    #[test]
    fn one_unreadable_file_refuses_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "").unwrap();
        fs::write(folder.path().join("b.yaml"), [0xff]).unwrap();
        let problems = read(folder.path()).unwrap_err();
        assert_eq!(problems[0].code, Code::PolicyUnreadable);
        assert!(problems[0].file.ends_with("b.yaml"));
    }

    #[test]
    fn a_missing_folder_is_an_error_and_not_an_empty_set() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")).unwrap_err()[0].code, Code::PolicyUnreadable);
    }
}

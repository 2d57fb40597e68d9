//! The policies folder: every `*.yaml` and `*.yml` directly inside, in the order of their names.
//! One file that cannot be read refuses the folder: the set would be incomplete without it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use sidegate_codes::Code;
use sidegate_policy::{FILE_BYTES, SET_BYTES, SET_FILES};

use crate::problem::Problem;

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyFile {
    /// As messages name it: `policies/payments.yaml`.
    pub(crate) name: String,
    /// One that is too large is held as far as its parser needs, to say so.
    pub(crate) text: Vec<u8>,
}

/// Reads the folder as it is now.
pub(crate) fn read(folder: &Path) -> Result<Vec<PolicyFile>, Vec<Problem>> {
    let paths = list(folder).map_err(|problem| vec![problem])?;
    let mut files = Vec::with_capacity(paths.len());
    let mut problems = Vec::new();
    let mut bytes = 0;
    for path in paths {
        let name = display_name(folder, &path);
        match first_bytes(&path) {
            Ok(text) => {
                bytes += text.len();
                files.push(PolicyFile { name, text });
            }
            Err(error) => problems.push(unreadable(name, &error)),
        }
        if bytes > SET_BYTES {
            return Err(vec![too_much(folder, "bytes", SET_BYTES)]);
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
    if paths.len() > SET_FILES {
        return Err(too_much(folder, "files", SET_FILES));
    }
    paths.sort();
    Ok(paths)
}

fn first_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_much(folder: &Path, what: &str, most: usize) -> Problem {
    let message = format!("holds more than {most} {what}");
    Problem::of_file(Code::PolicyTooLarge, folder.display().to_string(), message)
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
        let texts: Vec<_> = files.iter().map(|file| file.text.as_slice()).collect();
        assert_eq!(texts, [b"a.yaml".as_slice(), b"b.yml"]);
        assert!(files[0].name.ends_with("/a.yaml"), "{}", files[0].name);
    }

    #[test]
    fn one_unreadable_file_refuses_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "").unwrap();
        fs::create_dir(folder.path().join("b.yaml")).unwrap();
        let problems = read(folder.path()).unwrap_err();
        assert_eq!(problems[0].code, Code::PolicyUnreadable);
        assert!(problems[0].file.ends_with("b.yaml"));
    }

    #[test]
    fn a_file_is_read_no_further_than_its_parser_needs_and_a_folder_no_further_than_a_set_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let zeros = |name: &str| {
            // None of it is on the disk.
            fs::File::create(folder.path().join(name)).unwrap().set_len(1 << 40).unwrap();
        };
        zeros("a.yaml");
        assert_eq!(read(folder.path()).unwrap()[0].text.len(), FILE_BYTES + 1);
        (0..SET_BYTES / FILE_BYTES).for_each(|number| zeros(&format!("b{number}.yaml")));
        let problems = read(folder.path()).unwrap_err();
        assert_eq!(problems[0].code, Code::PolicyTooLarge);
        assert_eq!(problems[0].message, "holds more than 67108864 bytes");
    }

    #[test]
    fn a_missing_folder_is_an_error_and_not_an_empty_set() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")).unwrap_err()[0].code, Code::PolicyUnreadable);
    }
}

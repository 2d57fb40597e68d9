//! `env_file` of a service: the files that it names, and what they set. A file that must be there and is not, and a path that only
//! a variable says, are refused: what stands in it would be guessed past.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::variables::with_defaults;
use crate::compose::yaml::Node;

/// One file of variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvFile {
    path: PathBuf,
    /// Whether Compose refuses to start without it.
    is_required: bool,
}

/// A path, a list of paths, or of `{path, required, format}`.
pub(crate) fn env_files(node: Option<&Node>) -> Result<Vec<EnvFile>, String> {
    let entries = match node {
        None | Some(Node::Null) => return Ok(Vec::new()),
        Some(Node::List(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    entries.iter().map(env_file).collect()
}

fn env_file(entry: &Node) -> Result<EnvFile, String> {
    let path = entry.scalar().or_else(|| entry.get("path")?.scalar());
    let path = with_defaults(&path.ok_or("an entry of `env_file` has no path")?);
    if path.contains('$') {
        return Err(format!("`env_file: {path}` is named by a variable without a default"));
    }
    let is_required = entry.get("required") != Some(&Node::Bool(false));
    Ok(EnvFile { path: path.into(), is_required })
}

impl EnvFile {
    /// What it sets, in its order; `folder` is where the Compose file stands.
    pub(crate) fn read(&self, folder: &Path) -> Result<Vec<(String, String)>, String> {
        let path = folder.join(&self.path);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(variables(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_required => Ok(Vec::new()),
            Err(error) => Err(format!("`env_file: {}` cannot be read: {error}", self.path.display())),
        }
    }
}

/// Lines of `NAME=value` or `export NAME=value`, values in quotes or followed by a comment or neither.
fn variables(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), with_defaults(unquoted(value.trim()))))
        .collect()
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((inside, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inside;
        }
    }
    value.split_once(" #").map_or(value, |(value, _)| value.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::yaml;

    fn of(text: &str) -> Result<Vec<EnvFile>, String> {
        env_files(Some(&yaml::parse(text).unwrap()))
    }

    #[test]
    fn files_are_named_in_every_form_that_compose_takes() {
        let file = |path: &str, is_required| EnvFile { path: path.into(), is_required };
        assert_eq!(of("a.env").unwrap(), [file("a.env", true)]);
        assert_eq!(of("[a.env, '${STAGE:-dev}.env']").unwrap(), [file("a.env", true), file("dev.env", true)]);
        assert_eq!(of("[{path: a.env, required: false, format: raw}]").unwrap(), [file("a.env", false)]);
        assert_eq!(of("null").unwrap(), []);
        for text in ["'${STAGE}.env'", "[[a]]", "[{required: true}]"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_sets_what_its_lines_say() {
        let text =
            "# DB=none\nexport A=http://orders:8080 # why\n B = 'x # y' \nC=\"z\"\nD=${HOST:-db}\n\nE\nF=\n";
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted =
            [set("A", "http://orders:8080"), set("B", "x # y"), set("C", "z"), set("D", "db"), set("F", "")];
        assert_eq!(variables(text), wanted);
    }

    #[test]
    fn only_a_file_that_may_be_missing_is_missed_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let (needed, not_needed) = (of("a.env").unwrap(), of("[{path: a.env, required: false}]").unwrap());
        assert_eq!(not_needed[0].read(folder.path()), Ok(Vec::new()));
        assert!(needed[0].read(folder.path()).unwrap_err().contains("a.env"));
        fs::write(folder.path().join("a.env"), "A=1").unwrap();
        assert_eq!(needed[0].read(folder.path()).unwrap(), [("A".to_owned(), "1".to_owned())]);
    }
}

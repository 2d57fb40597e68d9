//! Changes of what a rule matched: header fields, and the path. Pure.

use http::HeaderMap;

use crate::config::{HeaderChanges, PathChange};

/// Sets, adds and removes; no field is in two of the three.
pub(super) fn headers(fields: &mut HeaderMap, changes: &HeaderChanges) {
    for (name, value) in &changes.set {
        fields.insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        fields.append(name, value.clone());
    }
    for name in &changes.remove {
        fields.remove(name);
    }
}

/// The path in place of `path`, of which the first `prefix` bytes matched; `None`: it stays. `OPTIONS *` asks for no path
/// (RFC 9110 §9.3.7), so there is none to change.
pub(super) fn path(path: &str, prefix: usize, change: &PathChange) -> Option<String> {
    if path == "*" {
        return None;
    }
    match change {
        PathChange::Full(full) => Some(full.clone()),
        PathChange::Prefix(to) => {
            let rest = path.get(prefix..).unwrap_or_default();
            let changed = format!("{to}{rest}");
            Some(if changed.is_empty() { "/".to_owned() } else { changed })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::PathMode, http::normalize};

    /// As the file reads them: without a trailing slash.
    fn replaced(path: &str, prefix: &str, to: &str) -> String {
        let bare = |text: &str| text.trim_end_matches('/').to_owned();
        super::path(path, bare(prefix).len(), &PathChange::Prefix(bare(to))).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_gateway_api_says() {
        for (path, prefix, to, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
            ("/", "/", "/xyz", "/xyz/"),
        ] {
            assert_eq!(replaced(path, prefix, to), want, "{path} {prefix} {to}");
        }
    }

    #[test]
    fn a_question_to_the_whole_server_has_no_path_to_change() {
        assert_eq!(path("*", 0, &PathChange::Full("/a".to_owned())), None);
    }

    fn canonical(mode: PathMode) -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/a", "/b.c", "/..a", "/%C3%A9", "/%25", "/%2F", "/x;y", "/41", "/.", "/..", "e",
        ]);
        prop::collection::vec(piece, 1..6).prop_filter_map("canonical", move |pieces| {
            let path = pieces.concat();
            normalize(&path, mode).ok().map(std::borrow::Cow::into_owned)
        })
    }

    proptest! {
        /// Whichever segment boundary matched, and however the port reads paths.
        #[test]
        fn a_changed_path_never_leaves_the_canonical_form(
            (mode, path) in prop::sample::select(vec![PathMode::Strict, PathMode::Compatible])
                .prop_flat_map(|mode| (Just(mode), canonical(mode))),
            to in canonical(PathMode::Strict),
            cut in any::<prop::sample::Index>(),
        ) {
            let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect();
            let prefix = *cut.get(&ends);
            let to = to.trim_end_matches('/').to_owned();
            let changed = super::path(&path, prefix, &PathChange::Prefix(to)).unwrap();
            let normal = normalize(&changed, mode);
            prop_assert_eq!(normal.as_deref(), Ok(changed.as_str()));
        }
    }
}

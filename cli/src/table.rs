//! The forms in which answers are printed: tables for people, one JSON document for programs.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns, full identities.
    Wide,
    /// Exactly one JSON document, `apiVersion: cli.sidegate.dev/v1`.
    Json,
}

/// The version that every JSON document of this program carries.
pub(crate) const API_VERSION: &str = "cli.sidegate.dev/v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    body: T,
}

/// Prints `body` as the one JSON document of this run.
pub(crate) fn print_json<T: Serialize>(kind: &'static str, body: T) -> Result<(), Failure> {
    let mut text = json_text(kind, body);
    text.push('\n');
    print(&text)
}

/// The JSON document as text, without a final newline.
pub(crate) fn json_text<T: Serialize>(kind: &'static str, body: T) -> String {
    serde_json::to_string_pretty(&Document { api_version: API_VERSION, kind, body })
        .expect("the documents of this program have string keys and no failing serializers")
}

/// Prints text on stdout, without colours where they are not wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Columns without borders, as wide as their content: made for `awk` and eyes alike.
pub(crate) fn columns<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String =
        table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()]).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// `value`, or a dash where there is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_leave_no_trailing_spaces() {
        let text = columns(["NAME", "STATE"], [["a".into(), "ok".into()], ["longer".into(), "-".into()]]);
        assert_eq!(text, "NAME    STATE\na       ok\nlonger  -\n");
    }

    #[test]
    fn a_document_says_its_version_and_kind_first() {
        let text = json_text("Proxies", serde_json::json!({"proxies": []}));
        assert_eq!(
            text,
            "{\n  \"apiVersion\": \"cli.sidegate.dev/v1\",\n  \"kind\": \"Proxies\",\n  \"proxies\": []\n}"
        );
    }
}

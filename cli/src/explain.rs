//! `sidegate explain-code`: one code of the enum, told in full. Refuses what is not a code, and lists neighbours.

use serde_json::json;
use sidegate_codes::Code;

use crate::{
    args::Output,
    exit::Exit,
    failure::Failure,
    table::{self, Format},
    terminal::{self, Paint},
};

/// Arguments of `sidegate explain-code`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The code, such as SG0202.
    #[arg(value_name = "CODE")]
    code: String,
    #[command(flatten)]
    output: Output,
}

/// Prints what the code means, why it happens and what to do.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let code: Code = args.code.parse().map_err(|error| unknown(&args.code, &error))?;
    match args.output.output {
        Format::Json => table::print_json(
            "Code",
            json!({
                "code": code.id(), "group": code.group().title(), "title": code.title(),
                "why": code.why(), "next": code.next_step(),
            }),
        )?,
        Format::Table | Format::Wide => table::print(&text(code))?,
    }
    Ok(Exit::Ok)
}

fn text(code: Code) -> String {
    let label = |label| terminal::paint(Paint::Dim, label);
    format!(
        "{}  {}\n  {}  {}\n  {}  {}\n",
        terminal::paint(Paint::Strong, code.id()),
        code.title(),
        label("why "),
        code.why(),
        label("next"),
        code.next_step(),
    )
}

fn unknown(text: &str, error: &sidegate_codes::UnknownCode) -> Failure {
    Failure::new(Exit::Usage, "the code is unknown", error.to_string(), nearest(text)).seen(text)
}

/// Codes of the group that the text seems to mean.
fn nearest(text: &str) -> String {
    let prefix: String = text.to_ascii_uppercase().chars().take(4).collect();
    let group: Vec<&str> =
        Code::ALL.iter().map(|code| code.id()).filter(|id| id.starts_with(&prefix)).collect();
    if prefix.is_empty() || group.is_empty() {
        return "`sidegate reference error-codes` lists every code".to_owned();
    }
    format!("codes of this group: {}; try `sidegate explain-code {}`", group.join(" "), group[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_names_its_neighbours() {
        assert!(nearest("SG0299").contains("SG0202"));
        assert!(!nearest("SG0299").contains("SG0301"));
        assert!(nearest("nonsense").contains("reference error-codes"));
        assert!(nearest("").contains("reference error-codes"));
    }
}

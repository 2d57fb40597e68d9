//! `sidegate reference` and `sidegate completion`: pages and scripts generated from the code itself, so that they
//! cannot disagree with it.

mod metrics;
mod schema;

use std::fmt::Write;

use clap::CommandFactory;
use sidegate_codes::{Code, Group};

use crate::{args::Cli, exit::Exit, failure::Failure, table};

/// A generated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Page {
    /// Every code: what, why, next step.
    #[value(alias = "errors")]
    ErrorCodes,
    /// Every command with its help.
    Cli,
    /// Every field of a sidecar's file.
    Config,
    /// Every field of the control plane's `mesh.yaml`.
    Mesh,
    /// Every field of a policy.
    Policy,
    /// Every metric of the sidecar and of the control plane.
    Metrics,
}

/// The form of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Markdown,
    /// The JSON Schema of a file, for editors; only of `config`, `mesh` and `policy`.
    Json,
}

/// Prints a page.
pub(crate) fn run(page: Page, form: Form) -> Result<Exit, Failure> {
    let text = match (page, form) {
        (Page::Config, Form::Json) => json(&sidegate_proxy::config::schema()),
        (Page::Mesh, Form::Json) => json(&sidegate_control_plane::config::schema()),
        (Page::Policy, Form::Json) => json(&sidegate_policy::schema()),
        (Page::ErrorCodes | Page::Cli | Page::Metrics, Form::Json) => return Err(no_json()),
        (Page::ErrorCodes, Form::Markdown) => error_codes(),
        (Page::Cli, Form::Markdown) => cli(),
        (Page::Config, Form::Markdown) => config(),
        (Page::Mesh, Form::Markdown) => mesh(),
        (Page::Policy, Form::Markdown) => policy(),
        (Page::Metrics, Form::Markdown) => metrics::page(),
    };
    table::print(&text).map(|()| Exit::Ok)
}

/// Prints a completion script.
pub(crate) fn completion(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sidegate", &mut script);
    table::print(&String::from_utf8_lossy(&script)).map(|()| Exit::Ok)
}

fn error_codes() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         The same code appears in logs, metrics, API answers and the CLI; `sidegate explain-code SG0202` prints one.\n\
         A released code keeps its meaning and is never used for another.\n\n\
         <!-- Generated: sidegate reference error-codes > docs/reference/error-codes.md -->\n",
    );
    for group in Group::ALL {
        let codes: Vec<_> = Code::ALL.iter().filter(|code| code.group() == group).collect();
        if codes.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {}xx {}\n", group.prefix(), group.title());
        for code in codes {
            let _ = write!(
                page,
                "\n### {code}\n\n**{}**\n\n{}\n\nNext: {}\n",
                capitalised(code.title()),
                code.why(),
                code.next_step()
            );
        }
    }
    page
}

fn cli() -> String {
    let mut page = String::from(
        "# The `sidegate` command\n\n\
         Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 findings or failed checks, 2 usage,\n\
         3 control plane not reachable, 4 denied.\n\n\
         <!-- Generated: sidegate reference cli > docs/reference/cli.md -->\n",
    );
    // A fixed width: the page must not depend on the terminal that printed it.
    let mut command = Cli::command().term_width(100).max_term_width(100).disable_help_subcommand(true);
    command.build();
    section(&mut page, &mut command, "sidegate");
    page
}

fn section(page: &mut String, command: &mut clap::Command, path: &str) {
    let help = command.render_long_help().to_string();
    let help: String = help.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    let _ = write!(page, "\n## {path}\n\n```text\n{}\n```\n", help.trim_end());
    for subcommand in command.get_subcommands_mut().filter(|subcommand| !subcommand.is_hide_set()) {
        let path = format!("{path} {}", subcommand.get_name());
        section(page, subcommand, &path);
    }
}

fn config() -> String {
    let page = "# The sidecar's file\n\n\
                `sidegate proxy --config FILE --check` checks one. An editor completes it with the JSON Schema that\n\
                `sidegate reference config -o json` prints.\n\n\
                <!-- Generated: sidegate reference config > docs/reference/config.md -->\n";
    page.to_owned() + &schema::sections("The file", sidegate_proxy::config::schema().as_value())
}

fn mesh() -> String {
    let page = "# `mesh.yaml`, the control plane's file\n\n\
                An editor completes it with the JSON Schema that `sidegate reference mesh -o json` prints.\n\n\
                <!-- Generated: sidegate reference mesh > docs/reference/mesh.md -->\n";
    page.to_owned() + &schema::sections("The file", sidegate_control_plane::config::schema().as_value())
}

fn policy() -> String {
    let page = "# Policies, field by field\n\n\
                What the fields mean together is told in [policy.md](../policy.md). An editor completes policies with the JSON\n\
                Schema that `sidegate reference policy -o json` prints: with the YAML language server, save it as\n\
                `policy.schema.json` and begin a file with `# yaml-language-server: $schema=policy.schema.json`.\n\n\
                <!-- Generated: sidegate reference policy > docs/reference/policy.md -->\n";
    let kinds = ["AuthorizationPolicy", "EgressPolicy", "PlaintextException"];
    page.to_owned() + &schema::sections_of(&kinds, sidegate_policy::schema().as_value())
}

fn json(document: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("a schema is JSON already");
    text.push('\n');
    text
}

fn no_json() -> Failure {
    Failure::new(
        Exit::Usage,
        "this page has no JSON form",
        "only files have a schema",
        "sidegate reference config -o json",
    )
}

fn capitalised(title: &str) -> String {
    let mut chars = title.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

//! What a person can type. Every command's long help ends with an example that works.

use clap::{Args, Parser, Subcommand};

use crate::{
    api::client::ApiUrl,
    certs, check, demo, explain, explain_call,
    get::What,
    policy, quarantine,
    reference::{Form, Page},
    table::Format,
    token,
};

/// Sidegate: a zero-trust service mesh. Sidecars beside your services speak mutual TLS, and nothing passes
/// that a policy does not allow.
///
/// Without a command: the state of the mesh in ten lines and what to do next.
#[derive(Debug, Parser)]
#[command(
    name = "sidegate",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = "Examples:
  sidegate demo                 a whole mesh on this machine, with a live table
  sidegate check                is everything as it should be, and if not, what to do
  sidegate get edges            who talks to whom, under which policy and rule
  sidegate explain shop/web shop/cart --path /cart --mesh mesh.yaml
                                would it be let in, by which rule, and why
  sidegate policy lint policies/
                                rules that cannot mean what they say
  sidegate explain-code SG0202  what a code in a log line means

Exit codes:
  0 done   1 findings or failed checks   2 usage   3 control plane not reachable   4 denied

Answers go to stdout, everything else to stderr. NO_COLOR is honoured."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) read: Read,
}

/// How the control plane is read and its answer printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Read {
    /// The control plane's API; loopback only for now.
    #[arg(long, value_name = "URL", env = "SIDEGATE_API", default_value = "http://127.0.0.1:15180")]
    pub(crate) api: ApiUrl,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The form of an answer.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole mesh on this machine: control plane, services, sidecars, load, and attackers.
    ///
    /// Everything runs as real processes on loopback, from this one executable, in a temporary folder that is
    /// removed at the end. The table shows who talks to whom, the TLS state, the verdict, and the policy and rule
    /// that decided. Edit a file in the policies folder it prints and watch the verdicts change. Ctrl-C ends it.
    #[command(after_long_help = "Examples:
  sidegate demo
  sidegate demo --check --for 20s -o json    prove every promise, exit 1 if one is broken
  sidegate demo --keep                       leave the folder with configs and logs behind")]
    Demo(demo::Args),

    /// Show the state of the mesh: control plane, policies, sidecars.
    #[command(after_long_help = "Examples:
  sidegate status
  sidegate status -o wide     with every sidecar
  sidegate status -o json | jq .policies.lastError")]
    Status(Read),

    /// Check that everything is as it should be; each finding has a code, a reason and a fix.
    ///
    /// Without a command: the running mesh.
    #[command(after_long_help = "Examples:
  sidegate check              exit 1 when a check fails, 3 when the control plane cannot be reached
  sidegate check -o json | jq '.checks[] | select(.level != \"ok\")'
  sidegate check manifests compose.yaml k8s/")]
    Check(check::Args),

    /// List what the control plane knows: proxies, policies or edges.
    #[command(after_long_help = "Examples:
  sidegate get proxies
  sidegate get policies -o wide
  sidegate get edges --window 5m -o json")]
    Get {
        #[command(subcommand)]
        what: What,
    },

    /// Explain a call: would it be let in, who decides it, and what to change.
    ///
    /// Judged by the sidecar's own evaluator: on files where `--mesh` or `--policies` names them, or else on what is in force at
    /// the running control plane. Without `--method`, `--path`,
    /// `--host`, `--header` and `--claim` it is an opaque connection. Where DST is outside of the mesh, policies of egress
    /// are asked whether SRC may leave for it. Exit code 4 when the call is denied.
    #[command(after_long_help = "Examples:
  sidegate explain shop/orders shop/payments --method GET --path /charge    in the running mesh
  sidegate explain shop/orders shop/payments --method POST --path /charge --mesh mesh.yaml
  sidegate explain shop/orders shop/payments --port 5432 --policies policies/ --trust-domain shop.test
  sidegate explain spiffe://partner.test/batch shop/payments --path /export --mesh mesh.yaml -o json
  sidegate explain shop/payments api.cards.test:443 --as sni --mesh mesh.yaml")]
    Explain(explain_call::Args),

    /// Check and test policies on files, before they are in force.
    #[command(after_long_help = "Examples:
  sidegate policy lint --mesh mesh.yaml
  sidegate policy test tests/*.yaml")]
    Policy {
        #[command(subcommand)]
        what: policy::What,
    },

    /// Refuse an identity everywhere at once, list who is refused, let one back in.
    ///
    /// Written to the file that `quarantine` in mesh.yaml names. A running control plane tells every sidecar within a
    /// second; each cuts the open connections of the identity, and nothing is issued to it.
    #[command(after_long_help = "Examples:
  sidegate quarantine add shop/orders --reason 'key in a public bucket, INC-7'
  sidegate quarantine list
  sidegate quarantine lift shop/orders --reissue")]
    Quarantine {
        #[command(subcommand)]
        what: quarantine::What,
    },

    /// Make, list, replace and take back join tokens: what a workload proves its identity with the first time.
    ///
    /// Kept in the state folder that mesh.yaml names, as SHA-256 alone; run it as the folder's user, whether the control
    /// plane is running or not, also before it has ever run.
    #[command(after_long_help = "Examples:
  sidegate token create shop/payments --out payments.token
  sidegate token list
  sidegate token rotate 3f1c9a0b52d4e871 --out payments.token
  sidegate token revoke 3f1c9a0b52d4e871")]
    Token {
        #[command(subcommand)]
        what: token::What,
    },

    /// Look into the registry of issued certificates: who had one when, who was refused, is it whole.
    ///
    /// Read from the state folder that mesh.yaml names, as its own user, whether the control plane is running or not.
    #[command(after_long_help = "Examples:
  sidegate certs list --id shop/payments --at 2026-11-22T10:00:00Z
  sidegate certs show 01019abc -o json
  sidegate certs verify")]
    Certs {
        #[command(subcommand)]
        what: certs::What,
    },

    /// Run a sidecar (the same as `sidegate-proxy`).
    #[command(after_long_help = "Examples:
  sidegate proxy --config sidecar.yaml")]
    Proxy(sidegate_proxy::cli::Args),

    /// Run the control plane (the same as `sidegate-control-plane`).
    #[command(after_long_help = "Examples:
  sidegate control-plane --config mesh.yaml")]
    ControlPlane(sidegate_control_plane::cli::Args),

    /// Explain a code from a log line, a metric or an answer: what happened, why, what to do.
    #[command(after_long_help = "Examples:
  sidegate explain-code SG0202
  sidegate explain-code sg0305 -o json")]
    ExplainCode(explain::Args),

    /// Put a mesh around the services of a Docker Compose file.
    ///
    /// Three commands, no privileges, no change to the applications: `init` once, `inject` after each change of the file, then
    /// `docker compose up` with the file it writes.
    #[command(after_long_help = "Examples:
  sidegate compose init
  sidegate compose inject
  docker compose -f compose.yaml -f compose.sidegate.yaml up")]
    Compose {
        #[command(subcommand)]
        what: crate::compose::What,
    },

    /// Print a completion script for a shell.
    #[command(after_long_help = "Examples:
  sidegate completion bash > ~/.local/share/bash-completion/completions/sidegate
  sidegate completion zsh > ~/.zfunc/_sidegate")]
    Completion {
        /// The shell to complete in.
        shell: clap_complete::Shell,
    },

    /// Print the version of this program.
    #[command(after_long_help = "Examples:
  sidegate version -o json")]
    Version(Output),

    /// Print a generated page of the documentation, or the JSON Schema of a file.
    #[command(after_long_help = "Examples:
  sidegate reference metrics > docs/reference/metrics.md
  sidegate reference config -o json > sidecar.schema.json    for an editor")]
    Reference {
        /// The page.
        page: Page,
        /// The form of the page.
        #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
        output: Form,
    },

    /// One process of the demo; started by the demo itself.
    #[command(hide = true)]
    DemoPart(demo::parts::PartArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_teaches_by_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("sidegate {}", command.get_name())), "{}", command.get_name());
        }
    }
}

//! `sidegate policy`: what can be said of policies from their files alone. Nothing here asks the control plane.

pub(crate) mod files;
mod lint;
mod sarif;
mod test;

use crate::{exit::Exit, failure::Failure};

/// What to do with policies.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum What {
    /// Find rules that cannot mean what they say: duplicate, shadowed, covered by a Deny, too broad, over, for nobody.
    ///
    /// A finding holds for every request; where the question is hard, nothing is claimed. With `--mesh` the policies
    /// are compared with the services that there are. Exit code 1 if anything is found.
    #[command(after_long_help = "Examples:
  sidegate policy lint policies/
  sidegate policy lint --mesh mesh.yaml
  sidegate policy lint policies/ --allow any-caller
  sidegate policy lint policies/ -o sarif > policies.sarif")]
    Lint(lint::Args),

    /// Run unit tests of policies: requests, and what each must get.
    ///
    /// A test file names a workload, policies (inline, or the path of a file or folder beside it) and requests, each
    /// with what it wants. Only what `want` says is compared. Exit code 1 if a test fails.
    #[command(after_long_help = "Examples:
  sidegate policy test tests/payments.yaml
  sidegate policy test tests/*.yaml -o json

A test file:
  cases:
  - name: orders may charge and not refund
    workload: {namespace: shop, labels: {app: payments}, trustDomain: shop.test}
    policies: ../policies
    requests:
    - {from: shop/orders, http: {method: POST, path: /charge}, want: {verdict: Allow, rule: orders-charge}}
    - {from: shop/orders, http: {method: POST, path: /refund}, want: {verdict: Deny, code: SG0202}}")]
    Test(test::Args),
}

/// Runs the command.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Lint(args) => lint::run(args),
        What::Test(args) => test::run(args),
    }
}

//! `sidegate policy`: what can be said of policies from their files alone. Nothing here asks the control plane.

pub(crate) mod called;
pub(crate) mod files;
mod lint;
mod reach;
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

    /// List the callers that a workload lets in, each with an example call and the rule that lets it in.
    ///
    /// Callers are the services of `mesh.yaml` and the identities that policies name; the calls tried are those that
    /// Allow rules describe. Each line was judged by the sidecar's own evaluator. Rules that are open to callers
    /// nobody names are listed apart.
    #[command(
        name = "who-can-reach",
        after_long_help = "Examples:
  sidegate policy who-can-reach shop/payments --mesh mesh.yaml
  sidegate policy who-can-reach shop/payments --method DELETE --path /charge --mesh mesh.yaml
  sidegate policy who-can-reach shop/payments policies/ --trust-domain shop.test -o json"
    )]
    Callers(reach::WhoArgs),

    /// List the services that let an identity in, each with an example call and the rule that lets it in.
    #[command(
        name = "what-can",
        after_long_help = "Examples:
  sidegate policy what-can shop/orders --mesh mesh.yaml
  sidegate policy what-can spiffe://partner.test/batch --mesh mesh.yaml -o json"
    )]
    Callees(reach::WhatArgs),
}

/// Runs the command.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Lint(args) => lint::run(args),
        What::Test(args) => test::run(args),
        What::Callers(args) => reach::who(args),
        What::Callees(args) => reach::what(args),
    }
}

//! `sidegate policy`: what can be said of policies from their files, and from what was recorded of calls. The control plane is asked
//! for edges alone, and for none where they come from a file.

pub(crate) mod called;
mod diff;
pub(crate) mod files;
mod import;
mod lint;
mod observed;
pub(crate) mod outside;
mod reach;
mod simulate;
mod suggest;
mod test;
mod unused;
mod world;

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

    /// Show what one set of policies lets in, or out of the mesh, and another does not, each difference with an example.
    ///
    /// One request of each kind that either set tells apart is judged in both by the sidecar's own evaluator. Where there is
    /// no difference and the answer does not say that something was left out, there is none for any request. Exit code 1
    /// if anything differs.
    #[command(after_long_help = "Examples:
  sidegate policy diff policies/ proposed/ --mesh mesh.yaml
  sidegate policy diff policies/ proposed/ --trust-domain shop.test -o json")]
    Diff(diff::Args),

    /// Replay recorded calls under proposed policies: what would break, what would open.
    ///
    /// Of a call as much is known as was recorded: edges of the control plane have a route, access logs have method and path.
    /// Where the answer depends on the rest, it says so. Exit code 1 if a recorded call would be decided otherwise.
    #[command(after_long_help = "Examples:
  sidegate policy simulate proposed/ --mesh mesh.yaml
  sidegate policy simulate proposed/ --edges edges.jsonl --mesh mesh.yaml -o json")]
    Simulate(simulate::Args),

    /// Propose the narrowest Allow policies that let in what was recorded.
    ///
    /// Each line carries its evidence. Of paths, numbers, UUIDs and segments of many values become {id}. Nothing is put in
    /// force: read it, then try it with `policy diff` and `policy simulate`.
    #[command(after_long_help = "Examples:
  sidegate policy suggest --mesh mesh.yaml > proposed/observed.yaml
  sidegate policy suggest shop/payments --edges access.jsonl --trust-domain shop.test")]
    Suggest(suggest::Args),

    /// List the rules that decided none of the recorded calls.
    #[command(after_long_help = "Examples:
  sidegate policy unused --mesh mesh.yaml
  sidegate policy unused policies/ --edges edges.jsonl -o json")]
    Unused(unused::Args),

    /// List the callers that a workload lets in, each with an example call and the rule that lets it in. Of a destination outside
    /// of the mesh: the services that may leave for it.
    ///
    /// Callers are the services of `mesh.yaml` and the identities that policies name; the calls tried are those that
    /// Allow rules describe. Each line was judged by the sidecar's own evaluator. Rules that are open to callers
    /// nobody names are listed apart.
    #[command(
        name = "who-can-reach",
        after_long_help = "Examples:
  sidegate policy who-can-reach shop/payments --mesh mesh.yaml
  sidegate policy who-can-reach shop/payments --method DELETE --path /charge --mesh mesh.yaml
  sidegate policy who-can-reach api.cards.test:443 --mesh mesh.yaml
  sidegate policy who-can-reach shop/payments policies/ --trust-domain shop.test -o json"
    )]
    Callers(reach::WhoArgs),

    /// List the services that let an identity in, each with an example call and the rule that lets it in; and the
    /// destinations outside of the mesh that it may leave for.
    #[command(
        name = "what-can",
        after_long_help = "Examples:
  sidegate policy what-can shop/orders --mesh mesh.yaml
  sidegate policy what-can spiffe://partner.test/batch --mesh mesh.yaml -o json"
    )]
    Callees(reach::WhatArgs),

    /// Translate the policies of Istio or Linkerd, with a report of what became of each.
    ///
    /// Each construct is translated exactly, or refused with its reason. What grants and is refused is left out; in place of
    /// what denies stands a Deny of everything. Policies go to stdout, the report to stderr. Exit code 1 if anything is
    /// refused.
    #[command(after_long_help = "Examples:
  sidegate policy import istio istio/*.yaml --trust-domain shop.test > policies/imported.yaml
  kubectl get authorizationpolicies,servers -A -o yaml > all.yaml
  sidegate policy import linkerd all.yaml --trust-domain shop.test -o json")]
    Import(import::Args),
}

/// Runs the command.
pub(crate) fn run(what: &What) -> Result<Exit, Failure> {
    match what {
        What::Lint(args) => lint::run(args),
        What::Test(args) => test::run(args),
        What::Diff(args) => diff::run(args),
        What::Simulate(args) => simulate::run(args),
        What::Suggest(args) => suggest::run(args),
        What::Unused(args) => unused::run(args),
        What::Callers(args) => reach::who(args),
        What::Callees(args) => reach::what(args),
        What::Import(args) => import::run(args),
    }
}

/// Seconds since the Unix epoch; before it nothing has expired either.
pub(crate) fn now() -> u64 {
    u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default()
}

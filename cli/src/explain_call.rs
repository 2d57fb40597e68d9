//! `sidegate explain`: would this call be let in, who decides it, and what to change. Judged by the sidecar's own
//! evaluator, on files or on what is in force at a running control plane. Refuses to answer where the answer depends on what was not said.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use sidegate_codes::Code;
use sidegate_policy::{
    Claims, Condition, Decision, Explanation, Http, Operation, PathPattern, Policies, Request, Rule, Source,
    Verdict,
};

use crate::{
    api::client::ApiUrl,
    args::Output,
    exit::Exit,
    failure::Failure,
    policy::{
        called::{Called, label},
        files::{self, Around, Mesh},
        outside::{As, Target},
    },
    table::{self, Format},
};

mod answer;
mod in_force;
mod outside;
mod rules;

use answer::Answer;
use in_force::InForce;
use rules::{RuleAt, Rules};

/// Arguments of `sidegate explain`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Who calls: namespace/account, a SPIFFE ID, or `plaintext`: somebody without TLS.
    #[arg(value_name = "SRC")]
    source: String,
    /// Who is called: namespace/account, or a SPIFFE ID. Or a destination outside of the mesh: HOST:PORT, ADDRESS:PORT.
    #[arg(value_name = "DST")]
    destination: String,
    /// The HTTP method; GET if only a path or a host is given.
    #[arg(long)]
    method: Option<String>,
    /// The path as policies see it: normalised, without query; `/` if only a method or a host is given.
    #[arg(long)]
    path: Option<PathPattern>,
    /// The HTTP host without port.
    #[arg(long)]
    host: Option<String>,
    /// A header as name=value, as often as there are headers; those that are not given are not there.
    #[arg(long, value_name = "HEADER", value_parser = header)]
    header: Vec<(String, String)>,
    /// A claim of the verified token as name=value, as often as there are claims; `iss` is always one. A value that is
    /// JSON is taken as such: `aud=["a","b"]`, `level=3`, `vip=true`; any other is a text. Without any there is no token.
    #[arg(long, value_name = "CLAIM", value_parser = claim)]
    claim: Vec<(String, serde_json::Value)>,
    /// Of an opaque connection: the server name of the application's own TLS, in lower case.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "path", "host", "header", "claim"])]
    sni: Option<String>,
    /// Of a host outside: how it is asked for. Left out: the answer must be the same either way.
    #[arg(long = "as", value_name = "WHAT")]
    how: Option<As>,
    /// Of a host outside: the address that its name has. Left out: any address of the public Internet.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The application's port; left out: the one that `mesh.yaml` gives the service, if it does.
    #[arg(long)]
    port: Option<u16>,
    /// The address that the caller comes from.
    #[arg(long)]
    ip: Option<IpAddr>,
    /// The policies: a folder of YAML files, or one file. Left out: the folder that `mesh.yaml` names.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The control plane's API. It is asked for what is in force where neither --policies nor --mesh is given.
    #[arg(long, value_name = "URL", env = "SIDEGATE_API", default_value = "http://127.0.0.1:15180")]
    api: ApiUrl,
    #[command(flatten)]
    around: Around,
    /// A label of DST as key=value, where there is no `mesh.yaml`; app=ACCOUNT if none is given. If DST is outside, of SRC.
    #[arg(long, value_name = "LABEL", value_parser = label, conflicts_with = "mesh")]
    label: Vec<(String, String)>,
    #[command(flatten)]
    output: Output,
}

/// Exit code 4 when the call is denied.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    if let Some(target) = Target::of(&args.destination) {
        return outside::run(args, &target?);
    }
    args.refuse_what_is_asked_outside()?;
    let (mesh, in_force) = args.read()?;
    let called = Called::of(&args.destination, &mesh, &args.label)?;
    let source = files::caller_of(&args.source, Some(&called.trust_domain))?;
    let read = mesh.policies(args.policies.as_deref(), Some(&called.namespace))?;
    let workload = called.workload(mesh.root_namespace.as_deref());
    let rules = Rules::of(&read.set, &workload);
    args.refuse_to_guess(&rules)?;
    let claims = args.claims()?;

    let port = args.port.or(called.port);
    let host = args.host.as_deref().unwrap_or(&called.account);
    let policies = read.set.compile(&workload);
    let request = Request {
        source: Source { identity: source.as_ref(), ip: args.ip.unwrap_or(IpAddr::from([0, 0, 0, 0])) },
        port: port.unwrap_or_default(),
        http: args.http(host, claims.as_ref()),
        sni: args.sni.as_deref(),
        now: u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default(),
    };
    let quarantined = in_force.as_ref().and_then(|it| it.quarantined(source.as_ref(), &called.identity));
    let explanation = match (quarantined, port) {
        (Some(_), _) => refused_by_quarantine(),
        (None, Some(_)) => policies.explain(&request),
        (None, None) => explain_on_any_port(&policies, &request, &rules)?,
    };
    let answer = Answer {
        source: source.as_ref(),
        called: &called,
        asked: asked(request.http, port),
        in_force: in_force.as_ref(),
        quarantined,
        nearest_at: explanation.nearest.as_deref().and_then(|nearest| rules.at(nearest)),
        explanation,
    };
    match args.output.output {
        Format::Json => table::print_json("Explanation", answer.document(&request))?,
        Format::Table | Format::Wide => table::print(&answer.text(&read))?,
    }
    Ok(match answer.explanation.decision.verdict {
        Verdict::Allow => Exit::Ok,
        Verdict::Deny => Exit::Denied,
    })
}

impl Args {
    /// From files if any are named, or else from the running control plane.
    fn read(&self) -> Result<(Mesh, Option<InForce>), Failure> {
        if self.policies.is_some() || self.around.has_mesh() {
            return Ok((self.around.read()?, None));
        }
        let label = (!self.label.is_empty()).then_some("--label");
        if let Some(option) = self.around.in_place_of_mesh().or(label) {
            let what = format!("{option} says nothing here");
            let why = "neither --policies nor --mesh is given, and the running control plane knows its mesh";
            let next = format!("leave {option} out, or name the policies with --policies DIR");
            return Err(Failure::new(Exit::Usage, what, why, next));
        }
        in_force::ask(&self.api).map(|(mesh, in_force)| (mesh, Some(in_force)))
    }

    /// An opaque connection, unless something of HTTP was given.
    fn http<'a>(&'a self, host: &'a str, claims: Option<&'a Claims>) -> Option<Http<'a>> {
        let is_named = self.method.is_some() || self.path.is_some() || self.host.is_some();
        let is_http = is_named || !self.header.is_empty() || !self.claim.is_empty();
        is_http.then(|| Http {
            method: self.method.as_deref().unwrap_or("GET"),
            host,
            path: self.path.as_ref().map_or("/", PathPattern::as_str),
            headers: &self.header,
            claims,
        })
    }

    /// The token that the claims make.
    fn claims(&self) -> Result<Option<Claims>, Failure> {
        if self.claim.is_empty() {
            return Ok(None);
        }
        let token: serde_json::Map<String, serde_json::Value> = self.claim.iter().cloned().collect();
        Claims::parse(&serde_json::Value::Object(token).to_string()).map(Some).map_err(|error| {
            let next =
                "say whose token it is with --claim iss=ISSUER, and whom it is for with --claim aud=AUDIENCE";
            Failure::new(Exit::Usage, "the claims make no token", error.to_string(), next)
        })
    }

    fn refuse_what_is_asked_outside(&self) -> Result<(), Failure> {
        let given = [("--as", self.how.is_some()), ("--address", self.address.is_some())];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => {
                let why =
                    format!("{} is a workload of the mesh, where no rule asks for it", self.destination);
                let next = "leave it out; a destination outside is HOST:PORT";
                Err(Failure::new(Exit::Usage, format!("{option} says nothing here"), why, next))
            }
        }
    }

    /// A rule that asks for what was not given makes every answer a guess.
    fn refuse_to_guess(&self, rules: &Rules<'_>) -> Result<(), Failure> {
        let is_http = self.http("", None).is_some();
        for RuleAt { rule, source, .. } in rules.about(self.source == files::PLAINTEXT) {
            let asks_host = operations(rule).any(|to| to.hosts.is_some())
                || rule.when.as_ref().is_some_and(Condition::asks_host);
            let asks_ip = rule.from.iter().flat_map(|from| from.iter()).any(|from| from.ip_blocks.is_some());
            for (option, is_missing) in [
                ("--host", asks_host && is_http && self.host.is_none()),
                ("--ip", asks_ip && self.ip.is_none()),
            ] {
                if is_missing {
                    return Err(depends(option, format!("rule {} asks for it ({source})", rule.name)));
                }
            }
        }
        Ok(())
    }
}

/// Peers refuse an identity in quarantine before policies are asked.
fn refused_by_quarantine<'p>() -> Explanation<'p> {
    Explanation { decision: Decision::denied(Code::IdentityQuarantined), nearest: None }
}

/// Ports are few: without one the answer must be the same for all.
fn explain_on_any_port<'p>(
    policies: &'p Policies,
    request: &Request<'_>,
    rules: &Rules<'_>,
) -> Result<Explanation<'p>, Failure> {
    let explanation = policies.explain(request);
    let named = rules.about(request.source.identity.is_none()).flat_map(|RuleAt { rule, source, .. }| {
        let ports = operations(rule).flat_map(|to| to.ports.iter().flat_map(|ports| ports.iter().copied()));
        let asked = rule.when.as_ref().map(Condition::ports).unwrap_or_default();
        ports.chain(asked).map(move |port| (port, (&rule.name, source)))
    });
    for (port, (rule, source)) in named.collect::<BTreeMap<_, _>>() {
        if policies.explain(&Request { port, ..*request }) != explanation {
            let why =
                format!("port {port}, which rule {rule} names ({source}), gets another answer than others");
            return Err(depends("--port", why));
        }
    }
    Ok(explanation)
}

/// What is asked, in a line.
fn asked(http: Option<Http<'_>>, port: Option<u16>) -> String {
    let port = port.map(|port| format!("port {port}"));
    let http =
        http.map_or("an opaque connection".to_owned(), |http| format!("{} {}", http.method, http.path));
    [Some(http), port].into_iter().flatten().collect::<Vec<_>>().join("  ")
}

fn operations(rule: &Rule) -> impl Iterator<Item = &Operation> {
    rule.to.iter().flat_map(|to| to.iter())
}

/// A header as it is typed: `name=value`.
fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a header is name=value, as in x-tenant=a")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A claim as it is typed: `name=value`.
fn claim(text: &str) -> Result<(String, serde_json::Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a claim is name=value, as in scope=charge")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

fn depends(option: &str, why: String) -> Failure {
    Failure::new(Exit::Usage, "the answer depends on what was not given", why, format!("add {option}"))
}

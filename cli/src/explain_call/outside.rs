//! `sidegate explain SRC HOST:PORT`: may a workload leave the mesh for a destination outside, which rule of egress lets it out,
//! and what to change. Refuses to answer where the answer depends on how a name is asked for, or on the address that it has.

use std::{fmt::Write, net::IpAddr, sync::Arc};

use serde_json::json;
use sidegate_codes::Code;
use sidegate_policy::{Decision, Egress, EgressPolicy, EgressRule, HostPattern, OneOf, Sourced, Verdict};

use super::{
    Args,
    answer::{self, rule_at},
    depends,
    in_force::InForce,
};
use crate::{
    exit::Exit,
    failure::Failure,
    policy::{
        called::Called,
        files::{Mesh, Policies},
        now,
        outside::{self, As, Destination, End, Judged, Target, kinds},
    },
    short,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// All that is told.
struct Answer<'a> {
    caller: &'a Called,
    target: &'a Target,
    /// `None`: judged on files.
    in_force: Option<InForce>,
    /// How a name is asked for, if not in either way.
    how: Option<As>,
    /// Where the name has to lead for this answer, if it was not said.
    at: Option<&'static str>,
    judged: Judged<'a>,
    nearest: Option<String>,
    nearest_at: Option<Arc<str>>,
    /// Whether a policy in force selects the caller.
    is_selected: bool,
}

/// Exit code 4 when it may not leave.
pub(super) fn run(args: &Args, target: &Target) -> Result<Exit, Failure> {
    let target = &with_port(target, args.port)?;
    args.refuse_what_egress_does_not_ask(target)?;
    let (mesh, in_force) = args.read()?;
    let caller = Called::of(&args.source, &mesh, &args.label)?;
    let read = mesh.policies(args.policies.as_deref(), Some(&caller.namespace))?;
    let workload = caller.workload(mesh.root_namespace.as_deref());
    let policies: Vec<_> = outside::selecting(&read.set, &workload).collect();
    let egress = read.set.compile_egress(&workload);
    let answer = Answer { in_force, ..judge(args, target, &caller, &mesh, &policies, &egress)? };
    match args.output.output {
        Format::Json => table::print_json("EgressExplanation", answer.document())?,
        Format::Table | Format::Wide => table::print(&answer.text(&read))?,
    }
    Ok(if answer.judged.leaves { Exit::Ok } else { Exit::Denied })
}

fn with_port(target: &Target, port: Option<u16>) -> Result<Target, Failure> {
    match (target.port, port) {
        (Some(written), Some(port)) if written != port => {
            let why = format!("{target} has a port, and --port says {port}");
            Err(Failure::new(Exit::Usage, "the port is said twice", why, "say it once"))
        }
        (None, None) => Err(depends("--port", "a rule of egress is for ports".to_owned())),
        (written, port) => Ok(Target { port: written.or(port), ..target.clone() }),
    }
}

impl Args {
    fn refuse_what_egress_does_not_ask(&self, target: &Target) -> Result<(), Failure> {
        let is_name = matches!(target.end, End::Name(_));
        let given = [
            ("--method", self.method.is_some()),
            ("--path", self.path.is_some()),
            ("--host", self.host.is_some()),
            ("--header", !self.header.is_empty()),
            ("--claim", !self.claim.is_empty()),
            ("--sni", self.sni.is_some()),
            ("--ip", self.ip.is_some()),
            ("--as", self.how.is_some() && !is_name),
            ("--address", self.address.is_some() && !is_name),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => {
                let why = format!("{target} is outside of the mesh, where no rule asks for it");
                let next = format!("leave {option} out");
                Err(Failure::new(Exit::Usage, format!("{option} says nothing here"), why, next))
            }
        }
    }
}

/// The answer, if it is the same for all that was not said.
fn judge<'a>(
    args: &Args,
    target: &'a Target,
    caller: &'a Called,
    mesh: &Mesh,
    policies: &[&Sourced<EgressPolicy>],
    egress: &'a Egress,
) -> Result<Answer<'a>, Failure> {
    let rules = outside::rules(policies);
    let (ways, addresses) = (ways(args, target), addresses(args, target, &rules));
    let judged = |how: Option<As>, ip: IpAddr| {
        let destination = destination(target, how, ip);
        let judged = destination.judge(egress, mesh.egress, &caller.identity, now());
        (judged, destination)
    };
    // There is at least one of each.
    let (how, ip) = (ways[0], addresses[0]);
    let (first, destination) = judged(how, ip);
    for way in &ways {
        if judged(*way, ip).0 != first {
            let why = "it is another one for the host of a request than for the server name of TLS";
            return Err(depends("--as host or --as sni", why.to_owned()));
        }
        if let Some(other) = addresses.iter().find(|other| judged(*way, **other).0 != first) {
            let why = format!("at {other} it is another one than at {ip}");
            return Err(depends("--address, the one that the name has", why));
        }
    }
    let denied = first.decision.verdict == Verdict::Deny;
    let nearest = denied.then(|| destination.nearest(egress, &caller.identity, now())).flatten();
    let named = rules.iter().map(|(sourced, rule, at)| (&**sourced.name(), rule.name.as_str(), *at));
    Ok(Answer {
        caller,
        target,
        in_force: None,
        how: (ways.len() == 1).then_some(how).flatten(),
        at: (matches!(target.end, End::Name(_)) && args.address.is_none() && first.leaves)
            .then_some("a public address, and not one of the mesh's own hosts: the name leads nowhere else"),
        nearest_at: nearest.as_deref().and_then(|nearest| rule_at(nearest, named)),
        nearest,
        judged: first,
        is_selected: egress.selects(),
    })
}

fn ways(args: &Args, target: &Target) -> Vec<Option<As>> {
    match (&target.end, args.how) {
        (End::Address(_), _) => vec![None],
        (End::Name(_), Some(how)) => vec![Some(how)],
        (End::Name(_), None) => vec![Some(As::Host), Some(As::Sni)],
    }
}

/// What a name may lead to: the one address that was said, or a public one and those that rules for the name mean beside it.
fn addresses(
    args: &Args,
    target: &Target,
    rules: &[(&Sourced<EgressPolicy>, &EgressRule, &Arc<str>)],
) -> Vec<IpAddr> {
    match (&target.end, args.address) {
        (End::Address(ip), _) => vec![*ip],
        (End::Name(_), Some(ip)) => vec![ip.to_canonical()],
        (End::Name(name), None) => {
            let takes = |list: &Option<OneOf<HostPattern>>| {
                list.iter().flat_map(|list| list.iter()).any(|pattern| pattern.matches(name))
            };
            let destinations = rules.iter().flat_map(|(_, rule, _)| rule.to.iter());
            let named = destinations.filter(|to| takes(&to.hosts) || takes(&to.sni));
            let blocks = named.flat_map(|to| to.ip_blocks.iter().flat_map(|blocks| blocks.iter()));
            let first = blocks.filter_map(|block| block.to_string().split('/').next()?.parse().ok());
            kinds::SOMEWHERE.into_iter().chain(first).collect()
        }
    }
}

fn destination(target: &Target, how: Option<As>, ip: IpAddr) -> Destination {
    let name = match (&target.end, how) {
        (End::Name(name), Some(how)) => Some((how, name.clone())),
        _ => None,
    };
    Destination { name, ip, port: target.port.unwrap_or_default(), in_mesh: false }
}

impl Answer<'_> {
    fn document(&self) -> serde_json::Value {
        let Decision { verdict, code, policy, rule, source, shadow, shadow_policy, shadow_rule, .. } =
            self.judged.decision;
        let (host, address) = match &self.target.end {
            End::Name(name) => (Some(name), None),
            End::Address(ip) => (None, Some(ip)),
        };
        let how = self.how.map(|how| if how == As::Host { "host" } else { "sni" });
        json!({
            "verdict": if self.judged.leaves { "Allow" } else { "Deny" },
            "code": code.map(Code::id), "policy": policy, "rule": rule, "at": source,
            "byDefault": self.judged.leaves && verdict == Verdict::Deny,
            "nearest": self.nearest, "nearestAt": self.nearest_at, "change": self.change(),
            "shadow": shadow.map(answer::word), "shadowPolicy": shadow_policy, "shadowRule": shadow_rule,
            "inForce": self.in_force,
            "request": {
                "source": self.caller.identity.as_str(), "labels": self.caller.labels,
                "host": host, "address": address, "port": self.target.port, "as": how,
            },
        })
    }

    fn text(&self, files: &Policies) -> String {
        let Decision { code, source, .. } = self.judged.decision;
        let verdict =
            if self.judged.leaves { paint(Paint::Good, "ALLOW") } else { paint(Paint::Bad, "DENY") };
        let arrow = match Charset::from_env() {
            Charset::Unicode => "→",
            Charset::Ascii => "->",
        };
        let how = match (&self.target.end, self.how) {
            (End::Address(_), _) => "by address",
            (End::Name(_), Some(As::Host)) => "as the host of a request",
            (End::Name(_), Some(As::Sni)) => "as the server name of TLS",
            (End::Name(_), None) => "as a host or a server name",
        };
        let from = short::identity(Some(self.caller.identity.as_str()));
        let code = code.map_or_else(String::new, |code| format!("  {code}"));
        let mut text = format!("{verdict}  {from} {arrow} {}  {how}{code}\n", self.target);
        for (label, value, place) in [
            ("caller", Some(self.caller.to_string()), None),
            ("judged on", self.in_force.as_ref().map(ToString::to_string), None),
            ("decided by", Some(self.decided_by()), source),
            ("at", self.at.map(str::to_owned), None),
            ("nearest", self.nearest.clone(), self.nearest_at.as_ref()),
            ("shadow", answer::shadow(&self.judged.decision), None),
            ("to allow", self.change(), None),
        ] {
            let Some(value) = value else { continue };
            let at = place.map_or_else(String::new, |place| format!(" ({place})"));
            let _ = writeln!(text, "  {}  {value}{at}", paint(Paint::Dim, &format!("{label:<10}")));
            text.push_str(&place.map_or_else(String::new, |place| files.snippet(place)));
        }
        text
    }

    fn decided_by(&self) -> String {
        let Decision { verdict, policy, rule, .. } = self.judged.decision;
        match (rule, policy, verdict) {
            (Some(rule), Some(policy), _) => format!("rule {rule} of {policy}"),
            _ if self.judged.leaves => {
                "`egress: Allow`, as no rule names it; it is recorded as would_deny".to_owned()
            }
            _ if self.is_selected => "no rule of egress names it".to_owned(),
            _ => "no policy of egress selects the caller".to_owned(),
        }
    }

    /// What to change for it to be let out.
    fn change(&self) -> Option<String> {
        if self.judged.decision.verdict == Verdict::Allow {
            return None;
        }
        Some(match &self.nearest_at {
            Some(nearest) => format!("widen the rule at {nearest} by what it missed, or add one"),
            None if self.is_selected => format!("add a rule to an EgressPolicy that selects {}", self.caller),
            None => format!(
                "write an EgressPolicy in namespace {} that selects {}",
                self.caller.namespace, self.caller
            ),
        })
    }
}

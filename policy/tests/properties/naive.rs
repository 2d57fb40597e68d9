//! The language once more, written from `docs/policy.md` sentence by sentence, as slowly as it reads. It shares no
//! code with the engine but the parsed model, and matches on the text of patterns and blocks.

use std::{collections::BTreeMap, net::IpAddr};

mod token;
mod when;

use sidegate_policy::{
    Action, AuthorizationPolicy, Grpc, Metadata, Mode, Operation, Peer, PlaintextException, Request, Rule,
};

/// A workload as the page speaks of it.
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) trust_domain: &'a str,
    pub(crate) root_namespace: Option<&'a str>,
}

/// What was decided: the code (or "Allow"), the policy, the rule and the path pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) code: &'static str,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) pattern: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
enum Answer {
    No,
    CannotTell,
    Yes(Option<String>),
}

/// "The first stage that decides wins."
pub(crate) fn judge(
    policies: &[AuthorizationPolicy],
    exceptions: &[PlaintextException],
    place: &Place<'_>,
    request: &Request<'_>,
    shadow_too: bool,
) -> Judged {
    let mut selected: Vec<&AuthorizationPolicy> = policies
        .iter()
        .filter(|policy| selects(&policy.metadata, policy.spec.selector.as_ref(), place))
        .filter(|policy| shadow_too || policy.spec.mode == Mode::Enforce)
        .collect();
    selected.sort_by_key(|policy| full_name(&policy.metadata));
    let of = |action: Action| selected.iter().copied().filter(move |policy| policy.spec.action == action);

    let excepted = matching(&excepted(exceptions, place, request), "Allow");
    if request.source.identity.is_none() && excepted.is_none() {
        return Judged { code: "SG0206", ..Judged::default() };
    }
    if request.source.identity.is_some() && selected.is_empty() {
        return Judged { code: "SG0201", ..Judged::default() };
    }
    let denies: Vec<_> = of(Action::Deny).flat_map(|policy| answers(policy, place, request)).collect();
    if let Some(judged) = matching(&denies, "SG0203").or_else(|| doubtful(&denies)) {
        return judged;
    }
    for policy in of(Action::Require) {
        let rules = answers(policy, place, request);
        if matching(&rules, "met").is_none() {
            let policy = Some(full_name(&policy.metadata));
            let unmet = Judged { code: "SG0204", policy, ..Judged::default() };
            return doubtful(&rules).unwrap_or(unmet);
        }
    }
    if request.source.identity.is_none() {
        return excepted.expect("looked at above");
    }
    let allows: Vec<_> = of(Action::Allow).flat_map(|policy| answers(policy, place, request)).collect();
    matching(&allows, "Allow").unwrap_or(Judged { code: "SG0202", ..Judged::default() })
}

/// What each exception that selects the workload says, if it is in force.
fn excepted(exceptions: &[PlaintextException], place: &Place<'_>, request: &Request<'_>) -> Vec<Answered> {
    let mut selected: Vec<&PlaintextException> = exceptions
        .iter()
        .filter(|it| selects(&it.metadata, it.spec.selector.as_ref(), place))
        .filter(|it| !it.spec.expires.has_begun(request.now))
        .filter(|it| {
            let mut blocks = it.spec.from.iter().flat_map(|from| from.ip_blocks.iter());
            blocks.any(|block| holds(&block.to_string(), request.source.ip))
        })
        .collect();
    selected.sort_by_key(|it| full_name(&it.metadata));
    let asked = |it: &PlaintextException| {
        let operations = it.spec.to.iter().map(|to| Operation {
            ports: Some(to.ports.clone()),
            methods: to.methods.clone(),
            paths: to.paths.clone(),
            ..Operation::default()
        });
        let answers: Vec<Answer> = operations.map(|operation| asks(&operation, request)).collect();
        answers.into_iter().find(|answer| matches!(answer, Answer::Yes(_))).unwrap_or(Answer::No)
    };
    selected
        .into_iter()
        .map(|it| (full_name(&it.metadata), it.metadata.name.to_string(), asked(it)))
        .collect()
}

fn full_name(metadata: &Metadata) -> String {
    format!("{}/{}", metadata.namespace, metadata.name)
}

fn selects(metadata: &Metadata, selector: Option<&BTreeMap<String, String>>, place: &Place<'_>) -> bool {
    let namespace = metadata.namespace.as_str();
    let in_scope = namespace == place.namespace || Some(namespace) == place.root_namespace;
    let labelled = match selector {
        None => true,
        Some(labels) => labels.iter().all(|(key, value)| place.labels.get(key) == Some(value)),
    };
    in_scope && labelled
}

type Answered = (String, String, Answer);

fn answers(policy: &AuthorizationPolicy, place: &Place<'_>, request: &Request<'_>) -> Vec<Answered> {
    let rule = |rule: &Rule| {
        (full_name(&policy.metadata), rule.name.to_string(), answer(policy.spec.action, rule, place, request))
    };
    policy.spec.rules.iter().map(rule).collect()
}

fn matching(rules: &[Answered], code: &'static str) -> Option<Judged> {
    rules.iter().find_map(|(policy, rule, answer)| match answer {
        Answer::Yes(pattern) => Some(Judged {
            code,
            policy: Some(policy.clone()),
            rule: Some(rule.clone()),
            pattern: pattern.clone(),
        }),
        _ => None,
    })
}

fn doubtful(rules: &[Answered]) -> Option<Judged> {
    let (policy, rule, _) = rules.iter().find(|(_, _, answer)| *answer == Answer::CannotTell)?;
    Some(Judged { code: "SG0205", policy: Some(policy.clone()), rule: Some(rule.clone()), pattern: None })
}

fn answer(action: Action, rule: &Rule, place: &Place<'_>, request: &Request<'_>) -> Answer {
    let expired = rule.expires.is_some_and(|day| day.has_begun(request.now));
    if expired && action != Action::Deny {
        return Answer::No;
    }
    let called = match &rule.from {
        None => true,
        Some(peers) => peers.iter().any(|peer| is_from(peer, place, request)),
    };
    if !called {
        return Answer::No;
    }
    let asked = match &rule.to {
        None => Answer::Yes(None),
        Some(operations) => {
            let answers: Vec<Answer> = operations.iter().map(|operation| asks(operation, request)).collect();
            let yes = answers.iter().find(|answer| matches!(answer, Answer::Yes(_)));
            let doubt = answers.iter().find(|answer| **answer == Answer::CannotTell);
            yes.or(doubt).cloned().unwrap_or(Answer::No)
        }
    };
    let token = rule.jwt.as_ref().map(|jwt| token::is_taken(jwt, request));
    let when = rule.when.as_ref().map(|when| when::holds(&when.to_string(), request));
    // Across the fields of a rule all must hold, and no is no whatever else is in doubt.
    if asked == Answer::No || token == Some(Some(false)) || when == Some(Some(false)) {
        Answer::No
    } else if token == Some(None) || when == Some(None) {
        Answer::CannotTell
    } else {
        asked
    }
}

fn is_from(peer: &Peer, place: &Place<'_>, request: &Request<'_>) -> bool {
    let address = peer
        .ip_blocks
        .as_ref()
        .is_none_or(|list| list.iter().any(|block| holds(&block.to_string(), request.source.ip)));
    let Some(identity) = request.source.identity else {
        // Who has no identity is nobody whom a source names, in whatever way.
        let Peer { principals, service_accounts, namespaces, trust_domains, ip_blocks: _ } = peer;
        let names = principals.is_some()
            || service_accounts.is_some()
            || namespaces.is_some()
            || trust_domains.is_some();
        return address && !names;
    };
    let id = identity.as_str();
    let domain = id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let account = match id.split('/').skip(3).collect::<Vec<_>>().as_slice() {
        ["ns", namespace, "sa", account] => Some((*namespace, *account)),
        _ => None,
    };

    let domains: Option<Vec<String>> = match &peer.trust_domains {
        Some(given) => Some(given.iter().map(ToString::to_string).collect()),
        None if peer.service_accounts.is_some() || peer.namespaces.is_some() => {
            Some(vec![place.trust_domain.to_owned()])
        }
        None => None,
    };
    let in_domain = domains.is_none_or(|domains| domains.iter().any(|given| given == domain));
    let principal = peer.principals.as_ref().is_none_or(|list| list.iter().any(|it| it.as_str() == id));
    let service_account = peer
        .service_accounts
        .as_ref()
        .is_none_or(|list| list.iter().any(|it| account == Some((it.namespace.as_str(), it.name.as_str()))));
    let namespace = peer.namespaces.as_ref().is_none_or(|list| {
        list.iter().any(|it| account.map(|(namespace, _)| namespace) == Some(it.as_str()))
    });
    in_domain && principal && service_account && namespace && address
}

fn asks(operation: &Operation, request: &Request<'_>) -> Answer {
    if operation.ports.as_ref().is_some_and(|list| list.iter().all(|port| *port != request.port)) {
        return Answer::No;
    }
    let wants_http = operation.methods.is_some()
        || operation.paths.is_some()
        || operation.hosts.is_some()
        || operation.grpc.is_some();
    if let Some(names) = &operation.sni {
        return match (request.http, request.sni) {
            (None, None) => Answer::CannotTell,
            (None, Some(sni)) if names.iter().any(|it| host_matches(&it.to_string(), sni)) => {
                Answer::Yes(None)
            }
            _ => Answer::No,
        };
    }
    let Some(http) = request.http else {
        return if wants_http { Answer::CannotTell } else { Answer::Yes(None) };
    };
    let method =
        operation.methods.as_ref().is_none_or(|list| list.iter().any(|it| it.as_str() == http.method));
    let host = operation
        .hosts
        .as_ref()
        .is_none_or(|list| list.iter().any(|it| host_matches(&it.to_string(), &http.host.to_lowercase())));
    if !method || !host {
        return Answer::No;
    }
    if let Some(Grpc { service, method }) = &operation.grpc {
        let segments: Vec<&str> = http.path.split('/').collect();
        return match (http.method, segments.as_slice(), method) {
            ("POST", ["", called, last], Some(method))
                if *called == service.to_string() && *last == method.to_string() =>
            {
                Answer::Yes(Some(format!("/{service}/{method}")))
            }
            ("POST", ["", called, last], None) if *called == service.to_string() && !last.is_empty() => {
                Answer::Yes(Some(format!("/{service}/{{method}}")))
            }
            _ => Answer::No,
        };
    }
    match &operation.paths {
        None => Answer::Yes(None),
        Some(paths) => match paths.iter().find(|it| path_matches(it.as_str(), http.path)) {
            Some(pattern) => Answer::Yes(Some(pattern.to_string())),
            None => Answer::No,
        },
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(domain) => {
            let labels: Vec<&str> = host.split('.').collect();
            let wanted: Vec<&str> = domain.split('.').collect();
            labels.len() > wanted.len() && labels.ends_with(&wanted) && !labels.contains(&"")
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    // What does not begin with `/` is no path, such as the `*` of OPTIONS.
    path.len() > 1 && segments_match(&pattern, &path)
}

fn segments_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        (["**"], _) | ([], []) => true,
        ([], _) | (_, []) => false,
        ([first, pattern @ ..], [segment, path @ ..]) => {
            let one = if first.starts_with('{') { !segment.is_empty() } else { first == segment };
            one && segments_match(pattern, path)
        }
    }
}

/// Compares the first bits of both addresses, one by one.
fn holds(block: &str, ip: IpAddr) -> bool {
    let (network, prefix) = block.split_once('/').expect("a block prints its prefix");
    let network: IpAddr = network.parse().expect("a block prints an address");
    let prefix: usize = prefix.parse().expect("a block prints its prefix as a number");
    let bits = |ip: IpAddr| -> Vec<bool> {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
    };
    let (network, ip) = (bits(network), bits(ip.to_canonical()));
    network.len() == ip.len() && network.iter().zip(&ip).take(prefix).all(|(a, b)| a == b)
}

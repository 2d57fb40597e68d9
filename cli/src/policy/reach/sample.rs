//! Calls that Allow rules describe, one for each combination of what a rule lists, up to a bound.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use sidegate_identity::SpiffeId;
use sidegate_policy::{
    Claims, Condition, Http, Jwt, Operation, PathPattern, PlaintextException, Request, Rule, Source, Sourced,
};

/// A call to try.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sample {
    http: Option<Asked>,
    sni: Option<String>,
    port: u16,
    ip: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    method: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    claims: Option<Arc<Claims>>,
}

/// The calls of all rules, each once.
pub(super) fn samples(selecting: &[&Sourced], host: &str) -> BTreeSet<Sample> {
    /// Of one rule: enough for any that a person wrote.
    const MOST: usize = 256;
    let port = unnamed_port(selecting);
    super::allowing(selecting)
        .flat_map(|(_, rule, _)| of_rule(rule, host, port).into_iter().take(MOST))
        .collect()
}

/// The calls of an exception, each with the block that it comes from.
pub(super) fn of_exception(exception: &PlaintextException, host: &str) -> Vec<(String, Sample)> {
    let rule = exception.rule();
    let operations: Vec<&Operation> = rule.to.iter().flat_map(|to| to.iter()).collect();
    let blocks = exception.spec.from.iter().flat_map(|from| from.ip_blocks.iter()).map(ToString::to_string);
    let mut samples = Vec::new();
    for block in blocks {
        let Some(ip) = first_address(&block) else { continue };
        for operation in &operations {
            let ports = operation.ports.iter().flat_map(|ports| ports.iter().copied());
            let calls = calls(operation, host, &[], None);
            let pairs = ports.flat_map(|port| calls.iter().map(move |http| (port, http.clone())));
            samples.extend(pairs.map(|(port, http)| (block.clone(), Sample { http, sni: None, port, ip })));
        }
    }
    samples
}

/// A port that no rule is about, for rules that are about none.
fn unnamed_port(selecting: &[&Sourced]) -> u16 {
    let rules = selecting.iter().flat_map(|sourced| sourced.rules());
    let operations = rules.flat_map(|(rule, _)| rule.to.iter().flat_map(|to| to.iter()));
    let named: BTreeSet<u16> =
        operations.flat_map(|to| to.ports.iter().flat_map(|ports| ports.iter().copied())).collect();
    let mut ports = std::iter::once(8080).chain(1..=u16::MAX);
    ports.find(|port| !named.contains(port)).unwrap_or(8080)
}

fn of_rule(rule: &Rule, host: &str, port: u16) -> Vec<Sample> {
    let peers = rule.from.iter().flat_map(|from| from.iter());
    let blocks = peers.flat_map(|peer| peer.ip_blocks.iter().flat_map(|blocks| blocks.iter()));
    let mut addresses: Vec<IpAddr> = blocks.filter_map(|block| first_address(&block.to_string())).collect();
    addresses.push(IpAddr::from([10, 0, 0, 7]));
    let any = Operation::default();
    let operations: Vec<&Operation> = match &rule.to {
        Some(to) => to.iter().collect(),
        None => vec![&any],
    };
    let headers = rule.when.as_ref().map(Condition::likely_headers).unwrap_or_default();
    let claims = rule.jwt.as_ref().and_then(Jwt::likely_claims).map(Arc::new);
    let mut samples = Vec::new();
    for ip in addresses {
        for operation in &operations {
            let ports = operation.ports.as_deref().unwrap_or(std::slice::from_ref(&port));
            let calls = calls(operation, host, &headers, claims.as_ref());
            let names = operation.sni.as_ref().and_then(|names| names.first());
            let sni = names.map(|name| name.to_string().replacen('*', "a", 1));
            let calls = if sni.is_some() { &[None][..] } else { &calls };
            let pairs = ports.iter().flat_map(|port| calls.iter().map(move |http| (*port, http.clone())));
            samples.extend(pairs.map(|(port, http)| Sample { http, sni: sni.clone(), port, ip }));
        }
    }
    samples
}

/// What an operation asks of HTTP; nothing at all is asked of an opaque connection too.
fn calls(
    operation: &Operation,
    host: &str,
    headers: &[(String, String)],
    claims: Option<&Arc<Claims>>,
) -> Vec<Option<Asked>> {
    let Operation { methods, paths, hosts, grpc, .. } = operation;
    let pattern = hosts.as_ref().and_then(|hosts| hosts.first()).map(ToString::to_string);
    let host = pattern.map_or_else(|| host.to_owned(), |pattern| pattern.replacen('*', "a", 1));
    let asked = |method: &str, path: &str| {
        Some(Asked {
            method: method.to_owned(),
            host: host.clone(),
            path: path.to_owned(),
            headers: headers.to_vec(),
            claims: claims.cloned(),
        })
    };
    if let Some(grpc) = grpc {
        let method = grpc.method.as_ref().map_or_else(|| "Any".to_owned(), ToString::to_string);
        return vec![asked("POST", &format!("/{}/{method}", grpc.service))];
    }
    let paths: Vec<String> = match paths {
        Some(paths) => paths.iter().map(|path| concrete(path.as_str())).collect(),
        None => vec!["/".to_owned()],
    };
    let methods: Vec<&str> = match methods {
        Some(methods) => methods.iter().map(sidegate_policy::Method::as_str).collect(),
        None => vec!["GET"],
    };
    let all = paths.iter().flat_map(|path| methods.iter().map(|method| asked(method, path)));
    let is_opaque = operation.methods.is_none() && operation.paths.is_none() && hosts.is_none();
    is_opaque.then_some(None).into_iter().chain(all).collect()
}

/// A path that the pattern matches: `{id}` is a segment as good as any.
fn concrete(pattern: &str) -> String {
    match pattern.strip_suffix("/**") {
        Some("") => "/".to_owned(),
        Some(base) => base.to_owned(),
        None => pattern.to_owned(),
    }
}

impl Sample {
    /// The call with another method or path, where one is asked for.
    pub(super) fn with(mut self, method: Option<&str>, path: Option<&PathPattern>, host: &str) -> Self {
        if method.is_none() && path.is_none() {
            return self;
        }
        self.sni = None;
        let asked = self.http.get_or_insert_with(|| Asked {
            method: "GET".to_owned(),
            host: host.to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            claims: None,
        });
        if let Some(method) = method {
            method.clone_into(&mut asked.method);
        }
        if let Some(path) = path {
            path.as_str().clone_into(&mut asked.path);
        }
        self
    }

    pub(super) fn request<'a>(&'a self, caller: Option<&'a SpiffeId>, now: u64) -> Request<'a> {
        let http = self.http.as_ref();
        Request {
            source: Source { identity: caller, ip: self.ip },
            port: self.port,
            http: http.map(|Asked { method, host, path, headers, claims }| Http {
                method,
                host,
                path,
                headers,
                claims: claims.as_deref(),
            }),
            sni: self.sni.as_deref(),
            now,
        }
    }
}

impl fmt::Display for Sample {
    /// `POST payments/charge  port 8080`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.http {
            Some(Asked { method, host, path, headers, claims }) => {
                write!(f, "{method} {host}{path}  ")?;
                headers.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}  "))?;
                claims.iter().try_for_each(|claims| write!(f, "token {}  ", claims.as_json()))?;
            }
            None => match &self.sni {
                Some(name) => write!(f, "TLS to {name}  ")?,
                None => f.write_str("opaque  ")?,
            },
        }
        write!(f, "port {}  from {}", self.port, self.ip)
    }
}

fn first_address(block: &str) -> Option<IpAddr> {
    block.split('/').next()?.parse().ok()
}

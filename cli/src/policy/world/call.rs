//! A call to try: what it asks, as the evaluator takes it and as a person reads it.

use std::{fmt, net::IpAddr, sync::Arc};

use sidegate_identity::SpiffeId;
use sidegate_policy::{Claims, Http, Request, Source};

/// One call, without its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Call {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) asked: Asked,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Asked {
    Opaque {
        sni: Option<String>,
    },
    Http {
        method: String,
        host: String,
        path: String,
        headers: Vec<(String, String)>,
        /// Of the token that comes with it.
        claims: Option<Arc<Claims>>,
    },
}

impl Call {
    pub(in super::super) fn request<'a>(&'a self, caller: Option<&'a SpiffeId>, now: u64) -> Request<'a> {
        let (http, sni) = match &self.asked {
            Asked::Opaque { sni } => (None, sni.as_deref()),
            Asked::Http { method, host, path, headers, claims } => {
                (Some(Http { method, host, path, headers, claims: claims.as_deref() }), None)
            }
        };
        let source = Source { identity: caller, ip: self.ip };
        Request { source, port: self.port, http, sni, now }
    }
}

impl fmt::Display for Call {
    /// `POST payments/charge  port 8080  from 10.0.0.7`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Asked::Opaque { sni: None } => f.write_str("opaque  ")?,
            Asked::Opaque { sni: Some(name) } => write!(f, "TLS to {name}  ")?,
            Asked::Http { method, host, path, headers, claims } => {
                write!(f, "{method} {host}{path}  ")?;
                headers.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}  "))?;
                claims.iter().try_for_each(|claims| write!(f, "token {}  ", claims.as_json()))?;
            }
        }
        write!(f, "port {}  from {}", self.port, self.ip)
    }
}

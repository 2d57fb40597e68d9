//! Reads a request's authority: `:authority`, the absolute-form target and every `Host` in, exactly one
//! `host[:port]` out, or a refusal (RFC 9110 §7.2, RFC 9113 §8.3.1).

use std::{fmt, net::Ipv6Addr};

/// The one authority of a request, in lower case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    host: String,
    port: Option<u16>,
}

/// Why a request has no single authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// Nothing names one.
    #[error("no Host")]
    Missing,
    /// Even if they say the same.
    #[error("more than one Host")]
    Doubled,
    /// The target first, then `Host`.
    #[error("the target names {0} and Host {1}")]
    Disagree(String, String),
    /// As it was sent.
    #[error("{0:?} is not host or host:port")]
    Malformed(String),
}

impl Authority {
    /// The single authority that the target and the `Host` fields agree on.
    pub fn agree<'a>(
        target: Option<&str>,
        hosts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, BadAuthority> {
        let mut hosts = hosts.into_iter();
        let host = hosts.next().map(Self::from_bytes).transpose()?;
        if hosts.next().is_some() {
            return Err(BadAuthority::Doubled);
        }
        match (target.map(Self::parse).transpose()?, host) {
            (None, None) => Err(BadAuthority::Missing),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (Some(target), Some(host)) if target == host => Ok(target),
            (Some(target), Some(host)) => Err(BadAuthority::Disagree(target.to_string(), host.to_string())),
        }
    }

    /// A host in its canonical form, without a port.
    pub(super) fn of_host(host: String) -> Self {
        Self { host, port: None }
    }

    /// The port, if it names one.
    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host without its port: what policies match.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadAuthority> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| BadAuthority::Malformed(String::from_utf8_lossy(bytes).into_owned()))?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, BadAuthority> {
        let malformed = || BadAuthority::Malformed(text.to_owned());
        let (host, port) = split_port(text).ok_or_else(malformed)?;
        let port = match port {
            None => None,
            Some(digits) => Some(parse_port(digits).ok_or_else(malformed)?),
        };
        Ok(Self { host: canonical_host(host).ok_or_else(malformed)?, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// A host in its one form: lower case, no trailing dot, an IPv6 address in brackets and as short as it can be.
/// `None`: it is not a host.
pub(crate) fn canonical_host(host: &str) -> Option<String> {
    if host.starts_with('[') { ipv6(host) } else { name(host) }
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let after_host = if text.starts_with('[') { text.find(']')?.checked_add(1)? } else { 0 };
    match text.get(after_host..)?.find(':') {
        None => Some((text, None)),
        Some(colon) => {
            let (host, port) = text.split_at_checked(after_host.checked_add(colon)?)?;
            Some((host, port.strip_prefix(':')))
        }
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().filter(|port| *port != 0) } else { None }
}

/// No zone: it means something on one host only.
fn ipv6(host: &str) -> Option<String> {
    let address: Ipv6Addr = host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    Some(format!("[{address}]"))
}

fn name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (host.len() <= 253 && host.split('.').all(is_label)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(target: Option<&str>, hosts: &[&str]) -> Result<String, BadAuthority> {
        Authority::agree(target, hosts.iter().map(|host| host.as_bytes()))
            .map(|authority| authority.to_string())
    }

    #[test]
    fn case_and_a_trailing_dot_do_not_make_another_host() {
        assert_eq!(agree(None, &["Payments.Shop.:8080"]).as_deref(), Ok("payments.shop:8080"));
        assert_eq!(agree(Some("payments"), &["PAYMENTS"]).as_deref(), Ok("payments"));
    }

    #[test]
    fn addresses_are_hosts_too() {
        assert_eq!(agree(None, &["127.0.0.1:9001"]).as_deref(), Ok("127.0.0.1:9001"));
        assert_eq!(agree(None, &["[0:0::1]:80"]).as_deref(), Ok("[::1]:80"));
    }

    #[test]
    fn a_request_without_exactly_one_authority_is_refused() {
        assert_eq!(agree(None, &[]), Err(BadAuthority::Missing));
        assert_eq!(agree(None, &["a", "a"]), Err(BadAuthority::Doubled));
        assert!(matches!(agree(Some("a.test"), &["evil.test"]), Err(BadAuthority::Disagree(..))));
        assert!(matches!(agree(Some("a.test"), &["a.test:80"]), Err(BadAuthority::Disagree(..))));
    }

    #[test]
    fn garbage_is_refused() {
        for host in [
            "",
            ".",
            "a@evil",
            "user:pw@a",
            "a b",
            "a/x",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "a:80:80",
            "a..b",
            "[::1",
            "[::1%eth0]",
            "::1",
            "[::1]x",
            "ä",
            "a\u{0}",
            "a,b",
            "*",
            "a%2eb",
        ] {
            assert!(matches!(agree(None, &[host]), Err(BadAuthority::Malformed(_))), "{host:?}");
        }
    }
}

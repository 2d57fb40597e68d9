//! The labels by which a person overrides what would be guessed, and lets a service out: text in; ports, upstreams or hosts outside
//! come out. A label that is not understood refuses its service.

/// What a port carries, as far as the sidecar must be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Found out from the first bytes.
    #[default]
    Auto,
    Http,
    Http2,
    Tcp,
}

/// Whom a service calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// `None`: every port of it.
    pub(crate) port: Option<u16>,
}

/// A host outside of the project that a service may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// In lower case.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

impl Protocol {
    /// The word for it, in the label and in a sidecar's configuration.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// `8080/http, 9090`; nothing but blanks: it listens on none.
pub(super) fn ports(text: &str) -> Result<Vec<(u16, Protocol)>, String> {
    entries(text)
        .map(|entry| port(entry).ok_or_else(|| format!("{entry:?} is no port such as 8080 or 8080/http")))
        .collect()
}

/// `orders, db:5432`; nothing but blanks: it calls nobody.
pub(super) fn upstreams(text: &str) -> Result<Vec<Upstream>, String> {
    entries(text)
        .map(|entry| {
            let (name, port) = match entry.split_once(':') {
                None => (entry, None),
                Some((name, port)) => (name, Some(port.parse::<u16>().ok().filter(|port| *port != 0))),
            };
            let port = port.map(|port| port.ok_or_else(|| format!("{entry:?} has no port after its colon")));
            Ok(Upstream { name: name.to_owned(), port: port.transpose()? })
        })
        .collect()
}

/// `api.example.com:443, smtp.example.com:25/tcp`. Names only: from a fence there is no way to an address.
pub(super) fn egress(text: &str) -> Result<Vec<External>, String> {
    entries(text)
        .map(|entry| {
            external(entry).ok_or_else(|| {
                format!("{entry:?} is no host name with a port, such as api.example.com:443 or smtp.example.com:25/tcp")
            })
        })
        .collect()
}

fn external(entry: &str) -> Option<External> {
    let (host, port) = entry.split_once(':')?;
    let (port, protocol) = self::port(port)?;
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_name = host.split('.').all(is_label) && host.parse::<std::net::Ipv4Addr>().is_err();
    is_name.then(|| External { host: host.to_ascii_lowercase(), port, protocol })
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn port(entry: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = entry.split_once('/').unwrap_or((entry, "auto"));
    let protocol = [Protocol::Auto, Protocol::Http, Protocol::Http2, Protocol::Tcp]
        .into_iter()
        .find(|known| known.word() == protocol)?;
    Some((port.parse().ok().filter(|port| *port != 0)?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_a_protocol_or_none_and_nothing_else() {
        assert_eq!(ports(" 8080/http, 9090"), Ok(vec![(8080, Protocol::Http), (9090, Protocol::Auto)]));
        assert_eq!(ports(" "), Ok(Vec::new()));
        for text in ["0", "http", "80/udp", "80/", "70000", "80:80"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn upstreams_have_a_port_or_every_port() {
        let named = |name: &str, port| Upstream { name: name.into(), port };
        assert_eq!(upstreams("orders, db:5432"), Ok(vec![named("orders", None), named("db", Some(5432))]));
        for text in ["db:", "db:0", "db:http"] {
            assert!(upstreams(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_outside_has_a_name_and_a_port() {
        let host = |host: &str, port, protocol| External { host: host.into(), port, protocol };
        assert_eq!(
            egress("API.example.com:443, mail:25/tcp"),
            Ok(vec![host("api.example.com", 443, Protocol::Auto), host("mail", 25, Protocol::Tcp)])
        );
        for text in [
            "api.example.com",
            "1.2.3.4:80",
            "[::1]:80",
            "*.example.com:443",
            "a..b:1",
            "https://a:443",
            "a:0",
        ] {
            assert!(egress(text).is_err(), "{text}");
        }
    }
}

//! The labels by which a person overrides what would be guessed: text in, ports or upstreams out. A label that is not understood
//! refuses its service.

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
}

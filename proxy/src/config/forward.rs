//! Where an inbound port's application is: an address, a name that is looked up again and again, or this host. Refuses
//! port 0 and what is neither.

use std::{fmt, net::SocketAddr, str::FromStr};

/// The application's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    host: ForwardTo,
    port: u16,
}

/// The host part of the application's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ForwardTo {
    /// An IP or a name, which is looked up again and again.
    Named(String),
    /// This host, over whichever family the application listens on.
    Loopback,
}

impl Forward {
    /// The port that policies mean by a port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the application is.
    pub(crate) fn host(&self) -> &ForwardTo {
        &self.host
    }

    /// The application's own port, on loopback.
    pub(crate) fn loopback(port: u16) -> Self {
        Self { host: ForwardTo::Loopback, port }
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(format!("{text:?} has port 0"))
            } else {
                Ok(Self { host: ForwardTo::Named(address.ip().to_string()), port: address.port() })
            };
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not an address:port or name:port"))?;
        let is_name = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        match port.parse() {
            Ok(port) if is_name && port != 0 => Ok(Self { host: ForwardTo::Named(host.to_owned()), port }),
            _ => Err(format!("{text:?} is not an address:port or name:port")),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ForwardTo::Named(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            ForwardTo::Named(host) => write!(f, "{host}:{}", self.port),
            ForwardTo::Loopback => write!(f, "loopback:{}", self.port),
        }
    }
}

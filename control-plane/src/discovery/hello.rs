//! What a sidecar says of itself, checked: every value has its form and its limit, and an address without a host gets
//! the one that the stream comes from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use sidegate_proto::v1;

use crate::{config::ServiceName, proxies::Nack};

/// A Hello that can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// 32 lower-case hex digits.
    pub(crate) instance: String,
    pub(crate) release: String,
    pub(crate) inbound: Vec<Inbound>,
    pub(crate) services: BTreeSet<ServiceName>,
    /// Resource name to resource version. Up to megabytes: taken out before the rest is kept.
    pub(crate) held: BTreeMap<String, String>,
}

/// Where a sidecar accepts connections for its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    pub(crate) address: SocketAddr,
    /// The application's port.
    pub(crate) port: u16,
}

/// The sidecar's fault: it sent what the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHello {
    #[error("hello.instance is not 32 lower-case hex digits")]
    Instance,
    #[error("hello.release is longer than {MAX_RELEASE_BYTES} bytes or not plain text")]
    Release,
    #[error("hello.inbound has more than {MAX_INBOUND} ports")]
    TooManyInbound,
    #[error("hello.inbound[{0}].address is not an address that others can connect to")]
    Address(usize),
    #[error("hello.inbound[{0}].port is not a port")]
    Port(usize),
    #[error("hello.services has more than {MAX_SERVICES} names")]
    TooManyServices,
    #[error("hello.services[{0}] is not namespace/name")]
    Service(usize),
    #[error("hello.held has more than {MAX_HELD} resources, or a name or version that is too long")]
    Held,
}

impl Hello {
    /// `source` is the address that the stream comes from.
    pub(crate) fn check(hello: v1::Hello, source: IpAddr) -> Result<Self, BadHello> {
        Ok(Self {
            instance: instance(hello.instance)?,
            release: plain(hello.release)?,
            inbound: inbound(&hello.inbound, source)?,
            services: services(&hello.services)?,
            held: held(hello.held)?,
        })
    }
}

/// A refusal with its texts cut to what the operator can read; they are shown and logged, and nothing else.
pub(crate) fn checked_nack(nack: v1::Nack) -> Nack {
    Nack {
        version: nack.version,
        path: cut(nack.path, MAX_PATH_CHARS),
        code: cut(nack.code, MAX_CODE_CHARS),
        message: cut(nack.message, MAX_MESSAGE_CHARS),
    }
}

fn instance(text: String) -> Result<String, BadHello> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() == 32 && text.bytes().all(hex) { Ok(text) } else { Err(BadHello::Instance) }
}

fn plain(text: String) -> Result<String, BadHello> {
    let fits = text.len() <= MAX_RELEASE_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text) } else { Err(BadHello::Release) }
}

fn inbound(ports: &[v1::InboundPort], source: IpAddr) -> Result<Vec<Inbound>, BadHello> {
    if ports.len() > MAX_INBOUND {
        return Err(BadHello::TooManyInbound);
    }
    ports.iter().enumerate().map(|(index, port)| inbound_port(index, port, source)).collect()
}

fn inbound_port(index: usize, port: &v1::InboundPort, source: IpAddr) -> Result<Inbound, BadHello> {
    let mut address: SocketAddr = port.address.parse().map_err(|_| BadHello::Address(index))?;
    if address.ip().is_unspecified() {
        // An IPv4 caller of a dual-stack listener is shown as ::ffff:a.b.c.d.
        address.set_ip(source.to_canonical());
    }
    if address.port() == 0 || address.ip().is_multicast() {
        return Err(BadHello::Address(index));
    }
    let port = u16::try_from(port.port).ok().filter(|port| *port != 0).ok_or(BadHello::Port(index))?;
    Ok(Inbound { address, port })
}

fn services(names: &[String]) -> Result<BTreeSet<ServiceName>, BadHello> {
    if names.len() > MAX_SERVICES {
        return Err(BadHello::TooManyServices);
    }
    let parse = |(index, name): (usize, &String)| ServiceName::parse(name).ok_or(BadHello::Service(index));
    names.iter().enumerate().map(parse).collect()
}

fn held(held: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, BadHello> {
    let fits =
        |(name, version): (&String, &String)| name.len() <= MAX_NAME_BYTES && version.len() <= MAX_NAME_BYTES;
    if held.len() <= MAX_HELD && held.iter().all(fits) { Ok(held) } else { Err(BadHello::Held) }
}

fn cut(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
    }
    text
}

const MAX_RELEASE_BYTES: usize = 64;
const MAX_INBOUND: usize = 64;
const MAX_SERVICES: usize = 1_000;
const MAX_HELD: usize = 20_000;
const MAX_NAME_BYTES: usize = 512;
const MAX_PATH_CHARS: usize = 512;
const MAX_CODE_CHARS: usize = 16;
const MAX_MESSAGE_CHARS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Hello {
        v1::Hello {
            instance: "0123456789abcdef0123456789abcdef".into(),
            release: "0.1.0".into(),
            inbound: vec![v1::InboundPort { address: "0.0.0.0:15106".into(), port: 8080 }],
            services: vec!["shop/payments".into(), "shop/payments".into()],
            held: BTreeMap::from([("settings".into(), "abc".into())]),
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::Hello)) -> BadHello {
        let mut hello = good();
        change(&mut hello);
        Hello::check(hello, source()).unwrap_err()
    }

    fn source() -> IpAddr {
        "::ffff:10.0.0.7".parse().unwrap()
    }

    #[test]
    fn an_unspecified_address_becomes_the_one_the_stream_comes_from() {
        let hello = Hello::check(good(), source()).unwrap();
        assert_eq!(hello.inbound[0].address, "10.0.0.7:15106".parse().unwrap());
        assert_eq!(hello.services.len(), 1);
    }

    #[test]
    fn each_value_out_of_form_refuses_the_hello() {
        assert_eq!(refusal(|hello| hello.instance = "x".repeat(32)), BadHello::Instance);
        assert_eq!(refusal(|hello| hello.release = "0.1\n0".into()), BadHello::Release);
        for address in ["", "payments:80", "10.0.0.7", "0.0.0.0:0", "224.0.0.1:80"] {
            assert_eq!(refusal(|hello| hello.inbound[0].address = address.into()), BadHello::Address(0));
        }
        for port in [0, 65_536] {
            assert_eq!(refusal(|hello| hello.inbound[0].port = port), BadHello::Port(0));
        }
        for name in ["payments", "shop/", "Shop/payments", "shop/a/b", "shop/../x"] {
            assert_eq!(refusal(|hello| hello.services[1] = name.into()), BadHello::Service(1));
        }
    }

    #[test]
    fn each_count_has_its_limit() {
        let port = good().inbound[0].clone();
        assert_eq!(refusal(|hello| hello.inbound = vec![port; MAX_INBOUND + 1]), BadHello::TooManyInbound);
        let name = "a/b".to_owned();
        assert_eq!(refusal(|hello| hello.services = vec![name; MAX_SERVICES + 1]), BadHello::TooManyServices);
        let many = (0..=MAX_HELD).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(refusal(|hello| hello.held = many), BadHello::Held);
        let long = BTreeMap::from([("n".repeat(MAX_NAME_BYTES + 1), String::new())]);
        assert_eq!(refusal(|hello| hello.held = long), BadHello::Held);
    }

    #[test]
    fn a_refusals_texts_are_cut() {
        let nack =
            v1::Nack { version: 1, path: "é".repeat(10_000), code: "SG0405".into(), message: String::new() };
        let nack = checked_nack(nack);
        assert_eq!((nack.path.chars().count(), nack.code.as_str()), (MAX_PATH_CHARS, "SG0405"));
    }
}

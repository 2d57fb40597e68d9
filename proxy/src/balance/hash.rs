//! Equal keys to the same endpoint, by rendezvous hashing: each endpoint has a score for each key, and the highest of
//! those that may be chosen wins. There is no table to rebuild, an endpoint that leaves moves its own keys alone, and
//! one that comes takes its share from all. The hash is the same in every worker and sidecar, or keys would not meet.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::COOKIE};

use crate::config::HashKey;

/// The hash of what a call is spread by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// Of a request; `None`: it has no such header or cookie.
    pub(crate) fn of(by: &HashKey, headers: &HeaderMap, source: IpAddr) -> Option<Self> {
        match by {
            HashKey::Header(name) => headers.get(name).map(|value| Self::bytes(value.as_bytes())),
            HashKey::Cookie(name) => cookie(headers, name.as_bytes()).map(Self::bytes),
            HashKey::Source => Some(Self::source(source)),
        }
    }

    /// Of whoever connected.
    pub(crate) fn source(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(address) => Self::bytes(&address.octets()),
            IpAddr::V6(address) => Self::bytes(&address.octets()),
        }
    }

    fn bytes(bytes: &[u8]) -> Self {
        Self(mix(fnv(bytes)))
    }

    /// How much this key wants that endpoint.
    pub(super) fn score(self, endpoint: u64) -> u64 {
        mix(self.0 ^ endpoint)
    }
}

/// What an endpoint's scores come from.
pub(super) fn of_endpoint(address: SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    let hash = match address.ip() {
        IpAddr::V4(ip) => fnv(&[&ip.octets()[..], &port].concat()),
        IpAddr::V6(ip) => fnv(&[&ip.octets()[..], &port].concat()),
    };
    mix(hash)
}

/// RFC 6265 §4.2.1: pairs between semicolons, in any number of fields.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of `MurmurHash3`: each bit of what goes in changes half of what comes out.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

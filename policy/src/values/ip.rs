//! Blocks of IP addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use super::InvalidValue;

/// An address or a block in CIDR form. An IPv4-mapped IPv6 address is the IPv4 address it maps, here and in requests;
/// otherwise an IPv6 block holds no IPv4 address, nor the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock(IpNet);

impl IpBlock {
    /// Whether the block holds the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    pub(crate) fn range(self) -> IpNet {
        self.0
    }

    /// Whether every address of the block is in `range`.
    pub(crate) fn is_within(&self, range: IpNet) -> bool {
        range.contains(&self.0)
    }

    /// How many leading bits its addresses share.
    pub(crate) fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether its addresses are of IPv4.
    pub(crate) fn is_v4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether the block holds every address of another.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        self.0.contains(&narrow.0)
    }
}

impl FromStr for IpBlock {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let net = parse(text)?;
        if net.trunc() != net {
            // 10.0.0.1/8 could mean one address or sixteen million.
            let message = format!("has bits beyond its prefix; write {} or {}", net.trunc(), net.addr());
            return Err(message.into());
        }
        unmapped(net).map(Self)
    }
}

fn parse(text: &str) -> Result<IpNet, InvalidValue> {
    let malformed = InvalidValue::because("not an IP address or CIDR block, as in 10.0.0.0/8 or fd00::/8");
    if text.contains('/') {
        text.parse().map_err(|_| malformed)
    } else {
        text.parse::<IpAddr>().map(IpNet::from).map_err(|_| malformed)
    }
}

/// An IPv4-mapped block as the IPv4 block it maps.
fn unmapped(net: IpNet) -> Result<IpNet, InvalidValue> {
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(v6) = net else { return Ok(net) };
    let Some(v4) = v6.addr().to_ipv4_mapped() else {
        return Ok(net);
    };
    v6.prefix_len()
        .checked_sub(MAPPED_PREFIX)
        .and_then(|prefix| Ipv4Net::new(v4, prefix).ok())
        .map(IpNet::V4)
        .ok_or(InvalidValue::because("an IPv4-mapped block needs a prefix of at least 96; write it as IPv4"))
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> IpBlock {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address_on_either_side() {
        assert!(block("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert!(block("::ffff:10.0.0.0/104").contains(ip("10.1.2.3")));
        assert!(block("::ffff:10.1.2.3").contains(ip("10.1.2.3")));
        assert_eq!(block("::ffff:10.0.0.0/104"), block("10.0.0.0/8"));
        assert!(!block("10.0.0.0/8").contains(ip("::ffff:11.1.2.3")));
    }

    #[test]
    fn the_families_do_not_mix() {
        assert!(!block("::/0").contains(ip("10.1.2.3")));
        assert!(!block("::/0").contains(ip("::ffff:10.1.2.3")));
        assert!(!block("0.0.0.0/0").contains(ip("fd00::1")));
        assert!(block("fd00::/8").contains(ip("fd12::1")));
    }

    #[test]
    fn ambiguous_or_malformed_blocks_are_refused() {
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.0/",
            "fe80::1%eth0",
            "fd00::1/8",
            "::ffff:0:0/90",
            "localhost",
            "*",
        ] {
            assert!(bad.parse::<IpBlock>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_single_address_is_a_block_of_one() {
        assert!(block("10.0.0.1").contains(ip("10.0.0.1")));
        assert!(!block("10.0.0.1").contains(ip("10.0.0.2")));
    }
}

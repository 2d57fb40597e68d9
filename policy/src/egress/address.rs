//! Which addresses a rule can have meant. Behind an address that is not of the public Internet stands what trusts whoever
//! can reach it: the host itself, a cloud's metadata, a neighbour. A wide block, or a name whose answer somebody else
//! gives, does not mean those.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::values::IpBlock;

/// Whether anybody in the world means the same host by it.
pub fn is_public(ip: IpAddr) -> bool {
    special(ip.to_canonical()).is_none()
}

/// One address of each kind that rules with these blocks tell apart. Blocks nest, so that where one begins, or where one
/// has just ended, lies every region there is of them and of the special ranges.
pub fn address_kinds(blocks: impl IntoIterator<Item = IpBlock>) -> BTreeSet<IpAddr> {
    let special = V4.iter().map(|range| IpNet::V4(*range)).chain(V6.iter().map(|range| IpNet::V6(*range)));
    let ranges = blocks.into_iter().map(IpBlock::range).chain(special);
    let edges = ranges.flat_map(|range| [Some(range.network()), after(range)]);
    edges.flatten().chain([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]).collect()
}

fn after(range: IpNet) -> Option<IpAddr> {
    match range.broadcast() {
        IpAddr::V4(last) => last.to_bits().checked_add(1).map(|next| Ipv4Addr::from_bits(next).into()),
        IpAddr::V6(last) => last.to_bits().checked_add(1).map(|next| Ipv6Addr::from_bits(next).into()),
    }
}

/// Whether the block holds the address and, where that is not public, nothing that is.
pub(super) fn is_meant_by(ip: IpAddr, block: &IpBlock) -> bool {
    block.contains(ip) && special(ip.to_canonical()).is_none_or(|range| block.is_within(range))
}

/// The range of special addresses that this one is of. IANA's registries of special-purpose addresses, with what clouds
/// add to them.
fn special(ip: IpAddr) -> Option<IpNet> {
    match ip {
        IpAddr::V4(ip) => V4.iter().find(|range| range.contains(&ip)).map(|range| IpNet::V4(*range)),
        IpAddr::V6(ip) => V6.iter().find(|range| range.contains(&ip)).map(|range| IpNet::V6(*range)),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

const V4: [Ipv4Net; 14] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    // Azure's host; it is like 169.254.169.254 elsewhere.
    v4(168, 63, 129, 16, 32),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

/// Only `2000::/3` is given out, and of that some lead to IPv4 addresses in other clothes: Teredo, 6to4. So does
/// `64:ff9b::/96`, below it.
const V6: [Ipv6Net; 6] = [
    v6(0, 0, 3),
    v6(0x2001, 0, 23),
    v6(0x2002, 0, 16),
    v6(0x4000, 0, 2),
    v6(0x8000, 0, 1),
    v6(0x3ffe, 0, 16),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SPECIAL: [&str; 22] = [
        "0.0.0.0",
        "10.0.0.7",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.8.8.8",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ];

    #[test]
    fn a_wide_block_means_no_special_address_and_a_block_of_its_own_means_it() {
        for text in SPECIAL {
            assert!(!is_public(ip(text)), "{text}");
            for wide in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "2000::/3"] {
                assert!(!is_meant_by(ip(text), &wide.parse().unwrap()), "{text} by {wide}");
            }
            assert!(is_meant_by(ip(text), &text.parse().unwrap()), "{text}");
        }
        assert!(is_meant_by(ip("10.1.2.3"), &"10.0.0.0/8".parse().unwrap()));
        assert!(is_meant_by(ip("fd00::7"), &"fd00::/8".parse().unwrap()));
        assert!(!is_meant_by(ip("10.1.2.3"), &"10.1.2.4".parse().unwrap()));
    }

    #[test]
    fn an_address_of_each_kind_lies_in_every_region_of_nested_blocks() {
        let blocks = ["8.0.0.0/7", "8.8.8.0/24", "8.8.8.8", "10.0.0.0/7", "2000::/3"];
        let blocks: Vec<IpBlock> = blocks.iter().map(|text| text.parse().unwrap()).collect();
        let kinds = address_kinds(blocks.iter().copied());
        let kind = |ip: IpAddr| {
            let held: Vec<bool> = blocks.iter().map(|block| block.contains(ip)).collect();
            (ip.is_ipv4(), is_public(ip), held)
        };
        let found: BTreeSet<_> = kinds.iter().map(|ip| kind(*ip)).collect();
        for some in [
            "8.8.8.8", "8.8.8.9", "8.9.0.1", "11.2.3.4", "10.2.3.4", "77.0.0.1", "2a00::1", "2002::1",
            "fd00::1",
        ] {
            assert!(found.contains(&kind(ip(some))), "{some}: {kinds:?}");
        }
    }

    #[test]
    fn public_addresses_are_meant_by_every_block_that_holds_them() {
        for text in
            ["8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1", "192.169.0.1", "2606:4700::1111", "2a00::1"]
        {
            assert!(is_public(ip(text)), "{text}");
            let wide = if text.contains(':') { "::/0" } else { "0.0.0.0/0" };
            assert!(is_meant_by(ip(text), &wide.parse().unwrap()), "{text}");
            assert!(!is_meant_by(ip(text), &"9.9.9.0/24".parse().unwrap()), "{text}");
        }
    }
}

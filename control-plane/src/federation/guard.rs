//! Which addresses bundles are fetched from. A URL names a host, and whoever answers for its name in DNS chooses the address:
//! it must not be one that only this host or its link can reach, such as a cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whether the address may be asked. Private ranges may: that is where a partner within the company is.
pub(super) fn may_ask(address: IpAddr, allowed: &[IpNet]) -> bool {
    let address = address.to_canonical();
    allowed.iter().any(|net| net.contains(&address))
        || match address {
            IpAddr::V4(address) => !is_near_v4(address),
            IpAddr::V6(address) => !is_near_v6(address),
        }
}

fn is_near_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || first == 0
        || first >= 240
        || METADATA_V4.contains(&address)
}

fn is_near_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // NAT64 (RFC 6052) and the IPv4-compatible form lead to an IPv4 address.
    let leads_to_v4 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[..6] == [0; 6];
    let [high, low] = [segments[6], segments[7]].map(u16::to_be_bytes);
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address == METADATA_V6
        || (leads_to_v4 && is_near_v4(Ipv4Addr::new(high[0], high[1], low[0], low[1])))
}

/// Of Alibaba Cloud and of Azure, which are not on the link.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
/// Of AWS.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bundle_is_fetched_from_what_only_this_host_or_its_link_can_reach() {
        let may = |address: &str, allowed: &[IpNet]| may_ask(address.parse().unwrap(), allowed);
        for near in [
            "127.0.0.1",
            "0.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
        ] {
            assert!(!may(near, &[]), "{near}");
        }
        for far in ["10.0.0.7", "203.0.113.9", "2001:db8::1", "fd00::7", "64:ff9b::8.8.8.8"] {
            assert!(may(far, &[]), "{far}");
        }
        let allowed = ["127.0.0.1/32".parse().unwrap()];
        assert!(may("::ffff:127.0.0.1", &allowed) && !may("127.0.0.2", &allowed));
    }
}

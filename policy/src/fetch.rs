//! Which addresses the keys of issuers and the bundles of other trust domains are fetched from. A URL names a host, and whoever
//! answers for its name in DNS chooses the address: it must not be one that only this host or its link can reach, such as a
//! cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whether something may be fetched from the address: it is in `allowed`, or not near. Private ranges may be asked: that is
/// where a company's issuer is, and a partner within the company.
pub fn may_fetch_from(address: IpAddr, allowed: &[IpNet]) -> bool {
    let address = address.to_canonical();
    allowed.iter().any(|net| net.contains(&address))
        || match address {
            IpAddr::V4(address) => !is_near_v4(address),
            IpAddr::V6(address) => !is_near_v6(address),
        }
}

fn is_near_v4(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
        || METADATA_V4.contains(&address)
}

fn is_near_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = || {
        let [high, low] = [segments[6], segments[7]].map(u16::to_be_bytes);
        Ipv4Addr::new(high[0], high[1], low[0], low[1])
    };
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address == METADATA_V6
        // NAT64 (RFC 6052) and the IPv4-compatible form lead to an IPv4 address.
        || ((segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[..6] == [0; 6]) && is_near_v4(embedded()))
}

/// Of Alibaba Cloud and of Azure, which are not on the link.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
/// Of AWS.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    fn may(address: &str, allowed: &[IpNet]) -> bool {
        may_fetch_from(address.parse().unwrap(), allowed)
    }

    #[test]
    fn nothing_that_only_this_host_or_its_link_can_reach_is_asked() {
        for near in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
        ] {
            assert!(!may(near, &[]), "{near}");
        }
        for far in [
            "10.0.0.7",
            "192.168.1.1",
            "172.16.0.1",
            "203.0.113.9",
            "2001:db8::1",
            "fd00::7",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(may(far, &[]), "{far}");
        }
    }

    #[test]
    fn an_address_that_is_allowed_is_asked_and_no_other() {
        let allowed = ["127.0.0.1/32".parse().unwrap()];
        assert!(may("127.0.0.1", &allowed) && may("::ffff:127.0.0.1", &allowed));
        assert!(!may("127.0.0.2", &allowed) && !may("169.254.169.254", &allowed));
    }
}

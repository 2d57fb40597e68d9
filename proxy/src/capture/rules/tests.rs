use std::path::Path;

use super::*;
use crate::{
    capture::{iptables, nft},
    config::Config,
};

const SIDECAR: &str = "
trustDomain: shop.test
workload: {namespace: shop, serviceAccount: payments}
identity:
  files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}
policies: policies/
inbound: [{listen: '[::]:15106', forward: captured, ports: [{port: 8080}, {port: 5432}]}]
outbound: [{listen: '127.0.0.1:15101', captured: {}}, {listen: '[::1]:15101', captured: {}}]
";

fn rules(capture: &str) -> Vec<Chain> {
    let text = format!("{SIDECAR}capture: {capture}\n");
    let config = Config::parse(Path::new("/etc/sidegate/proxy.yaml"), &text).unwrap();
    let capture = config.capture.as_ref().unwrap();
    of(&config, capture, &capture.resolvers().unwrap())
}

/// The lines of a chain in the script for nft.
fn chain(script: &str, name: &str) -> Vec<String> {
    let from = script.lines().skip_while(|line| *line != format!("  chain {name} {{"));
    from.skip(1).take_while(|line| *line != "  }").map(|line| line.trim().to_owned()).collect()
}

#[test]
fn without_a_word_all_tcp_is_led_to_the_sidecar_and_nothing_else_leaves() {
    let script = nft::script(&rules("{resolvers: []}"));
    assert!(
        script.starts_with("add table inet sidegate\ndelete table inet sidegate\ntable inet sidegate {\n")
    );
    assert_eq!(
        chain(&script, "redirect_inbound"),
        [
            "type nat hook prerouting priority -105; policy accept;",
            "iif lo accept",
            "fib daddr type != local accept",
            "tcp dport { 15106 } accept",
            "meta l4proto tcp redirect to :15106",
        ]
    );
    assert_eq!(
        chain(&script, "redirect_outbound"),
        [
            "type nat hook output priority -105; policy accept;",
            "ip daddr { 127.0.0.0/8 } accept",
            "ip6 daddr { ::1/128 } accept",
            "meta skuid 15100 fib daddr type local tcp dport { 15106 } accept",
            "meta skuid 15100 fib daddr type local meta l4proto tcp redirect to :15106",
            "meta skuid 15100 accept",
            "meta l4proto tcp redirect to :15101",
        ]
    );
    assert_eq!(
        chain(&script, "output")[..4],
        [
            "type filter hook output priority 0; policy drop;",
            "meta skuid 15100 ct mark set ct mark or 0x40000000 accept",
            "fib daddr type local goto local",
            "meta skuid 0-4294967295 goto refuse",
        ]
    );
    assert_eq!(chain(&script, "input").last().unwrap(), "counter name dropped_inbound drop");
}

#[test]
fn an_exclusion_opens_the_way_there_and_the_answers_and_each_family_by_itself() {
    let script = nft::script(&rules(
        "{resolvers: [], outbound: {exclude: [{cidrs: [10.9.0.0/16, 10.9.1.0/24, 'fd09::/16'], ports: [443]}]}}",
    ));
    for (name, want) in [
        ("redirect_outbound", "ip daddr { 10.9.0.0/16 } tcp dport { 443 } accept"),
        ("redirect_outbound", "ip6 daddr { fd09::/16 } tcp dport { 443 } accept"),
        ("output", "ip daddr { 10.9.0.0/16 } tcp dport { 443 } accept"),
        ("input", "ip saddr { 10.9.0.0/16 } tcp sport { 443 } ct direction reply accept"),
        ("input", "ip6 saddr { fd09::/16 } tcp sport { 443 } ct direction reply accept"),
    ] {
        assert!(chain(&script, name).contains(&want.to_owned()), "{name}: {want}");
    }
    let script = nft::script(&rules("{resolvers: [], inbound: {exclude: [{ports: [22]}]}}"));
    for (name, want) in [
        ("redirect_inbound", "tcp dport { 22 } accept"),
        ("input", "tcp dport { 22 } accept"),
        ("output", "tcp sport { 22 } ct direction reply accept"),
    ] {
        assert!(chain(&script, name).contains(&want.to_owned()), "{name}: {want}");
    }
    assert!(!chain(&script, "redirect_outbound").contains(&"tcp dport { 22 } accept".to_owned()));
}

#[test]
fn what_is_not_included_is_led_nowhere_and_let_through_nowhere() {
    let script = nft::script(&rules("{resolvers: [], outbound: {include: [{ports: [80]}]}}"));
    let outbound = chain(&script, "redirect_outbound");
    assert_eq!(outbound.last().unwrap(), "tcp dport { 80 } redirect to :15101");
    assert!(!outbound.contains(&"meta l4proto tcp redirect to :15101".to_owned()));
    let bare = nft::script(&rules("{resolvers: []}"));
    assert_eq!(chain(&script, "output"), chain(&bare, "output"), "the filter knows of no inclusion");
}

#[test]
fn a_resolver_is_asked_over_both_protocols_and_one_on_loopback_needs_no_rule() {
    let script = nft::script(&rules("{resolvers: [10.96.0.10, 127.0.0.53]}"));
    let output = chain(&script, "output");
    for protocol in ["udp", "tcp"] {
        assert!(output.contains(&format!("ip daddr {{ 10.96.0.10/32 }} {protocol} dport {{ 53 }} accept")));
    }
    assert!(!script.contains("127.0.0.53"));
}

#[test]
fn iptables_lists_at_most_15_ports_and_gives_a_family_its_own_ranges_alone() {
    let ports: Vec<String> = (1..=16).map(|port: u16| port.to_string()).collect();
    let script = iptables::script(&rules(&format!(
        "{{resolvers: [], outbound: {{exclude: [{{cidrs: [10.9.0.0/16], ports: [{}]}}]}}}}",
        ports.join(", ")
    )));
    let (v4, v6) = script.split_once("# IPv6").unwrap();
    let first = "-d 10.9.0.0/16 -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 -j RETURN";
    let second = "-d 10.9.0.0/16 -p tcp -m multiport --dports 16 -j RETURN";
    assert!(v4.contains(first) && v4.contains(second), "{v4}");
    assert!(!v6.contains("10.9.0.0"), "{v6}");
    assert!(v6.contains("-p ipv6-icmp --icmpv6-type 135 -j RETURN") && !v4.contains("icmpv6-type"));
}

#[test]
fn without_a_captured_listener_nothing_is_redirected_and_all_is_refused_still() {
    let sidecar = SIDECAR
        .replace("forward: captured, ports: [{port: 8080}, {port: 5432}]", "forward: '127.0.0.1:8080'")
        .split("outbound:")
        .next()
        .unwrap()
        .to_owned();
    let config = Config::parse(Path::new("proxy.yaml"), &(sidecar + "capture: {resolvers: []}\n")).unwrap();
    let script = nft::script(&of(&config, config.capture.as_ref().unwrap(), &[]));
    assert!(!script.contains("redirect to"));
    assert!(chain(&script, "input").contains(&"tcp dport { 15106 } accept".to_owned()));
    assert_eq!(chain(&script, "output").last().unwrap(), "goto refuse");
}

//! Who calls whom: what is allowed works without the application knowing of a sidecar, and every way around it is tried.
//! `docs/capture.md` has a row for each of these.

use crate::{
    hosts::{APP, ROOT, SIDECAR, SOMEBODY, User},
    world::{Backend, MARKER, Of, PAYMENTS, World},
};

tests![
    an_unchanged_application_calls_a_service_over_mutual_tls,
    an_application_cannot_call_its_sidecars_ports_itself,
    an_application_that_calls_itself_is_judged_as_any_peer,
    an_application_reaches_no_port_of_a_peer_past_its_sidecar,
    every_user_but_the_sidecars_is_captured,
    another_spelling_of_an_address_leads_nowhere_else,
    what_is_not_tcp_does_not_leave,
    an_unknown_destination_is_refused_and_named,
    only_what_a_rule_of_egress_names_leaves_in_plaintext,
    a_host_leads_to_its_own_address_and_not_to_where_the_connection_was_going,
    a_server_name_leads_to_its_own_address_and_another_or_none_leads_nowhere,
    a_stranger_reaches_nothing_without_an_svid,
    without_its_sidecar_an_application_is_reached_by_nobody,
];

const OPEN: &str = "/open/PLAINTEXT";

fn an_unchanged_application_calls_a_service_over_mutual_tls(backend: Backend) {
    let world = World::new(backend);
    for peer in PAYMENTS {
        let http = format!("{peer}:8080");
        let answer = world.call(Of::Orders, APP, &["get", &http, OPEN]);
        assert_eq!(answer, "200 hello spiffe://shop.test/ns/shop/sa/orders", "{peer}");
        let denied = world.call(Of::Orders, APP, &["get", &http, "/closed/PLAINTEXT"]);
        assert!(denied.starts_with("403 denied"), "{peer}: {denied}");
        let said = world.call(Of::Orders, APP, &["say", &format!("{peer}:5432"), MARKER]);
        assert_eq!(said, "echo PLAINTEXT", "{peer}");
    }
    // At an address that is on no host at all.
    for address in ["10.96.0.7:80", "[fd96::7]:80"] {
        let answer = world.call(Of::Orders, APP, &["get", address, OPEN]);
        assert_eq!(answer, "200 hello spiffe://shop.test/ns/shop/sa/orders", "{address}");
    }
    nothing_in_plaintext(&world);
}

fn an_application_cannot_call_its_sidecars_ports_itself(backend: Backend) {
    let world = World::new(backend);
    for user in [APP, SOMEBODY, ROOT] {
        let get = |address: &str| world.call(Of::Orders, user, &["get", address, OPEN]);
        // On loopback the kernel refuses what it did not redirect.
        for port in ["15101", "15106"] {
            for address in ["127.0.0.1", "127.0.0.7", "[::1]", "[::ffff:127.0.0.1]"] {
                let address = format!("{address}:{port}");
                assert_eq!(get(&address), "refused", "{} to {address}", user.0);
            }
        }
        // At its own address it is captured, and the sidecar knows its own ports.
        for port in ["15101", "15106", "15120"] {
            for address in ["10.77.0.1", "[fd77::1]", "[::ffff:10.77.0.1]"] {
                let address = format!("{address}:{port}");
                assert_eq!(get(&address), "closed", "{} to {address}", user.0);
            }
        }
    }
    counted(&world, Of::Orders, "refused_direct");
    world.wait_for("orders-sidecar", "SG0103");
    // What operators read on loopback can be read, and nothing else.
    for address in ["127.0.0.1:15120", "[::1]:15120"] {
        assert!(world.call(Of::Orders, APP, &["get", address, "/metrics"]).starts_with("200"), "{address}");
        assert!(world.call(Of::Orders, APP, &["get", address, OPEN]).starts_with("404"), "{address}");
    }
}

fn an_application_that_calls_itself_is_judged_as_any_peer(backend: Backend) {
    let world = World::new(backend);
    for address in ["10.77.0.1:8080", "[fd77::1]:8080"] {
        let answer = world.call(Of::Orders, APP, &["get", address, OPEN]);
        assert!(answer.starts_with("403 denied"), "{address}: {answer}");
    }
    assert!(!world.said("orders-http").contains("request"), "it went to the sidecar, which refused it");
    // On loopback a workload is by itself.
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(world.call(Of::Orders, APP, &["get", address, OPEN]), "200 hello nobody", "{address}");
    }
}

fn an_application_reaches_no_port_of_a_peer_past_its_sidecar(backend: Backend) {
    let world = World::new(backend);
    for peer in PAYMENTS {
        for port in ["15101", "15106", "15120", "9999"] {
            let address = format!("{peer}:{port}");
            assert_eq!(world.call(Of::Orders, APP, &["say", &address, MARKER]), "closed", "{address}");
        }
    }
    world.wait_for("orders-sidecar", "10.77.0.2:9999: rule ");
    assert!(!world.said("payments-undeclared").contains("line"));
    nothing_in_plaintext(&world);
}

fn every_user_but_the_sidecars_is_captured(backend: Backend) {
    let world = World::new(backend);
    for user in [ROOT, SOMEBODY, User(65534)] {
        for peer in PAYMENTS {
            let answer = world.call(Of::Orders, user, &["get", &format!("{peer}:8080"), OPEN]);
            assert_eq!(answer, "200 hello spiffe://shop.test/ns/shop/sa/orders", "{} to {peer}", user.0);
            let closed = world.call(Of::Orders, user, &["say", &format!("{peer}:9999"), MARKER]);
            assert_eq!(closed, "closed", "{} to {peer}", user.0);
        }
    }
    nothing_in_plaintext(&world);
}

/// IPv4 out of an IPv6 socket, and the address that every interface has by itself.
fn another_spelling_of_an_address_leads_nowhere_else(backend: Backend) {
    let world = World::new(backend);
    let answer = world.call(Of::Orders, APP, &["get", "[::ffff:10.77.0.2]:8080", OPEN]);
    assert_eq!(answer, "200 hello spiffe://shop.test/ns/shop/sa/orders");
    assert_eq!(world.call(Of::Orders, APP, &["say", "[::ffff:10.77.0.2]:9999", MARKER]), "closed");
    world.wait_for("orders-sidecar", "10.77.0.2:9999: rule ");

    let shown = world.host(Of::Payments).shell("ip -6 -o addr show dev eth0 scope link");
    let own = shown.split_once("inet6 ").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    let interface = world.host(Of::Orders).shell("cat /sys/class/net/eth0/ifindex");
    for port in ["8080", "9999", "15106", "15120"] {
        let address = format!("[{own}%{}]:{port}", interface.trim());
        let answer = world.call(Of::Orders, APP, &["say", &address, MARKER]);
        assert!(!answer.starts_with("echo") && !answer.starts_with("200"), "{address}: {answer}");
    }
    for group in [format!("[ff02::1%{}]:7000", interface.trim()), "224.0.0.1:7000".to_owned()] {
        assert_eq!(world.call(Of::Orders, APP, &["say-udp", &group, MARKER]), "not permitted", "{group}");
    }
    for program in ["payments-undeclared", "payments-udp"] {
        assert!(!world.said(program).contains(MARKER), "{program}: {}", world.said(program));
    }
    assert_eq!(world.said("payments-http").matches("request").count(), 1, "the one of its caller's sidecar");
    nothing_in_plaintext(&world);
}

fn what_is_not_tcp_does_not_leave(backend: Backend) {
    let world = World::new(backend);
    for (address, user) in
        [("10.77.0.2:7000", APP), ("[fd77::2]:7000", APP), ("10.77.0.9:7001", ROOT), ("[fd77::9]:7001", ROOT)]
    {
        let said = world.call(Of::Orders, user, &["say-udp", address, MARKER]);
        assert_eq!(said, "not permitted", "{address}");
    }
    // QUIC and questions to whoever is not the resolver are no exception.
    for address in ["10.77.0.2:443", "10.77.0.2:53", "[fd77::9]:53"] {
        let said = world.call(Of::Orders, APP, &["say-udp", address, MARKER]);
        assert_eq!(said, "not permitted", "{address}");
    }
    for address in ["10.77.0.2:0", "[fd77::2]:0"] {
        for protocol in
            [UNKNOWN, SCTP, UDP_LITE, GRE, IP_IN_IP, if address.starts_with('[') { ICMP6 } else { ICMP }]
        {
            let said = world.call(Of::Orders, ROOT, &["say-raw", protocol, address, MARKER]);
            assert_eq!(said, "not permitted", "{protocol} to {address}");
        }
    }
    counted(&world, Of::Orders, "dropped_outbound_other");
    // From outside, nothing of the kind comes in either.
    for address in ["10.77.0.2:7000", "[fd77::2]:7000"] {
        assert_eq!(world.call(Of::Stranger, APP, &["say-udp", address, "question"]), "silence", "{address}");
    }
    for address in ["10.77.0.2:0", "[fd77::2]:0"] {
        assert_eq!(world.call(Of::Stranger, ROOT, &["say-raw", UNKNOWN, address, "question"]), "sent");
    }
    counted(&world, Of::Payments, "dropped_inbound");
    assert!(!world.said("payments-udp").contains("datagram"));
    nothing_in_plaintext(&world);

    let answer = world.call(Of::Orders, APP, &["say-udp", "10.77.0.9:53", "question"]);
    assert_eq!(answer, "question", "the resolver is asked");
    let local = world.call(Of::Payments, APP, &["say-udp", "127.0.0.1:7000", "question"]);
    assert_eq!(local, "question", "a host may talk to itself");
}

fn an_unknown_destination_is_refused_and_named(backend: Backend) {
    let world = World::new(backend);
    for address in ["10.77.0.9:80", "[fd77::9]:7777", "192.0.2.1:443", "10.77.0.2:8081"] {
        assert_eq!(world.call(Of::Orders, APP, &["say", address, MARKER]), "closed", "{address}");
        world.wait_for("orders-sidecar", &format!("{address}: rule "));
    }
    assert!(world.said("orders-sidecar").contains("SG0220"));
    // A service whose endpoint is somebody else: an error, and no byte in plaintext.
    let answer = world.call(Of::Orders, APP, &["get", "10.96.0.8:80", OPEN]);
    assert!(answer.starts_with("502 unavailable"), "{answer}");
    nothing_in_plaintext(&world);
}

fn only_what_a_rule_of_egress_names_leaves_in_plaintext(backend: Backend) {
    let world = World::new(backend);
    assert_eq!(world.call(Of::Orders, APP, &["say", "10.77.0.9:7777", MARKER]), "echo PLAINTEXT");
    // The same bytes are what the sniffer would have seen in every other test.
    world.wait_for("sniffer", "plaintext");
    world.wait_for("orders-sidecar", r#""tls":"plaintext""#);
    let log = world.said("orders-sidecar");
    assert!(log.contains(r#""rule":"legacy""#) && log.contains("10.77.0.9:7777"), "{log}");
    let metrics = world.call(Of::Orders, APP, &["get", "127.0.0.1:15120", "/metrics"]);
    let counted =
        |line: &str| line.contains("sidegate_connections_total{") && line.contains(r#"tls="plaintext""#);
    assert!(metrics.lines().any(counted), "{metrics}");
}

/// At the stranger's address, a request for `localhost` is answered by the own host, and one for anybody else by nobody.
fn a_host_leads_to_its_own_address_and_not_to_where_the_connection_was_going(backend: Backend) {
    let world = World::new(backend);
    let answer = world.call(Of::Orders, APP, &["get-as", "localhost", "10.77.0.9:8080", OPEN]);
    assert_eq!(answer, "200 hello nobody");
    world.wait_for("orders-sidecar", r#""rule":"by-name""#);
    for host in ["evil.test", "localhost.evil.test", "10.77.0.9", "127.0.0.1"] {
        let answer = world.call(Of::Orders, APP, &["get-as", host, "10.77.0.9:8080", OPEN]);
        assert!(answer.starts_with("403 denied"), "{host}: {answer}");
    }
    // The address alone, without a name that could be read.
    assert_eq!(world.call(Of::Orders, APP, &["say", "10.77.0.9:8080", MARKER]), "closed");
    nothing_in_plaintext(&world);
}

/// At the stranger's address, TLS to `localhost` is answered by the own host, whose certificate the caller verifies, and TLS to
/// anybody else by nobody.
fn a_server_name_leads_to_its_own_address_and_another_or_none_leads_nowhere(backend: Backend) {
    let mut world = World::new(backend);
    let path = |world: &World, port: &str| world.path(&format!("localhost-{port}.pem")).display().to_string();
    for port in ["8443", "8444"] {
        let words = ["tls", &format!("127.0.0.1:{port}"), &path(&world, port)];
        world.start(&format!("own-tls-{port}"), Of::Orders, ROOT, &words);
    }
    let certificate = path(&world, "8443");
    world.start("stranger-tls", Of::Stranger, APP, &["echo", "[::]:8443"]);
    let say = |name: &str, address: &str| {
        world.call(Of::Orders, APP, &["say-tls", name, address, &certificate, MARKER])
    };

    assert_eq!(say("localhost", "10.77.0.9:8443"), "echo PLAINTEXT");
    world.wait_for("orders-sidecar", r#""rule":"by-server-name""#);
    for other in ["evil.test", "localhost.evil.test"] {
        assert_eq!(say(other, "10.77.0.9:8443"), "closed", "{other}");
        world.wait_for("orders-sidecar", &format!("server name {other} is not in sni [localhost]"));
    }
    // TLS that names nobody, and no TLS.
    assert_eq!(say("10.77.0.9", "10.77.0.9:8443"), "closed");
    world.wait_for("orders-sidecar", "10.77.0.9:8443: rule ");
    assert_eq!(world.call(Of::Orders, APP, &["say", "10.77.0.9:8443", MARKER]), "closed");
    // The right name, at an address that a rule without a block does not mean.
    assert_eq!(say("localhost", "10.77.0.9:8444"), "closed");
    world.wait_for("orders-sidecar", ":8444: rule ");
    assert!(!world.said("stranger-tls").contains("line"), "{}", world.said("stranger-tls"));
    nothing_in_plaintext(&world);
}

/// Of applications, of nobody, and of the sidecar: outbound, inbound, health.
const PORTS: [&str; 7] = ["8080", "5432", "9999", "22", "15101", "15106", "15120"];

fn a_stranger_reaches_nothing_without_an_svid(backend: Backend) {
    let world = World::new(backend);
    // Whoever has the user of a sidecar is past the rules of its own host, and of no other.
    for (of, user) in [(Of::Stranger, APP), (Of::Orders, SIDECAR)] {
        for address in PAYMENTS.map(|peer| PORTS.map(|port| format!("{peer}:{port}"))).concat() {
            for words in [["get", &address, OPEN], ["say", &address, MARKER]] {
                assert_eq!(world.call(of, user, &words), "closed", "{words:?} of {}", of.account());
            }
        }
    }
    for program in ["payments-http", "payments-echo", "payments-undeclared"] {
        let said = world.said(program);
        assert!(!said.contains("line") && !said.contains("request"), "{program}: {said}");
    }
    for code in ["SG0101", "SG0103", "SG0105"] {
        world.wait_for("payments-sidecar", code);
    }
}

/// An application that takes its sidecar's place is not reached by anybody who is not on its host.
fn without_its_sidecar_an_application_is_reached_by_nobody(backend: Backend) {
    let mut world = World::new(backend);
    world.stop("payments-sidecar");
    assert_eq!(world.call(Of::Stranger, APP, &["say", "10.77.0.2:8080", MARKER]), "refused");
    world.start("payments-impostor", Of::Payments, APP, &["echo", "[::]:15106"]);
    for port in ["8080", "15106"] {
        let address = format!("10.77.0.2:{port}");
        assert_eq!(world.call(Of::Stranger, APP, &["say", &address, MARKER]), "silence", "{address}");
    }
    assert!(!world.said("payments-impostor").contains("line"));

    world.stop("orders-sidecar");
    world.start("orders-impostor", Of::Orders, APP, &["echo", "127.0.0.1:15101"]);
    let own = world.call(Of::Orders, APP, &["say", "10.77.0.2:9999", MARKER]);
    assert_eq!(own, "echo PLAINTEXT", "it speaks with itself");
}

/// Operators can see that something was refused. The rules of iptables count by themselves, without a name.
fn counted(world: &World, of: Of, counter: &str) {
    if world.backend == Backend::Nft {
        let seen = world.host(of).shell(&format!("nft list counter inet sidegate {counter}"));
        assert!(seen.contains("packets") && !seen.contains("packets 0 "), "{seen}");
    }
}

/// Numbers of IP protocols; 253 is nobody's (RFC 3692).
const UNKNOWN: &str = "253";
const SCTP: &str = "132";
const UDP_LITE: &str = "136";
const GRE: &str = "47";
const IP_IN_IP: &str = "41";
const ICMP: &str = "1";
const ICMP6: &str = "58";

fn nothing_in_plaintext(world: &World) {
    let seen = world.said("sniffer");
    assert!(!seen.contains("plaintext:"), "{seen}");
}

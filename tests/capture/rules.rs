//! The rules themselves: put in force in one step, found out when they are not as wanted, and taken away alone.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use crate::{
    hosts::{APP, ROOT},
    world::{Backend, Captured, MARKER, Of, World},
};

tests![
    applying_twice_changes_nothing_and_foreign_rules_stay,
    verify_names_every_kind_of_tampering_and_apply_repairs_it,
    rules_that_change_under_load_lose_nothing_and_leak_nothing,
    a_connection_from_before_the_rules_is_cut,
    what_is_excluded_passes_and_only_that,
    a_guard_holds_where_a_redirect_is_missing,
    what_cannot_be_done_says_why,
];

/// Enough for the load to outlast the changes.
const REQUESTS: usize = 1500;
const FOREIGN: &str = "nft add table inet foreign; nft add chain inet foreign c '{ type filter hook input priority 5; }'; \
                       nft add rule inet foreign c tcp dport 1 counter drop";

fn applying_twice_changes_nothing_and_foreign_rules_stay(backend: Backend) {
    let world = World::new(backend);
    let host = world.host(Of::Orders);
    host.shell(FOREIGN);
    let foreign = || host.shell("nft list table inet foreign");
    let (ours, others) = (ruleset(&world), foreign());
    let again = world.capture(Of::Orders, &["apply"]);
    assert_eq!((again.exit, &again.answer["state"]), (0, &"unchanged".into()));
    assert_eq!(ruleset(&world), ours);
    assert_eq!(foreign(), others);
    let verified = world.capture(Of::Orders, &["verify"]);
    assert_eq!((verified.exit, &verified.answer["state"]), (0, &"verified".into()));
    assert_eq!(ruleset(&world), ours, "looking leaves nothing behind");

    let cleared = world.capture(Of::Orders, &["clear"]);
    assert_eq!((cleared.exit, &cleared.answer["state"]), (0, &"cleared".into()));
    assert!(!ruleset(&world).to_lowercase().contains("sidegate"));
    assert_eq!(foreign(), others);
    assert_eq!(world.capture(Of::Orders, &["clear"]).exit, 0, "nothing is left to take away");
    differs(&world, "missing");
}

fn verify_names_every_kind_of_tampering_and_apply_repairs_it(backend: Backend) {
    let world = World::new(backend);
    let deeds: &[(&str, &str)] = match backend {
        Backend::Nft => &[
            ("nft flush ruleset", "table inet sidegate: missing"),
            ("nft delete table inet sidegate", "table inet sidegate: missing"),
            (
                "nft insert rule inet sidegate output tcp dport 25 accept",
                "chain output: not wanted: tcp dport 25",
            ),
            (
                "nft add rule inet sidegate redirect_outbound accept",
                "chain redirect_outbound: not wanted: accept",
            ),
            ("nft flush chain inet sidegate redirect_inbound", "chain redirect_inbound: missing"),
            ("nft flush chain inet sidegate local", "chain local: missing"),
            ("nft add chain inet sidegate other", "chain other: not wanted"),
            ("nft chain inet sidegate input '{ policy accept; }'", "chain input: "),
            ("nft add table inet sidegate '{ flags dormant; }'", "not wanted: flags dormant"),
            (DOUBLED_NFT, "in another order, or one is there twice"),
        ],
        Backend::Iptables => &[
            ("iptables-nft -t nat -F", "SIDEGATE_REDIRECT_OUTBOUND: missing"),
            ("ip6tables-nft -t nat -D OUTPUT 1", "OUTPUT does not begin with it"),
            ("iptables-nft -I OUTPUT -p tcp --dport 25 -j ACCEPT", "OUTPUT does not begin with it"),
            ("ip6tables-nft -I SIDEGATE_OUTPUT -p tcp --dport 25 -j ACCEPT", "SIDEGATE_OUTPUT: not wanted"),
            ("ip6tables-nft -F SIDEGATE_INPUT", "SIDEGATE_INPUT: missing"),
            ("iptables-nft -D SIDEGATE_LOCAL 1", "SIDEGATE_LOCAL: missing"),
            ("iptables-nft -N SIDEGATE_OTHER", "SIDEGATE_OTHER: not wanted"),
            ("iptables-nft -A SIDEGATE_REFUSE -j DROP", "in another order, or one is there twice"),
            ("ip6tables-nft-restore </dev/null; nft flush ruleset", "SIDEGATE_INPUT: missing"),
        ],
    };
    for (deed, named) in deeds {
        world.host(Of::Orders).shell(deed);
        differs(&world, named);
        let repaired = world.capture(Of::Orders, &["apply"]);
        assert_eq!(repaired.answer["state"], "applied", "{deed}");
        let verified = world.capture(Of::Orders, &["verify"]);
        let strays = verified.answer["differences"].to_string();
        // A chain of another name is nobody's to delete by an `apply` of iptables.
        if strays.contains("SIDEGATE_OTHER") {
            world.host(Of::Orders).shell("iptables-nft -X SIDEGATE_OTHER");
        } else {
            assert_eq!(verified.exit, 0, "{deed}: {strays}");
        }
    }
}

/// The last rule of a chain once more.
const DOUBLED_NFT: &str = "nft add rule inet sidegate refuse counter name dropped_outbound_other drop";

fn rules_that_change_under_load_lose_nothing_and_leak_nothing(backend: Backend) {
    let world = World::new(backend);
    let config = world.config(Of::Orders);
    let plain = fs::read_to_string(&config).unwrap();
    let excluding = plain.replace(
        "capture: {resolvers: [10.77.0.9]}",
        "capture: {resolvers: [10.77.0.9], outbound: {exclude: [{cidrs: [192.0.2.0/24], ports: [443]}]}}",
    );
    assert_ne!(plain, excluding);
    let count = REQUESTS.to_string();
    let mut load = world
        .program(Of::Orders, APP, &["gets", "10.77.0.2:8080", "/open/PLAINTEXT", &count])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = BufReader::new(load.stdout.take().unwrap()).lines();
    let mut last = answered.next().unwrap().unwrap();
    // Each round waits for the load to go on, so that no change falls into a pause.
    for round in 0..12 {
        fs::write(&config, if round % 2 == 0 { &excluding } else { &plain }).unwrap();
        assert_eq!(world.capture(Of::Orders, &["apply"]).answer["state"], "applied", "round {round}");
        for _ in 0..20 {
            last = answered.next().unwrap_or_else(|| panic!("the load ended in round {round}")).unwrap();
        }
    }
    last = answered.map_while(Result::ok).last().unwrap_or(last);
    assert!(load.wait().unwrap().success());
    assert_eq!(last, count, "every request was answered");
    assert!(!world.said("sniffer").contains("plaintext:"));
}

fn a_connection_from_before_the_rules_is_cut(backend: Backend) {
    let world = World::uncaptured(backend);
    let mut talk = world
        .program(Of::Orders, APP, &["talk", "10.77.0.9:7777", "line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(talk.stdout.take().unwrap()).lines();
    let mut tell = talk.stdin.take().unwrap();
    writeln!(tell).unwrap();
    assert_eq!(told.next().unwrap().unwrap(), "echo line", "without rules it is open");
    let lines = || world.said("stranger-echo").matches("line: line").count();
    assert_eq!(lines(), 1);

    assert_eq!(world.capture(Of::Orders, &["apply"]).answer["state"], "applied");
    writeln!(tell).unwrap();
    let cut = told.next().unwrap().unwrap();
    assert!(["silence", "closed", "refused"].contains(&cut.as_str()), "{cut}");
    drop(tell);
    assert!(talk.wait().unwrap().success());
    assert_eq!(lines(), 1, "nothing more arrived, not even when it was closed");
}

fn what_is_excluded_passes_and_only_that(backend: Backend) {
    let world = World::uncaptured(backend);
    let edit = |of: Of, from: &str, to: &str| {
        let text = fs::read_to_string(world.config(of)).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(world.config(of), text.replace(from, to)).unwrap();
        assert_eq!(world.capture(of, &["apply"]).answer["state"], "applied");
    };
    edit(
        Of::Payments,
        "capture: {resolvers: []}",
        "capture: {resolvers: [], inbound: {exclude: [{ports: [15120]}, {protocol: udp, cidrs: [10.77.0.9/32], ports: [7000]}]}}",
    );
    edit(
        Of::Orders,
        "capture: {resolvers: [10.77.0.9]}",
        "capture: {outbound: {exclude: [{cidrs: ['fd77::9/128'], ports: [7777]}, {protocol: udp, ports: [7001]}, {protocol: icmp, cidrs: ['fd77::9/128']}]}, resolvers: []}",
    );
    let health = |address: &str| world.call(Of::Stranger, APP, &["get", address, "/readyz"]);
    assert!(health("10.77.0.2:15120").starts_with("200") && health("[fd77::2]:15120").starts_with("200"));
    assert_eq!(health("10.77.0.1:15120"), "closed", "there it is not excluded");
    assert_eq!(world.call(Of::Stranger, APP, &["say-udp", "10.77.0.2:7000", "question"]), "question");
    assert_eq!(world.call(Of::Stranger, APP, &["say-udp", "[fd77::2]:7000", "question"]), "silence");

    assert_eq!(world.call(Of::Orders, APP, &["say", "[fd77::9]:7777", "hello"]), "echo hello");
    assert_eq!(world.call(Of::Orders, APP, &["say", "[fd77::2]:7777", MARKER]), "closed");
    for address in ["10.77.0.9:7001", "[fd77::9]:7001"] {
        assert_eq!(world.call(Of::Orders, APP, &["say-udp", address, "question"]), "question", "{address}");
    }
    assert_eq!(world.call(Of::Orders, APP, &["say-udp", "10.77.0.9:53", MARKER]), "not permitted");
    let raw = |protocol, address| world.call(Of::Orders, ROOT, &["say-raw", protocol, address, "a ping"]);
    assert_eq!((raw("58", "[fd77::9]:0"), raw("58", "[fd77::2]:0")), ("sent".into(), "not permitted".into()));
    assert_eq!(
        (raw("253", "[fd77::9]:0"), raw("1", "10.77.0.9:0")),
        ("not permitted".into(), "not permitted".into())
    );
}

/// Somebody takes the redirects away, or leads packets elsewhere before they meet them: what is left lets nothing through.
fn a_guard_holds_where_a_redirect_is_missing(backend: Backend) {
    let world = World::new(backend);
    let flush = match backend {
        Backend::Nft => {
            "nft flush chain inet sidegate redirect_outbound; nft flush chain inet sidegate redirect_inbound"
        }
        Backend::Iptables => {
            "iptables-nft -t nat -F SIDEGATE_REDIRECT_OUTBOUND; ip6tables-nft -t nat -F SIDEGATE_REDIRECT_OUTBOUND; \
             iptables-nft -t nat -F SIDEGATE_REDIRECT_INBOUND; ip6tables-nft -t nat -F SIDEGATE_REDIRECT_INBOUND"
        }
    };
    for of in [Of::Orders, Of::Payments] {
        world.host(of).shell(flush);
    }
    for peer in ["10.77.0.2", "[fd77::2]", "10.77.0.9", "[fd77::9]"] {
        for port in ["8080", "7777"] {
            let address = format!("{peer}:{port}");
            assert_eq!(world.call(Of::Orders, APP, &["say", &address, MARKER]), "refused", "{address}");
        }
    }
    for address in ["10.77.0.2:8080", "[fd77::2]:8080", "10.77.0.2:9999"] {
        assert_eq!(world.call(Of::Stranger, APP, &["say", address, MARKER]), "silence", "{address}");
    }
    let lead_away = "nft add table ip foreign; \
                     nft add chain ip foreign c '{ type nat hook prerouting priority -150; }'; \
                     nft add rule ip foreign c tcp dport 80 redirect to :9999";
    world.capture(Of::Payments, &["apply"]);
    world.host(Of::Payments).shell(lead_away);
    assert_eq!(world.call(Of::Stranger, APP, &["say", "10.77.0.2:80", MARKER]), "silence");
    assert!(!world.said("payments-undeclared").contains("line"));
}

fn what_cannot_be_done_says_why(backend: Backend) {
    let world = World::uncaptured(backend);
    let config = world.path("readable.yaml");
    fs::copy(world.config(Of::Orders), &config).unwrap();
    let config = config.to_str().unwrap();
    fs::set_permissions(config, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let sidegate = world.path("sidegate");
    let sidegate = sidegate.to_str().unwrap();
    let words = |what| ["proxy", "capture", what, "--config", config, "-o", "json"];

    let mut command = world.host(Of::Orders).command(APP, sidegate);
    let unprivileged = Captured::of(&command.args(words("apply")).output().unwrap());
    refused(&unprivileged, "SG0409", "CAP_NET_ADMIN");

    let mut command = world.host(Of::Orders).command(ROOT, "env");
    command.args(["PATH=/nowhere", sidegate]);
    refused(&Captured::of(&command.args(words("verify")).output().unwrap()), "SG0409", "install nftables");

    let text = fs::read_to_string(config).unwrap();
    fs::write(config, text.replace("capture: {resolvers: [10.77.0.9]}", "")).unwrap();
    let mut command = world.host(Of::Orders).command(ROOT, sidegate);
    let unsaid = Captured::of(&command.args(words("apply")).output().unwrap());
    assert_eq!((unsaid.exit, &unsaid.answer["code"]), (2, &"SG0403".into()));

    let mut command = world.host(Of::Orders).command(APP, sidegate);
    command.args(["proxy", "capture", "clear", "-o", "json"]);
    refused(&Captured::of(&command.output().unwrap()), "SG0409", "CAP_NET_ADMIN");
    assert_eq!(ruleset(&world), "", "nothing of this changed anything");
}

fn refused(captured: &Captured, code: &str, why: &str) {
    let message = captured.answer["message"].as_str().unwrap();
    assert_eq!((captured.exit, &captured.answer["code"]), (1, &code.into()), "{message}");
    assert!(message.contains(why), "{message}");
}

/// `verify` ends with 1 and a code, and one of its reasons has `named` in it.
fn differs(world: &World, named: &str) {
    let verified = world.capture(Of::Orders, &["verify"]);
    assert_eq!((verified.exit, &verified.answer["code"]), (1, &"SG0102".into()), "{named}");
    let differences = verified.answer["differences"].as_array().unwrap();
    assert!(
        differences.iter().any(|difference| difference.as_str().unwrap().contains(named)),
        "{named}: {differences:#?}"
    );
}

/// Every rule on the orders host, without counters.
fn ruleset(world: &World) -> String {
    let all = world.host(Of::Orders).shell("nft --stateless list ruleset");
    // iptables leaves the tables that it made, empty.
    all.lines().filter(|line| !line.contains("counter packets")).collect::<Vec<_>>().join("\n")
}

//! The rules as chains of our own in the `nat` and `filter` tables of iptables, for hosts without nft. Each table of
//! each family changes in one transaction, the filters first: between two of them traffic is refused and not let
//! through. What is in force is compared with the wanted rules as iptables itself prints them both.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{
    CaptureError, differences_of,
    rules::{Chain, End, NEIGHBOUR_DISCOVERY, Name, OF_SIDECAR, Rule, Then, When},
    tool,
};
use crate::config::IpProtocol;

/// The programs of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tools {
    family: Family,
    restore: &'static str,
    save: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Filter,
    Nat,
}

/// The programs of both families: the ones on nftables where they are, else whatever the host calls iptables.
pub(super) async fn tools() -> Result<[Tools; 2], CaptureError> {
    for [v4, v6] in TOOLS {
        if tool::is_there(v4.restore).await && tool::is_there(v6.restore).await {
            return Ok([v4, v6]);
        }
    }
    Err(CaptureError::NoBackend)
}

/// What `apply` reads, without the jumps from the built-in chains, which depend on what is there.
pub(super) fn script(chains: &[Chain]) -> String {
    let mut text = String::new();
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        for table in [Table::Filter, Table::Nat] {
            let _ = writeln!(text, "# {name}\n{}", restoring(table, family, chains, PREFIX, ""));
        }
    }
    text
}

pub(super) async fn apply(chains: &[Chain]) -> Result<(), CaptureError> {
    let tools = tools().await?;
    for table in [Table::Filter, Table::Nat] {
        for family in tools {
            let jumps = family.jumps(table, chains).await?;
            let script = restoring(table, family.family, chains, PREFIX, &jumps);
            family.restore(&script).await?;
        }
    }
    Ok(())
}

/// The redirects go first: what is still filtered then is refused.
pub(super) async fn clear() -> Result<(), CaptureError> {
    for table in [Table::Nat, Table::Filter] {
        for family in tools().await? {
            let saved = family.save(table).await?;
            let mut script = format!("*{}\n", table.as_str());
            for line in saved.lines().filter(|line| is_jump(line)) {
                let _ = writeln!(script, "{}", line.replacen("-A", "-D", 1));
            }
            let chains: Vec<&str> = saved.lines().filter_map(|line| own_chain(line, PREFIX)).collect();
            // Emptied before the first is deleted: they refer to each other.
            for chain in &chains {
                let _ = writeln!(script, "-F {chain}");
            }
            for chain in &chains {
                let _ = writeln!(script, "-X {chain}");
            }
            if !chains.is_empty() {
                script.push_str("COMMIT\n");
                family.restore(&script).await?;
            }
        }
    }
    Ok(())
}

/// Loads the wanted rules beside those in force, in chains that no packet meets, and compares what is printed of both.
pub(super) async fn differences(chains: &[Chain]) -> Result<Vec<String>, CaptureError> {
    let mut differences = Vec::new();
    for family in tools().await? {
        for table in [Table::Filter, Table::Nat] {
            differences.extend(family.differences(table, chains).await?);
        }
    }
    Ok(differences)
}

impl Tools {
    async fn restore(&self, script: &str) -> Result<(), CaptureError> {
        tool::run(self.restore, &["--noflush"], script).await.map(drop)
    }

    async fn save(&self, table: Table) -> Result<String, CaptureError> {
        tool::run(self.save, &["-t", table.as_str()], "").await
    }

    /// Ours come first, each once, wherever they are now.
    async fn jumps(&self, table: Table, chains: &[Chain]) -> Result<String, CaptureError> {
        let saved = self.save(table).await?;
        let mut lines = String::new();
        for line in saved.lines().filter(|line| is_jump(line)) {
            let _ = writeln!(lines, "{}", line.replacen("-A", "-D", 1));
        }
        for (name, built_in) in chains.iter().filter_map(|chain| Some((chain.name, built_in(chain.name)?))) {
            if table_of(name) == table {
                let _ = writeln!(lines, "-I {built_in} 1 -j {}", chain_name(PREFIX, name));
            }
        }
        Ok(lines)
    }

    async fn differences(&self, table: Table, chains: &[Chain]) -> Result<Vec<String>, CaptureError> {
        let present = self.save(table).await?;
        let scratch = format!("SG{}_", std::process::id());
        self.restore(&restoring(table, self.family, chains, &scratch, "")).await?;
        let wanted = self.save(table).await;
        // Taken away again whatever the listing brought.
        self.restore(&removing(table, chains, &scratch)).await?;
        let wanted = wanted?;

        let mut differences = Vec::new();
        for name in chains.iter().map(|chain| chain.name).filter(|name| table_of(*name) == table) {
            let chain = chain_name(PREFIX, name);
            let place = format!("{} {} {chain}", self.save, table.as_str());
            if !present.lines().any(|line| own_chain(line, PREFIX) == Some(&chain)) {
                differences.push(format!("{place}: missing"));
                continue;
            }
            let wanted = rules_in(&wanted, &chain_name(&scratch, name));
            let wanted: Vec<String> = wanted.iter().map(|rule| rule.replace(&scratch, PREFIX)).collect();
            differences.extend(differences_of(&place, &wanted, &rules_in(&present, &chain)));
            let Some(built_in) = built_in(name) else { continue };
            let first = rules_in(&present, built_in).first() == Some(&format!("-A {built_in} -j {chain}"));
            if !first {
                differences.push(format!("{place}: {built_in} does not begin with it"));
            }
        }
        let known: Vec<String> = chains.iter().map(|chain| chain_name(PREFIX, chain.name)).collect();
        let strange = present.lines().filter_map(|line| own_chain(line, PREFIX));
        let strange = strange.filter(|chain| !known.iter().any(|known| known == chain));
        differences.extend(strange.map(|chain| format!("{} {chain}: not wanted", self.save)));
        Ok(differences)
    }
}

/// The lines that make `chains` anew, and then `jumps`, in one transaction.
fn restoring(table: Table, family: Family, chains: &[Chain], prefix: &str, jumps: &str) -> String {
    let mut text = format!("*{}\n", table.as_str());
    let chains: Vec<&Chain> = chains.iter().filter(|chain| table_of(chain.name) == table).collect();
    for chain in &chains {
        let _ = writeln!(text, ":{} - [0:0]", chain_name(prefix, chain.name));
    }
    for Chain { name, rules } in chains {
        for line in rules.iter().flat_map(|rule| lines(rule, family, prefix)) {
            let _ = writeln!(text, "-A {} {line}", chain_name(prefix, *name));
        }
    }
    text.push_str(jumps);
    text.push_str("COMMIT\n");
    text
}

fn removing(table: Table, chains: &[Chain], prefix: &str) -> String {
    let names: Vec<String> = chains
        .iter()
        .filter(|chain| table_of(chain.name) == table)
        .map(|chain| chain_name(prefix, chain.name))
        .collect();
    let mut text = format!("*{}\n", table.as_str());
    for what in ["-F", "-X"] {
        for name in &names {
            let _ = writeln!(text, "{what} {name}");
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// `rule` in the words of iptables: a line for each combination of what its conditions list; none if it is about the
/// other family.
fn lines(rule: &Rule, family: Family, prefix: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for when in &rule.when {
        let alternatives = condition(when, family);
        lines = lines
            .iter()
            .flat_map(|line| alternatives.iter().map(move |words| format!("{line}{words} ")))
            .collect();
    }
    let actions = match rule.then {
        Then::Pass => vec!["-j RETURN".to_owned()],
        Then::PassOfSidecar => {
            vec![format!("-j CONNMARK --set-xmark {OF_SIDECAR:#x}/{OF_SIDECAR:#x}"), "-j RETURN".to_owned()]
        }
        Then::Redirect(port) => vec![format!("-j REDIRECT --to-ports {port}")],
        Then::Goto(chain) => vec![format!("-g {}", chain_name(prefix, chain))],
        Then::Drop(_) => vec!["-j DROP".to_owned()],
        Then::Reset(_) => vec!["-j REJECT --reject-with tcp-reset".to_owned()],
    };
    lines.iter().flat_map(|line| actions.iter().map(move |action| format!("{line}{action}"))).collect()
}

/// The spellings of a condition, any of which meets it.
fn condition(when: &When, family: Family) -> Vec<String> {
    let one = |words: &str| vec![words.to_owned()];
    match when {
        When::FromLoopback => one("-i lo"),
        When::ToThisHost(true) => one("-m addrtype --dst-type LOCAL"),
        When::ToThisHost(false) => one("-m addrtype ! --dst-type LOCAL"),
        When::Nets(end, nets) => {
            let end = match end {
                End::Source => "-s",
                End::Destination => "-d",
            };
            let of_family = |net: &&IpNet| matches!(net, IpNet::V4(_)) == (family == Family::V4);
            nets.iter().filter(of_family).map(|net| format!("{end} {net}")).collect()
        }
        When::Carries(protocol) => one(&format!("-p {}", protocol_name(*protocol, family))),
        When::Ports(protocol, end, ports) => {
            let end = match end {
                End::Source => "--sports",
                End::Destination => "--dports",
            };
            let protocol = protocol_name(*protocol, family);
            ports
                .chunks(MOST_PORTS)
                .map(|ports| {
                    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                    format!("-p {protocol} -m multiport {end} {}", ports.join(","))
                })
                .collect()
        }
        When::Uid(uid) => one(&format!("-m owner --uid-owner {uid}")),
        // Not `--socket-exists`: the kernel has sockets of its own, for resets and neighbour discovery.
        When::AnyProgram => one(&format!("-m owner --uid-owner 0-{}", u32::MAX - 1)),
        When::OfSidecar(true) => one(&format!("-m connmark --mark {OF_SIDECAR:#x}/{OF_SIDECAR:#x}")),
        When::OfSidecar(false) => one(&format!("-m connmark ! --mark {OF_SIDECAR:#x}/{OF_SIDECAR:#x}")),
        When::NotRedirected => one("-m conntrack ! --ctstate DNAT"),
        When::Reply => one("-m conntrack --ctdir REPLY"),
        When::Related => one("-m conntrack --ctstate RELATED"),
        When::NeighbourDiscovery if family == Family::V6 => {
            NEIGHBOUR_DISCOVERY.iter().map(|kind| format!("-p ipv6-icmp --icmpv6-type {kind}")).collect()
        }
        When::NeighbourDiscovery => Vec::new(),
        When::Reset => one("--tcp-flags RST RST"),
    }
}

fn protocol_name(protocol: IpProtocol, family: Family) -> &'static str {
    match (protocol, family) {
        (IpProtocol::Tcp, _) => "tcp",
        (IpProtocol::Udp, _) => "udp",
        (IpProtocol::Icmp, Family::V4) => "icmp",
        (IpProtocol::Icmp, Family::V6) => "ipv6-icmp",
    }
}

fn table_of(name: Name) -> Table {
    match name {
        Name::RedirectInbound | Name::RedirectOutbound => Table::Nat,
        Name::Input | Name::Output | Name::Local | Name::Refuse => Table::Filter,
    }
}

fn built_in(name: Name) -> Option<&'static str> {
    match name {
        Name::RedirectInbound => Some("PREROUTING"),
        Name::Input => Some("INPUT"),
        Name::RedirectOutbound | Name::Output => Some("OUTPUT"),
        Name::Local | Name::Refuse => None,
    }
}

fn chain_name(prefix: &str, name: Name) -> String {
    format!("{prefix}{}", name.as_str().to_uppercase())
}

/// The chain that a line of `iptables-save` declares, if it is one of ours.
fn own_chain<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    line.strip_prefix(':')?.split(' ').next().filter(|chain| chain.starts_with(prefix))
}

/// A rule of a built-in chain that leads to one of ours.
fn is_jump(line: &str) -> bool {
    let mut words = line.split(' ');
    let is_rule_of_another =
        words.next() == Some("-A") && !words.next().is_some_and(|c| c.starts_with(PREFIX));
    is_rule_of_another && words.any(|word| word.starts_with(PREFIX))
}

fn rules_in(saved: &str, chain: &str) -> Vec<String> {
    let start = format!("-A {chain} ");
    saved.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
}

impl Table {
    fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

const TOOLS: [[Tools; 2]; 2] = [
    [
        Tools { family: Family::V4, restore: "iptables-nft-restore", save: "iptables-nft-save" },
        Tools { family: Family::V6, restore: "ip6tables-nft-restore", save: "ip6tables-nft-save" },
    ],
    [
        Tools { family: Family::V4, restore: "iptables-restore", save: "iptables-save" },
        Tools { family: Family::V6, restore: "ip6tables-restore", save: "ip6tables-save" },
    ],
];
/// With the longest of the names below the 28 characters that a chain's name may have.
const PREFIX: &str = "SIDEGATE_";
/// Of one `multiport`.
const MOST_PORTS: usize = 15;

//! The rules as one table of nftables for both families: one transaction puts it in force, another takes it away. What is
//! in force is compared with the wanted rules as the kernel holds them both, so that no spelling of nft matters.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;

use super::{
    CaptureError, differences_of,
    rules::{Chain, Counter, End, NEIGHBOUR_DISCOVERY, Name, OF_SIDECAR, Rule, Then, When},
    tool,
};
use crate::config::IpProtocol;

/// Replaces the table, whatever is in it, in one transaction: no packet meets half of the rules.
pub(super) fn script(chains: &[Chain]) -> String {
    // `add` first: it is no error for a table that is there, and `delete` is one for a table that is not.
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{}", table(TABLE, "", chains))
}

pub(super) async fn apply(chains: &[Chain]) -> Result<(), CaptureError> {
    tool::run("nft", &["-f", "-"], &script(chains)).await.map(drop)
}

pub(super) async fn clear() -> Result<(), CaptureError> {
    let script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    tool::run("nft", &["-f", "-"], &script).await.map(drop)
}

/// Loads the wanted rules beside those in force, in a table that no packet meets, and compares the two listings.
pub(super) async fn differences(chains: &[Chain]) -> Result<Vec<String>, CaptureError> {
    let tables = tool::run("nft", &["list", "tables", "inet"], "").await?;
    if !tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")) {
        return Ok(vec![format!("table inet {TABLE}: missing")]);
    }
    let scratch = format!("{TABLE}_wanted_{}", std::process::id());
    let load = table(&scratch, DORMANT, chains);
    tool::run("nft", &["-f", "-"], &load).await?;
    let wanted = list(&scratch).await;
    // Taken away again whatever the listing brought.
    tool::run("nft", &["delete", "table", "inet", &scratch], "").await?;
    let mut wanted = sections(&wanted?);
    wanted.entry(TABLE.to_owned()).or_default().retain(|line| line != DORMANT);
    Ok(compare(&wanted, &sections(&list(TABLE).await?)))
}

async fn list(table: &str) -> Result<String, CaptureError> {
    tool::run("nft", &["--numeric", "--numeric", "--stateless", "list", "table", "inet", table], "").await
}

/// The lines of each chain and counter in a listing; those of the table itself under its own word.
fn sections(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut sections = BTreeMap::from([(TABLE.to_owned(), Vec::new())]);
    let mut current = TABLE.to_owned();
    for line in listing.lines().map(str::trim) {
        match line.strip_suffix(" {") {
            // Its name is what differs.
            Some(opened) if opened.starts_with("table ") => {}
            Some(opened) => {
                opened.clone_into(&mut current);
                sections.entry(current.clone()).or_default();
            }
            None if line == "}" => TABLE.clone_into(&mut current),
            None if line.is_empty() => {}
            None => sections.entry(current.clone()).or_default().push(line.to_owned()),
        }
    }
    sections
}

fn compare(wanted: &BTreeMap<String, Vec<String>>, present: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut differences = Vec::new();
    for (section, rules) in wanted {
        match present.get(section) {
            None => differences.push(format!("{section}: missing")),
            Some(present) => differences.extend(differences_of(section, rules, present)),
        }
    }
    let strange = present.keys().filter(|section| !wanted.contains_key(*section));
    differences.extend(strange.map(|section| format!("{section}: not wanted")));
    differences
}

fn table(name: &str, flags: &str, chains: &[Chain]) -> String {
    let mut text = format!("table inet {name} {{\n");
    if !flags.is_empty() {
        let _ = writeln!(text, "  {flags};");
    }
    for counter in Counter::ALL {
        let _ = writeln!(text, "  counter {} {{ }}", counter.as_str());
    }
    for Chain { name, rules } in chains {
        let _ = writeln!(text, "  chain {} {{", name.as_str());
        if let Some(hook) = hook(*name) {
            let _ = writeln!(text, "    {hook}");
        }
        for rule in rules {
            let _ = writeln!(text, "    {}", line(rule));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// The redirects come before others' (-100), so that no other table leads a packet elsewhere first. The filters' policy
/// is never reached, and drops.
fn hook(name: Name) -> Option<&'static str> {
    match name {
        Name::RedirectInbound => Some("type nat hook prerouting priority -105; policy accept;"),
        Name::RedirectOutbound => Some("type nat hook output priority -105; policy accept;"),
        Name::Input => Some("type filter hook input priority 0; policy drop;"),
        Name::Output => Some("type filter hook output priority 0; policy drop;"),
        Name::Local | Name::Refuse => None,
    }
}

fn line(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.when.iter().map(condition).collect();
    words.push(match rule.then {
        Then::Pass => "accept".to_owned(),
        Then::PassOfSidecar => format!("ct mark set ct mark or {OF_SIDECAR:#x} accept"),
        Then::Redirect(port) => format!("redirect to :{port}"),
        Then::Goto(chain) => format!("goto {}", chain.as_str()),
        Then::Drop(counter) => format!("counter name {} drop", counter.as_str()),
        Then::Reset(counter) => format!("counter name {} reject with tcp reset", counter.as_str()),
    });
    words.join(" ")
}

fn condition(when: &When) -> String {
    match when {
        When::FromLoopback => "iif lo".to_owned(),
        When::ToThisHost(true) => "fib daddr type local".to_owned(),
        When::ToThisHost(false) => "fib daddr type != local".to_owned(),
        When::Nets(end, nets) => {
            let family = if nets.iter().all(|net| matches!(net, IpNet::V4(_))) { "ip" } else { "ip6" };
            let end = match end {
                End::Source => "saddr",
                End::Destination => "daddr",
            };
            format!("{family} {end} {}", set(&disjoint(nets)))
        }
        When::Carries(IpProtocol::Icmp) => "meta l4proto { icmp, ipv6-icmp }".to_owned(),
        When::Carries(protocol) => format!("meta l4proto {}", protocol_name(*protocol)),
        When::Ports(protocol, end, ports) => {
            let end = match end {
                End::Source => "sport",
                End::Destination => "dport",
            };
            format!("{} {end} {}", protocol_name(*protocol), set(ports))
        }
        When::Uid(uid) => format!("meta skuid {uid}"),
        When::AnyProgram => format!("meta skuid 0-{}", u32::MAX),
        When::OfSidecar(true) => format!("ct mark and {OF_SIDECAR:#x} == {OF_SIDECAR:#x}"),
        When::OfSidecar(false) => format!("ct mark and {OF_SIDECAR:#x} == 0"),
        When::NotRedirected => "ct status and dnat == 0".to_owned(),
        When::Reply => "ct direction reply".to_owned(),
        When::Related => "ct state related".to_owned(),
        When::NeighbourDiscovery => format!("icmpv6 type {}", set(&NEIGHBOUR_DISCOVERY)),
        When::Reset => "tcp flags & rst == rst".to_owned(),
    }
}

fn protocol_name(protocol: IpProtocol) -> &'static str {
    match protocol {
        IpProtocol::Tcp => "tcp",
        IpProtocol::Udp => "udp",
        IpProtocol::Icmp => "icmp",
    }
}

/// A set of nft holds no range that overlaps another.
fn disjoint(nets: &[IpNet]) -> Vec<IpNet> {
    IpNet::aggregate(&nets.to_vec())
}

fn set<T: ToString>(elements: &[T]) -> String {
    let elements: Vec<String> = elements.iter().map(T::to_string).collect();
    format!("{{ {} }}", elements.join(", "))
}

const TABLE: &str = "sidegate";
/// The flag of a table that no packet meets.
const DORMANT: &str = "flags dormant";

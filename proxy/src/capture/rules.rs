//! What the kernel must do, in terms of neither nft nor iptables: chains of rules, made from the configuration alone.
//!
//! Two pairs of chains, each of which would be enough on an honest host. The redirects lead TCP to the sidecar's
//! captured listeners. The filters drop whatever was not led there, whoever sent it and for whatever reason: a
//! connection from before the rules, another table that rewrites addresses, a protocol that has no redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{Capture, Config, IpProtocol, Traffic};

/// Rules in their order. A packet that meets none goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: Name,
    pub(super) rules: Vec<Rule>,
}

/// The chains that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// NAT of what arrives from other hosts.
    RedirectInbound,
    /// NAT of what starts here.
    RedirectOutbound,
    /// Filters what arrives.
    Input,
    /// Filters what leaves, or goes to this host itself.
    Output,
    /// From `Output`: what goes to this host itself.
    Local,
    /// From `Output`: what does not leave.
    Refuse,
}

/// What to do with a packet that meets all of the conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) when: Vec<When>,
    pub(super) then: Then,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// It came in by the loopback interface.
    FromLoopback,
    /// It goes to an address of this host, or not.
    ToThisHost(bool),
    /// One end is in one of these ranges, which are of one family.
    Nets(End, Vec<IpNet>),
    /// Its protocol.
    Carries(IpProtocol),
    /// Its protocol and one of its ports.
    Ports(IpProtocol, End, Vec<u16>),
    /// A socket of this user sends it.
    Uid(u32),
    /// A socket of any user sends it, and not the kernel on its own.
    AnyProgram,
    /// It belongs to a connection that the sidecar has an end of, or not.
    OfSidecar(bool),
    /// Its connection was not redirected.
    NotRedirected,
    /// It answers the side that opened the connection.
    Reply,
    /// It tells of another connection that it failed.
    Related,
    /// Without it there is no IPv6 on a link: neighbour and router discovery, multicast membership.
    NeighbourDiscovery,
    /// It ends a connection and carries nothing.
    Reset,
}

/// An end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Goes on, past the rest of these chains. Other tables still have their say.
    Pass,
    /// Goes on, and its connection counts as the sidecar's from now on.
    PassOfSidecar,
    /// Goes to this port of this host.
    Redirect(u16),
    /// Meets the rules of this chain instead.
    Goto(Name),
    /// Is counted and dropped.
    Drop(Counter),
    /// Is counted and answered with a reset.
    Reset(Counter),
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// From another host, past the sidecar.
    Inbound,
    /// TCP to another host, past the sidecar.
    OutboundTcp,
    /// Anything else to another host.
    OutboundOther,
    /// From this host to a captured listener, without having been redirected.
    Direct,
}

/// The rules for `config`, whose section is `capture`.
pub(super) fn of(config: &Config, capture: &Capture, resolvers: &[IpAddr]) -> Vec<Chain> {
    let ports = Ports::of(config);
    let of = |name, rules| Chain { name, rules };
    vec![
        of(Name::Refuse, refuse()),
        of(Name::Local, local(&ports)),
        of(Name::Input, input(&ports, capture, resolvers)),
        of(Name::Output, output(capture, resolvers)),
        of(Name::RedirectInbound, redirect_inbound(&ports, capture)),
        of(Name::RedirectOutbound, redirect_outbound(&ports, capture, resolvers)),
    ]
}

/// The sidecar's own ports.
struct Ports {
    /// Takes what is captured inbound.
    inbound: Option<u16>,
    /// Takes what is captured outbound.
    outbound: Option<u16>,
    /// Where peers connect with mutual TLS: `inbound`, and listeners of one port each.
    mutual_tls: Vec<u16>,
}

impl Ports {
    fn of(config: &Config) -> Self {
        let inbound = config.inbound.iter().find(|port| port.is_captured).map(|port| port.listen.port());
        let mut mutual_tls: Vec<u16> = config.inbound.iter().map(|port| port.listen.port()).collect();
        mutual_tls.sort_unstable();
        mutual_tls.dedup();
        Self { inbound, outbound: config.captured_outbound(), mutual_tls }
    }

    /// What takes captured connections and nothing else.
    fn captured(&self) -> Vec<u16> {
        self.inbound.into_iter().chain(self.outbound).collect()
    }
}

/// All TCP from other hosts, but what is excluded, goes to the captured listener.
fn redirect_inbound(ports: &Ports, capture: &Capture) -> Vec<Rule> {
    let Some(listener) = ports.inbound else { return Vec::new() };
    let mut rules = vec![
        rule([When::FromLoopback], Then::Pass),
        // What this host forwards for others is not the workload's.
        rule([When::ToThisHost(false)], Then::Pass),
    ];
    rules.extend(to_captured(ports, capture, listener, &[]));
    rules
}

/// All TCP that starts here, but the sidecar's own and what is excluded, goes to the captured listener.
fn redirect_outbound(ports: &Ports, capture: &Capture, resolvers: &[IpAddr]) -> Vec<Rule> {
    let sidecar = When::Uid(capture.uid);
    let mut rules: Vec<Rule> =
        LOOPBACK.iter().map(|net| rule([When::Nets(End::Destination, vec![*net])], Then::Pass)).collect();
    if let Some(listener) = ports.inbound {
        // A workload that calls its own service meets itself as any peer would.
        rules.extend(to_captured(ports, capture, listener, &[sidecar.clone(), When::ToThisHost(true)]));
    }
    rules.push(rule([sidecar], Then::Pass));
    if let Some(listener) = ports.outbound {
        rules.extend(passing(&tcp(&capture.outbound.exclude), Way::CallOut));
        rules.extend(passing(&tcp(&questions(resolvers)), Way::CallOut));
        rules.extend(redirecting(&capture.outbound.include, Way::CallOut, listener, &[]));
    }
    rules
}

/// Redirects inbound TCP that meets `also`; what is for a mutual TLS listener itself is where it should be.
fn to_captured(ports: &Ports, capture: &Capture, listener: u16, also: &[When]) -> Vec<Rule> {
    let mut rules = passing_also(&tcp(&capture.inbound.exclude), Way::CallIn, also);
    let served = When::Ports(IpProtocol::Tcp, End::Destination, ports.mutual_tls.clone());
    rules.push(Rule { when: [also, &[served]].concat(), then: Then::Pass });
    rules.extend(redirecting(&capture.inbound.include, Way::CallIn, listener, also));
    rules
}

/// Nothing from another host comes in but by a mutual TLS listener, as an exclusion, or as an answer to what left.
fn input(ports: &Ports, capture: &Capture, resolvers: &[IpAddr]) -> Vec<Rule> {
    let mut rules = vec![rule([When::FromLoopback], Then::Pass), rule([When::OfSidecar(true)], Then::Pass)];
    if !ports.mutual_tls.is_empty() {
        let served = When::Ports(IpProtocol::Tcp, End::Destination, ports.mutual_tls.clone());
        rules.push(rule([served], Then::Pass));
    }
    rules.extend(passing(&capture.inbound.exclude, Way::CallIn));
    rules.extend(passing(&capture.outbound.exclude, Way::AnswerIn));
    rules.extend(passing(&questions(resolvers), Way::AnswerIn));
    rules.extend(of_the_network());
    rules.push(rule([], Then::Drop(Counter::Inbound)));
    rules
}

/// Nothing leaves this host but from the sidecar, as an exclusion, or as an answer to an exclusion.
fn output(capture: &Capture, resolvers: &[IpAddr]) -> Vec<Rule> {
    let mut rules = vec![
        // Marks the connection: a socket that is being closed has no user any more, and still has bytes to send.
        rule([When::Uid(capture.uid)], Then::PassOfSidecar),
        rule([When::ToThisHost(true)], Then::Goto(Name::Local)),
    ];
    rules.extend(passing(&capture.outbound.exclude, Way::CallOut));
    rules.extend(passing(&questions(resolvers), Way::CallOut));
    rules.extend(passing(&capture.inbound.exclude, Way::AnswerOut));
    // Before the mark is asked: no other program may use a connection after the sidecar.
    rules.push(rule([When::AnyProgram], Then::Goto(Name::Refuse)));
    rules.push(rule([When::OfSidecar(true)], Then::Pass));
    rules.extend(of_the_network());
    // From the kernel, for a port without a listener: callers learn at once that the sidecar is gone.
    rules.push(rule([When::Carries(IpProtocol::Tcp), When::Reset], Then::Pass));
    rules.push(rule([], Then::Goto(Name::Refuse)));
    rules
}

/// On this host all may talk, but the captured listeners take only what was redirected.
fn local(ports: &Ports) -> Vec<Rule> {
    let captured = ports.captured();
    if captured.is_empty() {
        return vec![rule([], Then::Pass)];
    }
    let direct = [
        When::Ports(IpProtocol::Tcp, End::Destination, captured),
        When::OfSidecar(false),
        When::NotRedirected,
    ];
    vec![rule(direct, Then::Reset(Counter::Direct)), rule([], Then::Pass)]
}

/// A reset, so that a program fails at once and not after minutes.
fn refuse() -> Vec<Rule> {
    vec![
        rule([When::Carries(IpProtocol::Tcp)], Then::Reset(Counter::OutboundTcp)),
        rule([], Then::Drop(Counter::OutboundOther)),
    ]
}

/// What the network needs to work, and what only the kernel speaks.
fn of_the_network() -> [Rule; 2] {
    [
        rule([When::Related, When::Carries(IpProtocol::Icmp)], Then::Pass),
        rule([When::NeighbourDiscovery], Then::Pass),
    ]
}

/// Questions to the resolvers; one on loopback is not on another host.
fn questions(resolvers: &[IpAddr]) -> Vec<Traffic> {
    let cidrs: Vec<IpNet> =
        resolvers.iter().filter(|ip| !ip.is_loopback()).map(|ip| IpNet::from(*ip)).collect();
    if cidrs.is_empty() {
        return Vec::new();
    }
    let of = |carried| Traffic { carried, cidrs: cidrs.clone(), ports: vec![DNS] };
    vec![of(IpProtocol::Udp), of(IpProtocol::Tcp)]
}

fn tcp(traffic: &[Traffic]) -> Vec<Traffic> {
    traffic.iter().filter(|traffic| traffic.carried == IpProtocol::Tcp).cloned().collect()
}

fn redirecting(include: &[Traffic], way: Way, listener: u16, also: &[When]) -> Vec<Rule> {
    let then = Then::Redirect(listener);
    if include.is_empty() {
        let all = When::Carries(IpProtocol::Tcp);
        return vec![Rule { when: [also, &[all]].concat(), then }];
    }
    let alternatives = include.iter().flat_map(|traffic| alternatives(traffic, way));
    alternatives.map(|when| Rule { when: [also, &when].concat(), then }).collect()
}

fn passing(traffic: &[Traffic], way: Way) -> Vec<Rule> {
    passing_also(traffic, way, &[])
}

fn passing_also(traffic: &[Traffic], way: Way, also: &[When]) -> Vec<Rule> {
    let alternatives = traffic.iter().flat_map(|traffic| alternatives(traffic, way));
    alternatives.map(|when| Rule { when: [also, &when].concat(), then: Then::Pass }).collect()
}

/// Which packets of a connection between this host and another.
#[derive(Clone, Copy)]
enum Way {
    /// From this host, which opened it.
    CallOut,
    /// To this host, which opened it.
    AnswerIn,
    /// To this host, which was called.
    CallIn,
    /// From this host, which was called.
    AnswerOut,
}

/// One list of conditions for each family that `traffic` names.
fn alternatives(traffic: &Traffic, way: Way) -> Vec<Vec<When>> {
    // A range is about the other host, a port about the one that was called.
    let (far, called, answers) = match way {
        Way::CallOut => (End::Destination, End::Destination, None),
        Way::AnswerIn => (End::Source, End::Source, Some(When::Reply)),
        Way::CallIn => (End::Source, End::Destination, None),
        Way::AnswerOut => (End::Destination, End::Source, Some(When::Reply)),
    };
    let what = if traffic.ports.is_empty() {
        When::Carries(traffic.carried)
    } else {
        When::Ports(traffic.carried, called, traffic.ports.clone())
    };
    let conditions: Vec<When> = [what].into_iter().chain(answers).collect();
    if traffic.cidrs.is_empty() {
        return vec![conditions];
    }
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        traffic.cidrs.iter().copied().partition(|net| matches!(net, IpNet::V4(_)));
    [v4, v6]
        .into_iter()
        .filter(|nets| !nets.is_empty())
        .map(|nets| [&[When::Nets(far, nets)][..], &conditions].concat())
        .collect()
}

fn rule(when: impl IntoIterator<Item = When>, then: Then) -> Rule {
    Rule { when: when.into_iter().collect(), then }
}

impl Name {
    /// As in messages and, in capitals, in iptables.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RedirectInbound => "redirect_inbound",
            Self::RedirectOutbound => "redirect_outbound",
            Self::Input => "input",
            Self::Output => "output",
            Self::Local => "local",
            Self::Refuse => "refuse",
        }
    }
}

impl Counter {
    pub(super) const ALL: [Self; 4] = [Self::Inbound, Self::OutboundTcp, Self::OutboundOther, Self::Direct];

    /// As operators read it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "dropped_inbound",
            Self::OutboundTcp => "refused_outbound_tcp",
            Self::OutboundOther => "dropped_outbound_other",
            Self::Direct => "refused_direct",
        }
    }
}

/// The bit of a connection's mark that says that the sidecar has an end of it.
pub(super) const OF_SIDECAR: u32 = 0x4000_0000;
/// Of ICMP for IPv6: multicast membership (130 to 132, 143; RFC 2710, RFC 3810), router and neighbour discovery (133 to 136; RFC
/// 4861). Not redirects, by which a neighbour leads packets elsewhere.
pub(super) const NEIGHBOUR_DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];
const DNS: u16 = 53;

#[cfg(test)]
mod tests;

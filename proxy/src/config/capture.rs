//! The `capture` section: what the kernel leads through this sidecar and what passes beside it. Without a word in it,
//! all TCP is captured and nothing else leaves but questions to the resolvers.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, schema};

/// What the kernel leads through this sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The user that the sidecar runs as, and nothing else does: its traffic is not led back to it.
    pub uid: u32,
    /// Who answers the workload's DNS questions. `None`: the nameservers of `/etc/resolv.conf`.
    pub resolvers: Option<Vec<IpAddr>>,
    /// What comes from other hosts.
    pub inbound: Selection,
    /// What the workload sends to other hosts.
    pub outbound: Selection,
}

/// Which traffic of one direction is captured. What is neither captured nor excluded is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// TCP that is captured. Empty: all of it.
    pub include: Vec<Traffic>,
    /// What passes beside the sidecar, unseen.
    pub exclude: Vec<Traffic>,
}

/// Traffic by protocol, range and port; at least one of the last two is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What it is.
    pub carried: IpProtocol,
    /// Inbound where it comes from, outbound where it goes to. Empty: anywhere.
    pub cidrs: Vec<IpNet>,
    /// The ports that it goes to. Empty: any.
    pub ports: Vec<u16>,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ip-protocol")]
pub enum IpProtocol {
    /// Connections: what a sidecar can carry.
    #[default]
    Tcp,
    /// Datagrams, QUIC among them.
    Udp,
    /// ICMP of both families.
    Icmp,
}

/// What the kernel leads through this sidecar; `sidegate-proxy capture apply` puts it in force. All TCP of the
/// workload goes to the captured listeners of `inbound` and `outbound`, IPv4 and IPv6. What is neither captured nor
/// excluded is dropped and counted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CaptureFile {
    /// The user that the sidecar runs as, and no other program: what this user sends is not captured.
    #[serde(default = "default_uid")]
    #[schemars(range(min = 1))]
    uid: u32,
    /// Who answers the workload's DNS questions, over UDP and TCP port 53. Absent: the nameservers of
    /// `/etc/resolv.conf` at the moment of `apply` or `verify`.
    #[schemars(with = "Option<Vec<schema::Ip>>")]
    resolvers: Option<Vec<String>>,
    /// What comes from other hosts.
    #[serde(default)]
    inbound: SelectionFile,
    /// What the workload sends to other hosts.
    #[serde(default)]
    outbound: SelectionFile,
}

/// Which traffic of one direction is captured.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SelectionFile {
    /// TCP that is captured. Absent: all of it. With it, TCP that it does not name is dropped.
    #[serde(default)]
    include: Vec<TrafficFile>,
    /// What passes beside the sidecar: in plaintext, unjudged, uncounted.
    #[serde(default)]
    exclude: Vec<TrafficFile>,
}

/// Traffic by protocol, range and port. At least one of `cidrs` and `ports` is needed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TrafficFile {
    /// What the packets carry. Only TCP can be captured.
    #[serde(default)]
    protocol: IpProtocol,
    /// Inbound where it comes from, outbound where it goes to. Absent: anywhere.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Cidr>")]
    cidrs: Vec<String>,
    /// The ports that it goes to. Absent: any. ICMP has none.
    #[serde(default)]
    #[schemars(inner(range(min = 1)))]
    ports: Vec<u16>,
}

/// The file names no resolvers, and the system's cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}: name the resolvers in `capture.resolvers`")]
pub struct ResolversUnknown {
    path: &'static str,
    cause: String,
}

impl Capture {
    /// Who answers the workload's DNS questions: as named, else as the system says now.
    pub fn resolvers(&self) -> Result<Vec<IpAddr>, ResolversUnknown> {
        let unknown = |cause| ResolversUnknown { path: RESOLV_CONF, cause };
        match &self.resolvers {
            Some(named) => Ok(named.clone()),
            None => match std::fs::read_to_string(RESOLV_CONF) {
                Ok(text) => nameservers(&text).map_err(unknown),
                // A host without the file asks nobody.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(unknown(error.to_string())),
            },
        }
    }
}

impl CaptureFile {
    /// The typed section; every value that cannot be used is pushed to `faults`.
    pub(super) fn resolve(self, faults: &mut Vec<Fault>) -> Capture {
        if self.uid == 0 {
            faults.push(Fault {
                field: "capture.uid".to_owned(),
                message: "0 is root, whose traffic would not be captured".to_owned(),
            });
        }
        let resolvers = self.resolvers.map(|texts| parse_each("capture.resolvers", &texts, faults));
        Capture {
            uid: self.uid,
            resolvers,
            inbound: self.inbound.resolve("capture.inbound", faults),
            outbound: self.outbound.resolve("capture.outbound", faults),
        }
    }
}

impl SelectionFile {
    fn resolve(self, field: &str, faults: &mut Vec<Fault>) -> Selection {
        let include = resolve_each(&format!("{field}.include"), self.include, faults);
        for (index, traffic) in include.iter().enumerate() {
            if traffic.carried != IpProtocol::Tcp {
                faults.push(Fault {
                    field: format!("{field}.include[{index}].protocol"),
                    message: "only tcp can be captured".to_owned(),
                });
            }
        }
        Selection { include, exclude: resolve_each(&format!("{field}.exclude"), self.exclude, faults) }
    }
}

impl TrafficFile {
    fn resolve(self, field: &str, faults: &mut Vec<Fault>) -> Traffic {
        let mut fault = |field: String, message: &str| {
            faults.push(Fault { field, message: message.to_owned() });
        };
        if self.cidrs.is_empty() && self.ports.is_empty() {
            fault(field.to_owned(), "names neither cidrs nor ports, so it would be everything");
        }
        if self.ports.contains(&0) {
            fault(format!("{field}.ports"), "0 is not a port");
        }
        if self.protocol == IpProtocol::Icmp && !self.ports.is_empty() {
            fault(format!("{field}.ports"), "icmp has no ports");
        }
        let cidrs = parse_each(&format!("{field}.cidrs"), &self.cidrs, faults);
        Traffic { carried: self.protocol, cidrs: cidrs.iter().map(IpNet::trunc).collect(), ports: self.ports }
    }
}

fn resolve_each(field: &str, traffic: Vec<TrafficFile>, faults: &mut Vec<Fault>) -> Vec<Traffic> {
    traffic
        .into_iter()
        .enumerate()
        .map(|(index, traffic)| traffic.resolve(&format!("{field}[{index}]"), faults))
        .collect()
}

/// What can be parsed; the rest is a fault each, so nothing comes of a list with one missing.
fn parse_each<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    texts: &[String],
    faults: &mut Vec<Fault>,
) -> Vec<T> {
    let mut values = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(error) => faults
                .push(Fault { field: format!("{field}[{index}]"), message: format!("{text:?}: {error}") }),
        }
    }
    values
}

/// The addresses in a `resolv.conf`; a zone such as `%eth0` says nothing that a rule needs.
fn nameservers(text: &str) -> Result<Vec<IpAddr>, String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver")?.split_whitespace().next())
        .map(|address| {
            let ip = address.split_once('%').map_or(address, |(ip, _zone)| ip);
            ip.parse().map_err(|_| format!("nameserver {address:?} is not an IP address"))
        })
        .collect()
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// No distribution gives it to anything, and no person.
const DEFAULT_UID: u32 = 15100;

fn default_uid() -> u32 {
    DEFAULT_UID
}

//! `.sidegate/compose.yaml`: what stays the same from one run to the next, the addresses of the fences above all. Text in and text
//! out; a value that could not be used is refused, and what a person changed there is kept.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use sidegate_codes::Code;
use sidegate_identity::TrustDomain;

use super::{
    file::{Mode, TRANSPARENT_USER, account},
    plan::Member,
    problem::Problem,
    yaml::Node,
};

/// The file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The namespace of all services.
    pub(crate) project: String,
    pub(crate) trust_domain: String,
    subnet: Subnet,
    /// `uid:gid` whom the tokens belong to; sidecars run as it.
    pub(crate) user: String,
    pub(crate) proxy_image: String,
    /// The same program with what speaks to the kernel, for transparent sidecars.
    pub(crate) capture_image: String,
    pub(crate) control_plane_image: String,
    /// The number of each service's fence; none is used twice.
    fences: BTreeMap<String, u32>,
}

/// The block of addresses that networks are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    base: u32,
    prefix: u32,
}

/// The addresses of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) subnet: String,
    pub(crate) gateway: Ipv4Addr,
    /// Of the sidecar, on the fence.
    pub(crate) sidecar: Ipv4Addr,
    /// What Docker gives to the application's containers.
    pub(crate) range: String,
    /// Of the sidecar, on the mesh.
    pub(crate) mesh: Ipv4Addr,
}

/// The network of all sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshNetwork {
    pub(crate) subnet: String,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) control_plane: Ipv4Addr,
    /// For whoever is put there without an address.
    pub(crate) range: String,
}

impl Settings {
    /// Those of a new project.
    pub(crate) fn fresh(project: &str, subnet: Option<Subnet>, user: String) -> Result<Self, Problem> {
        let project = account(project);
        let settings = Self {
            trust_domain: format!("{project}.internal"),
            subnet: subnet.unwrap_or_else(|| Subnet::of_project(&project)),
            user,
            proxy_image: format!("sidegate/proxy:{}", env!("CARGO_PKG_VERSION")),
            capture_image: capture_image(),
            control_plane_image: format!("sidegate/control-plane:{}", env!("CARGO_PKG_VERSION")),
            fences: BTreeMap::new(),
            project,
        };
        settings.check()
    }

    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        let document: Document = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| bad(error.without_snippet().to_string()))?;
        let settings = Self {
            project: document.project,
            trust_domain: document.trust_domain,
            subnet: document.subnet.parse().map_err(bad)?,
            user: document.user,
            proxy_image: document.images.proxy,
            capture_image: document.images.proxy_capture,
            control_plane_image: document.images.control_plane,
            fences: document.fences,
        };
        settings.check()
    }

    /// The text of the file.
    pub(crate) fn print(&self) -> String {
        let images = Node::map([
            ("proxy", Node::text(&self.proxy_image)),
            ("proxyCapture", Node::text(&self.capture_image)),
            ("controlPlane", Node::text(&self.control_plane_image)),
        ]);
        let fences =
            self.fences.iter().map(|(name, number)| (name.clone(), Node::Number(number.to_string())));
        let document = Node::map([
            ("project", Node::text(&self.project)),
            ("trustDomain", Node::text(&self.trust_domain)),
            ("subnet", Node::text(self.subnet.to_string())),
            ("user", Node::text(&self.user)),
            ("images", images),
            ("fences", Node::Map(fences.collect())),
        ]);
        format!("{HEADER}{}", document.print())
    }

    /// Gives a service a fence, if it has none and there is room.
    pub(crate) fn add(&mut self, service: &str) -> Result<(), Problem> {
        if self.fences.contains_key(service) {
            return Ok(());
        }
        let number = self.fences.values().max().map_or(0, |last| last + 1);
        if number >= self.subnet.fences() {
            return Err(bad(format!("{} has room for {} services", self.subnet, self.subnet.fences())));
        }
        self.fences.insert(service.to_owned(), number);
        Ok(())
    }

    /// The addresses of a service; `None` before `add`.
    pub(crate) fn fence(&self, service: &str) -> Option<Fence> {
        let number = *self.fences.get(service)?;
        let base = self.subnet.base + MESH_ADDRESSES + number * FENCE_ADDRESSES;
        Some(Fence {
            subnet: format!("{}/29", Ipv4Addr::from(base)),
            gateway: (base + 1).into(),
            sidecar: (base + 2).into(),
            range: format!("{}/30", Ipv4Addr::from(base + 4)),
            mesh: (self.subnet.base + FIRST_SIDECAR + number).into(),
        })
    }

    /// Whom a service's sidecar runs as, and whom its token belongs to.
    pub(crate) fn user_of(&self, member: &Member) -> &str {
        match member.service.mode {
            Mode::Fenced => &self.user,
            Mode::Transparent => TRANSPARENT_USER,
        }
    }

    pub(crate) fn mesh_network(&self) -> MeshNetwork {
        let base = self.subnet.base;
        MeshNetwork {
            subnet: format!("{}/22", Ipv4Addr::from(base)),
            gateway: (base + 1).into(),
            control_plane: (base + 2).into(),
            range: format!("{}/26", Ipv4Addr::from(base + MESH_ADDRESSES - 64)),
        }
    }

    fn check(self) -> Result<Self, Problem> {
        if account(&self.project) != self.project || self.project.is_empty() || self.project.len() > 63 {
            return Err(bad(format!("project: {:?} is not a DNS label", self.project)));
        }
        if let Err(error) = TrustDomain::parse(&self.trust_domain) {
            return Err(bad(format!("trustDomain: {error}")));
        }
        let mut numbers: Vec<_> = self.fences.values().copied().collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(bad("fences: two services have the same number"));
        }
        if numbers.last().is_some_and(|last| *last >= self.subnet.fences()) {
            return Err(bad(format!("fences: {} has room for {}", self.subnet, self.subnet.fences())));
        }
        Ok(self)
    }
}

impl Subnet {
    /// One of 512 blocks, so that two projects on one machine rarely meet; `--subnet` says another.
    fn of_project(project: &str) -> Self {
        let digest = Sha256::digest(project.as_bytes());
        let block = u32::from(digest[0] & 0x1f) << 4 | u32::from(digest[1] & 0x0f);
        Self { base: u32::from(Ipv4Addr::new(10, 192, 0, 0)) + (block << 12), prefix: 20 }
    }

    /// How many services it has room for.
    const fn fences(self) -> u32 {
        let room = ((1 << (32 - self.prefix)) - MESH_ADDRESSES) / FENCE_ADDRESSES;
        if room < MOST_SIDECARS { room } else { MOST_SIDECARS }
    }
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("subnet: {text:?} is not an IPv4 network from /16 to /21, such as 10.83.0.0/20");
        let (address, prefix) = text.split_once('/').ok_or_else(expected)?;
        let base: u32 = address.parse::<Ipv4Addr>().map_err(|_| expected())?.into();
        let prefix: u32 =
            prefix.parse().ok().filter(|prefix| (16..=21).contains(prefix)).ok_or_else(expected)?;
        let is_first = base.trailing_zeros() >= 32 - prefix;
        if is_first { Ok(Self { base, prefix }) } else { Err(expected()) }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    project: String,
    trust_domain: String,
    subnet: String,
    user: String,
    images: Images,
    fences: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Images {
    proxy: String,
    #[serde(default = "capture_image")]
    proxy_capture: String,
    control_plane: String,
}

fn capture_image() -> String {
    format!("sidegate/proxy-capture:{}", env!("CARGO_PKG_VERSION"))
}

fn bad(what: impl Into<String>) -> Problem {
    Problem::of_file(Code::ComposeStale, what)
        .next("correct .sidegate/compose.yaml, or take the folder away and run `sidegate compose init`")
}

const HEADER: &str = "# What `sidegate compose inject` goes by. `sidegate compose init` adds services and changes nothing else.
# subnet: the mesh is its first /22, each fence a /29 by its number. user: whom the tokens belong to; sidecars run as it.
";
/// The first /22.
const MESH_ADDRESSES: u32 = 1024;
const FENCE_ADDRESSES: u32 = 8;
/// Below it: the bridge and the control plane.
const FIRST_SIDECAR: u32 = 16;
/// The last /26 of the mesh is for others.
const MOST_SIDECARS: u32 = 900;

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Settings {
        Settings::fresh("shop", "10.83.0.0/20".parse().ok(), "65532:65532".into()).unwrap()
    }

    #[test]
    fn a_fence_keeps_its_addresses_when_others_come() {
        let mut settings = fresh();
        settings.add("web").unwrap();
        settings.add("orders").unwrap();
        let orders = settings.fence("orders").unwrap();
        settings.add("a-new-one").unwrap();
        settings.add("orders").unwrap();
        let again = Settings::parse(&settings.print()).unwrap();
        assert_eq!(again, settings);
        assert_eq!(again.fence("orders"), Some(orders.clone()));
        assert_eq!((orders.subnet.as_str(), orders.range.as_str()), ("10.83.4.8/29", "10.83.4.12/30"));
        assert_eq!(orders.sidecar, Ipv4Addr::new(10, 83, 4, 10));
        assert_eq!(orders.mesh, Ipv4Addr::new(10, 83, 0, 17));
    }

    #[test]
    fn a_block_is_full_some_time_and_says_so() {
        let mut settings = Settings::fresh("shop", "10.83.0.0/21".parse().ok(), "1:1".into()).unwrap();
        let added = (0..1000).take_while(|number| settings.add(&format!("s{number}")).is_ok()).count();
        assert_eq!(added, 128);
        let error = settings.add("one-more").unwrap_err();
        assert!(error.what.contains("room for 128"), "{}", error.what);
    }

    #[test]
    fn what_was_changed_badly_is_refused() {
        let good = fresh().print();
        for (from, to) in [
            ("/20", "/8"),
            ("10.83.0.0", "10.83.0.1"),
            ("shop.internal", "Shop"),
            ("project: shop", "project: s_hop"),
            ("fences: {}", "fences: {a: 1, b: 1}"),
            ("fences: {}", "fences: {a: 900}"),
            ("user:", "users:"),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            assert!(Settings::parse(&good.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn every_project_has_a_block_of_its_own_kind() {
        let block = |name: &str| Subnet::of_project(name).to_string();
        assert_eq!(block("shop"), block("shop"));
        assert_ne!(block("shop"), block("bank"));
        assert!(block("shop").starts_with("10.") && block("shop").ends_with("/20"));
    }
}

//! The `when` of a rule: a small typed part of CEL, read once at load. Receives a request that every other condition
//! of the rule has taken; hands on yes, no or doubt. Refuses, at load, whatever is not of the language.
//!
//! By hand, because the bounds are the point: there are no macros, no loops and no functions but three text searches,
//! so a condition costs at most a walk over its few tests, and allocates nothing. A name that is none is an error at
//! load and not a doubt at run time. What can be written means the same in CEL: `false && error` is false,
//! `true || error` is true, and every other error is doubt.

use std::{fmt, str::FromStr, sync::Arc};

use sidegate_identity::SpiffeId;

use crate::{Http, InvalidValue, Request};

mod headers;
mod parse;
mod text;
mod token;

pub use headers::Headers;
use headers::Reading;
use text::TextTest;

/// A condition in CEL on what a request says of itself and of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// As its author wrote it.
    text: Arc<str>,
    root: Arc<Node>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    No,
    /// The request does not have what the condition asks for, or has it in more than one form.
    Unknown,
    Yes,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    /// `&&`
    All(Box<[Node]>),
    /// `||`
    Any(Box<[Node]>),
    /// `!`
    Not(Box<Node>),
    Test(Test),
}

/// One question to the request. Names of headers are in lower case.
#[derive(Debug, PartialEq, Eq)]
enum Test {
    /// `"name" in request.headers`
    HasHeader(Box<str>),
    Header(Box<str>, TextTest),
    Host(TextTest),
    Text(Attribute, TextTest),
    Port(PortTest),
}

/// What has exactly one text as its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Method,
    Path,
    Principal,
    TrustDomain,
    Namespace,
    ServiceAccount,
}

#[derive(Debug, PartialEq, Eq)]
enum PortTest {
    OneOf(Box<[u16]>),
    Below(u16),
    Above(u16),
}

/// Why a test cannot be answered.
#[derive(Clone, Copy, Debug)]
enum Doubt<'c> {
    Opaque,
    Identity(&'static str),
    NoIdentity,
    /// The header, and what is the matter with it.
    Header(&'c str, &'static str),
}

impl Condition {
    /// Whether the condition holds.
    pub(crate) fn judge(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Outcome {
        self.root.judge(caller, request)
    }

    /// What kept the condition from holding, for people.
    pub(crate) fn miss(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<String> {
        match self.judge(caller, request) {
            Outcome::Yes => None,
            Outcome::No => Some(format!("when [{self}] does not hold")),
            Outcome::Unknown => {
                let doubt = self.root.doubt(caller, request).map(|doubt| format!(": {doubt}"));
                Some(format!("when [{self}] cannot be decided{}", doubt.unwrap_or_default()))
            }
        }
    }

    /// The names of the headers that it asks for, in lower case.
    pub fn headers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.visit(&mut |test| match test {
            Test::HasHeader(name) | Test::Header(name, _) => names.push(&**name),
            Test::Host(_) | Test::Text(..) | Test::Port(_) => {}
        });
        names
    }

    /// Whether it asks for something that an opaque connection does not have.
    pub fn asks_http(&self) -> bool {
        let mut asks = false;
        self.root.visit(&mut |test| asks |= test.asks_http());
        asks
    }

    /// Whether it asks for the host, or for the port.
    pub fn asks_host(&self) -> bool {
        let mut asks = false;
        self.root.visit(&mut |test| asks |= matches!(test, Test::Host(_)));
        asks
    }

    /// The ports at which its answer can change.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports = Vec::new();
        self.root.visit(&mut |test| match test {
            Test::Port(PortTest::OneOf(listed)) => ports.extend(listed.iter()),
            Test::Port(PortTest::Below(bound) | PortTest::Above(bound)) => {
                ports.extend([bound.saturating_sub(1), *bound, bound.saturating_add(1)]);
            }
            _ => {}
        });
        ports
    }

    /// Headers with which it may hold: a guess, made to be judged.
    pub fn likely_headers(&self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        self.root.guess(true, &mut |name, value| {
            if !fields.iter().any(|(known, _): &(String, String)| known == name) {
                fields.push((name.to_owned(), value.to_owned()));
            }
        });
        fields
    }

    /// Whether both ask the same, however it is spelled.
    pub(crate) fn asks_as(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl FromStr for Condition {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Ok(Self { root: Arc::new(parse::expression(text)?), text: text.trim().into() })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Outcome {
    pub(crate) fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// What both come to: a certain no, be it with a doubt, is a no. The second is not asked after a no.
    pub(crate) fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Unknown if other() == Self::No => Self::No,
            Self::Unknown => Self::Unknown,
        }
    }

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }
}

impl Node {
    fn judge(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Outcome {
        match self {
            Self::All(nodes) => decided_by(Outcome::No, nodes, caller, request),
            Self::Any(nodes) => decided_by(Outcome::Yes, nodes, caller, request),
            Self::Not(node) => node.judge(caller, request).not(),
            Self::Test(test) => test.judge(caller, request).unwrap_or(Outcome::Unknown),
        }
    }

    /// The first doubt in it.
    fn doubt<'c>(&'c self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<Doubt<'c>> {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().find_map(|node| node.doubt(caller, request)),
            Self::Not(node) => node.doubt(caller, request),
            Self::Test(test) => test.judge(caller, request).err(),
        }
    }

    fn visit<'c>(&'c self, visit: &mut impl FnMut(&'c Test)) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.visit(visit)),
            Self::Not(node) => node.visit(visit),
            Self::Test(test) => visit(test),
        }
    }

    /// Fields with which it may come to be `wanted`.
    fn guess(&self, wanted: bool, field: &mut impl FnMut(&str, &str)) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.guess(wanted, field)),
            Self::Not(node) => node.guess(!wanted, field),
            Self::Test(Test::Header(name, test)) if wanted => field(name, test.example()),
            Self::Test(Test::Header(name, _)) => field(name, "another"),
            Self::Test(Test::HasHeader(name)) if wanted => field(name, "any"),
            Self::Test(_) => {}
        }
    }
}

/// Kleene's strong logic, which is CEL's: one `decisive` answer is enough, and without one a doubt remains a doubt.
fn decided_by(
    decisive: Outcome,
    nodes: &[Node],
    caller: Option<&SpiffeId>,
    request: &Request<'_>,
) -> Outcome {
    let mut seen = decisive.not();
    for node in nodes {
        match node.judge(caller, request) {
            outcome if outcome == decisive => return decisive,
            Outcome::Unknown => seen = Outcome::Unknown,
            Outcome::No | Outcome::Yes => {}
        }
    }
    seen
}

impl Test {
    fn judge<'c>(&'c self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Result<Outcome, Doubt<'c>> {
        let holds = match self {
            Self::HasHeader(name) => match headers::reading(http(request)?.headers, name) {
                Reading::Missing => false,
                Reading::Unclear(why) => return Err(Doubt::Header(name, why)),
                Reading::Several | Reading::One(_) => true,
            },
            Self::Header(name, test) => match headers::reading(http(request)?.headers, name) {
                Reading::One(value) => {
                    let split = || Doubt::Header(name, "could be one value or a list of several");
                    test.holds_however_read(value).ok_or_else(split)?
                }
                Reading::Missing => return Err(Doubt::Header(name, "is missing")),
                Reading::Several => return Err(Doubt::Header(name, "is there more than once")),
                Reading::Unclear(why) => return Err(Doubt::Header(name, why)),
            },
            Self::Host(test) => test.holds_in_any_case(http(request)?.host),
            Self::Text(attribute, test) => test.holds(attribute.value(caller, request)?),
            Self::Port(test) => test.holds(request.port),
        };
        Ok(Outcome::of(holds))
    }

    fn asks_http(&self) -> bool {
        match self {
            Self::HasHeader(_) | Self::Header(..) | Self::Host(_) => true,
            Self::Text(attribute, _) => matches!(attribute, Attribute::Method | Attribute::Path),
            Self::Port(_) => false,
        }
    }
}

impl Attribute {
    fn value<'r>(
        self,
        caller: Option<&'r SpiffeId>,
        request: &Request<'r>,
    ) -> Result<&'r str, Doubt<'static>> {
        match self {
            Self::Method => Ok(http(request)?.method),
            Self::Path => Ok(http(request)?.path),
            Self::Principal => Ok(caller.ok_or(Doubt::NoIdentity)?.as_str()),
            Self::TrustDomain => Ok(caller.ok_or(Doubt::NoIdentity)?.trust_domain()),
            Self::Namespace => {
                caller.ok_or(Doubt::NoIdentity)?.namespace().ok_or(Doubt::Identity("namespace"))
            }
            Self::ServiceAccount => {
                caller.ok_or(Doubt::NoIdentity)?.service_account().ok_or(Doubt::Identity("service account"))
            }
        }
    }
}

fn http<'r>(request: &Request<'r>) -> Result<Http<'r>, Doubt<'static>> {
    request.http.ok_or(Doubt::Opaque)
}

impl PortTest {
    fn holds(&self, port: u16) -> bool {
        match self {
            Self::OneOf(ports) => ports.contains(&port),
            Self::Below(bound) => port < *bound,
            Self::Above(bound) => port > *bound,
        }
    }
}

impl fmt::Display for Doubt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opaque => f.write_str("an opaque connection has no method, path, host or headers"),
            Self::Identity(what) => write!(f, "the caller's identity has no {what}"),
            Self::NoIdentity => f.write_str("a caller without TLS has no identity"),
            Self::Header(name, why) => write!(f, "header {name} {why}"),
        }
    }
}

#[cfg(test)]
mod tests;

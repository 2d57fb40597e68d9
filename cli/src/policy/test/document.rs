//! A test file: cases of policies, a workload and requests; and texts that must not load. A field that is not known
//! is an error.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::Path};

use serde::{Deserialize, Deserializer, de};
use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{Claims, Decision, FILE_BYTES, Http, PolicyError, Request, Source, Verdict, Workload};

use super::{
    super::files::{self, Policies},
    leaving::Leaving,
};
use crate::{exit::Exit, failure::Failure};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "about")]
    _about: Option<String>,
    #[serde(default)]
    pub(super) cases: Vec<Case>,
    #[serde(default)]
    pub(super) refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    /// Policies, or the path of a file or folder with them. Empty: there are none.
    policies: String,
    #[serde(default)]
    pub(super) workload: Place,
    #[serde(default)]
    pub(super) requests: Vec<Asked>,
    /// What the workload wants from outside of the mesh.
    #[serde(default)]
    pub(super) leaving: Vec<Leaving>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Place {
    namespace: String,
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "trust_domain")]
    pub(super) trust_domain: TrustDomain,
    root_namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// A SPIFFE ID, or `namespace/account` of the workload's trust domain. Left out: no verified peer.
    pub(super) from: Option<String>,
    #[serde(default = "address")]
    ip: IpAddr,
    #[serde(default = "port")]
    port: u16,
    #[serde(default = "moment", deserialize_with = "time::serde::rfc3339::deserialize")]
    at: time::OffsetDateTime,
    http: Option<AskedHttp>,
    /// Of an opaque connection: the server name that it begins with.
    sni: Option<String>,
    pub(super) want: Want,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AskedHttp {
    method: String,
    host: String,
    path: String,
    #[serde(deserialize_with = "lines")]
    headers: Vec<(String, String)>,
    /// What the verified token says. Left out: there is none.
    #[serde(deserialize_with = "claims")]
    claims: Option<Claims>,
}

/// The value of a header, or of each of its lines.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

/// What is not written is not compared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Want {
    verdict: Word,
    code: Option<String>,
    policy: Option<String>,
    rule: Option<String>,
    pattern: Option<String>,
    shadow: Option<Word>,
    shadow_policy: Option<String>,
    shadow_rule: Option<String>,
    nearest: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Word {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refused {
    pub(super) name: String,
    text: String,
    fill: Option<Fill>,
    pub(super) want: WantError,
}

/// What stands in the text in place of `FILL`: a text, repeated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fill {
    with: String,
    times: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantError {
    code: String,
    line: Option<u32>,
    column: Option<u32>,
    field: Option<String>,
    says: Option<String>,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = files::text(path)?;
        let document: Self =
            serde_saphyr::from_str(&text).map_err(|error| broken(path, error.to_string()))?;
        if document.cases.is_empty() && document.refused.is_empty() {
            return Err(broken(path, "it has no cases".to_owned()));
        }
        Ok(document)
    }
}

fn broken(path: &Path, why: String) -> Failure {
    let next = "sidegate policy test --help shows one";
    Failure::new(Exit::Usage, "the test file cannot be used", why, next).seen(path.display().to_string())
}

impl Case {
    /// The policies; a path is relative to the test's file.
    pub(super) fn policies(&self, file: &Path) -> Result<Policies, Failure> {
        let text = self.policies.trim();
        if text.is_empty() {
            return Policies::parse(BTreeMap::new(), None);
        }
        if text.contains('\n') || text.starts_with('{') {
            let name = format!("{} (policies of {:?})", file.display(), self.name);
            return Policies::parse(BTreeMap::from([(name, self.policies.clone())]), None);
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        Policies::read(&folder.join(text), None)
    }
}

impl Place {
    pub(super) fn workload(&self) -> Workload<'_> {
        Workload {
            namespace: &self.namespace,
            labels: &self.labels,
            trust_domain: self.trust_domain.as_str(),
            root_namespace: self.root_namespace.as_deref(),
        }
    }
}

impl Asked {
    pub(super) fn request<'a>(&'a self, identity: Option<&'a SpiffeId>) -> Request<'a> {
        let http = self.http.as_ref();
        Request {
            source: Source { identity, ip: self.ip },
            port: self.port,
            http: http.map(|AskedHttp { method, host, path, headers, claims }| Http {
                method,
                host,
                path,
                headers,
                claims: claims.as_ref(),
            }),
            sni: self.sni.as_deref(),
            // Before 1970 nothing has expired either.
            now: u64::try_from(self.at.unix_timestamp()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Asked {
    /// `shop/orders  POST /charge`, or `shop/orders  port 5432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_deref().unwrap_or("(no verified peer)");
        match &self.http {
            Some(AskedHttp { method, path, .. }) => write!(f, "{from}  {method} {path}"),
            None => write!(f, "{from}  port {}", self.port),
        }
    }
}

impl Want {
    pub(super) fn is_met_by(&self, decision: &Decision<'_>, nearest: Option<&str>) -> bool {
        let same = |want: &Option<String>, seen: Option<&str>| want.is_none() || want.as_deref() == seen;
        let text = |seen: Option<&'_ std::sync::Arc<str>>| seen.map(ToString::to_string);
        self.verdict == decision.verdict.into()
            && same(&self.code, decision.code.map(sidegate_codes::Code::id))
            && same(&self.policy, text(decision.policy).as_deref())
            && same(&self.rule, text(decision.rule).as_deref())
            && same(&self.pattern, text(decision.path_pattern).as_deref())
            && (self.shadow.is_none() || self.shadow == decision.shadow.map(Word::from))
            && same(&self.shadow_policy, text(decision.shadow_policy).as_deref())
            && same(&self.shadow_rule, text(decision.shadow_rule).as_deref())
            && same(&self.nearest, nearest)
    }
}

impl From<Verdict> for Word {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
        }
    }
}

impl fmt::Display for Want {
    /// `Deny, code SG0202`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.verdict)?;
        let shadow = self.shadow.map(|word| format!("{word:?}"));
        let parts = [
            ("code", &self.code),
            ("policy", &self.policy),
            ("rule", &self.rule),
            ("pattern", &self.pattern),
            ("shadow", &shadow),
            ("shadowPolicy", &self.shadow_policy),
            ("shadowRule", &self.shadow_rule),
            ("nearest", &self.nearest),
        ];
        parts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)))
            .try_for_each(|(name, value)| write!(f, ", {name} {value}"))
    }
}

impl Refused {
    /// What must not load. More than any file may have is not made.
    pub(super) fn text(&self) -> String {
        let Some(Fill { with, times }) = &self.fill else { return self.text.clone() };
        let most = FILE_BYTES / with.len().max(1) + 1;
        self.text.replace("FILL", &with.repeat((*times).min(most)))
    }
}

impl WantError {
    pub(super) fn is_met_by(&self, error: &PolicyError) -> bool {
        error.code.id() == self.code
            && (self.line.is_none() || self.line == error.line)
            && (self.column.is_none() || self.column == error.column)
            && (self.field.is_none() || self.field == error.field)
            && self.says.as_ref().is_none_or(|says| error.message.contains(says))
    }
}

impl fmt::Display for WantError {
    /// `SG0210 at line 6`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(line) = self.line {
            write!(f, " at line {line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        match &self.field {
            Some(field) => write!(f, " in {field}"),
            None => Ok(()),
        }
    }
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let text = String::deserialize(deserializer)?;
    TrustDomain::parse(&text).map_err(de::Error::custom)
}

fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let named = BTreeMap::<String, Lines>::deserialize(deserializer)?;
    let lines = |(name, lines): (String, Lines)| match lines {
        Lines::One(line) => vec![(name, line)],
        Lines::Several(lines) => lines.into_iter().map(|line| (name.clone(), line)).collect(),
    };
    Ok(named.into_iter().flat_map(lines).collect())
}

fn claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Claims>, D::Error> {
    let claims = serde_json::Value::deserialize(deserializer)?;
    Claims::parse(&claims.to_string()).map(Some).map_err(de::Error::custom)
}

/// The workload of the vectors, where a case names none.
impl Default for Place {
    fn default() -> Self {
        Self {
            namespace: "shop".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "payments".to_owned())]),
            trust_domain: TrustDomain::parse("shop.test").expect("a literal that is a trust domain"),
            root_namespace: Some("sidegate".to_owned()),
        }
    }
}

impl Default for AskedHttp {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            host: "payments.shop.test".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            claims: None,
        }
    }
}

fn address() -> IpAddr {
    IpAddr::from([10, 0, 0, 7])
}

fn port() -> u16 {
    8080
}

pub(super) fn moment() -> time::OffsetDateTime {
    time::macros::datetime!(2026-06-01 00:00 UTC)
}

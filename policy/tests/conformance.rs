//! Runs the vectors of `tests/conformance`, which say what the language means, against this crate.
#![expect(clippy::panic, reason = "a failed test says so by panicking")]

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use serde::Deserialize;
use sidegate_identity::SpiffeId;
use sidegate_policy::{
    Claims, Egress, Http, Named, Outside, Policies, PolicyError, PolicySet, Request, Source, Verdict,
    Workload, parse_yaml,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    #[serde(rename = "about")]
    _about: String,
    #[serde(default)]
    cases: Vec<Case>,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    policies: String,
    #[serde(default)]
    workload: Selected,
    #[serde(default)]
    requests: Vec<Asked>,
    #[serde(default)]
    leaving: Vec<Leaving>,
}

/// What the workload wants from outside of the mesh.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Leaving {
    from: String,
    host: Option<String>,
    sni: Option<String>,
    /// The one address that the name has, or that the connection goes to.
    ip: IpAddr,
    port: u16,
    #[serde(default)]
    in_mesh: bool,
    #[serde(default = "moment", deserialize_with = "time::serde::rfc3339::deserialize")]
    at: time::OffsetDateTime,
    want: Want,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Selected {
    namespace: String,
    labels: BTreeMap<String, String>,
    trust_domain: String,
    root_namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Option<String>,
    #[serde(default = "address")]
    ip: IpAddr,
    #[serde(default = "port")]
    port: u16,
    #[serde(default = "moment", deserialize_with = "time::serde::rfc3339::deserialize")]
    at: time::OffsetDateTime,
    http: Option<AskedHttp>,
    sni: Option<String>,
    want: Want,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AskedHttp {
    method: String,
    host: String,
    path: String,
    headers: BTreeMap<String, Lines>,
    /// What the verified token says; left out: there is none.
    claims: Option<serde_json::Value>,
}

/// The value of a header, or of each of its lines.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Want {
    verdict: String,
    code: Option<String>,
    policy: Option<String>,
    rule: Option<String>,
    pattern: Option<String>,
    shadow: Option<String>,
    #[serde(rename = "shadowPolicy")]
    shadow_policy: Option<String>,
    #[serde(rename = "shadowRule")]
    shadow_rule: Option<String>,
    /// Not compared where a vector leaves it out.
    nearest: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    text: String,
    fill: Option<Fill>,
    want: WantError,
}

/// What stands in the text in place of `FILL`: a text, repeated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fill {
    with: String,
    times: usize,
}

/// A text that is refused as a whole has no line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantError {
    code: String,
    line: Option<u32>,
    column: Option<u32>,
    field: Option<String>,
    #[serde(default)]
    says: String,
}

#[test]
fn every_request_of_the_vectors_gets_the_verdict_it_must_get() {
    let mut requests = 0;
    for case in vectors().into_iter().flat_map(|vectors| vectors.cases) {
        let policies = case.compile();
        for asked in &case.requests {
            assert_eq!(asked.judged(&policies), asked.want, "in {:?}: {asked:#?}", case.name);
            requests += 1;
        }
    }
    let mut leaving = 0;
    for case in vectors().into_iter().flat_map(|vectors| vectors.cases) {
        let egress = case.egress();
        for asked in &case.leaving {
            assert_eq!(asked.judged(&egress), asked.want, "in {:?}: {asked:#?}", case.name);
            leaving += 1;
        }
    }
    assert!(leaving > 20, "only {leaving} that leave: are the vectors found?");
    assert!(requests > 100, "only {requests} requests: are the vectors found?");
}

#[test]
fn every_text_that_must_not_load_is_refused_with_its_code_and_place() {
    let mut texts = 0;
    for refused in vectors().into_iter().flat_map(|vectors| vectors.refused) {
        let (name, want) = (&refused.name, &refused.want);
        let error = load(&refused.text()).err().and_then(|errors| errors.into_iter().next());
        let error = error.unwrap_or_else(|| panic!("{name:?} must not load:\n{}", refused.text));
        assert_eq!(error.code.id(), want.code, "{name:?}: {error}");
        assert_eq!(error.field, want.field, "{name:?}: {error}");
        assert_eq!((error.line, error.column), (want.line, want.column), "{name:?}: {error}");
        assert!(error.message.contains(&want.says), "{name:?}: {error}");
        assert!(error.message.len() < 1024, "{name:?}: {error}");
        let place = [want.line, want.column].into_iter().flatten().map(|number| format!(":{number}"));
        let begins = format!("policies.yaml{}: ", place.collect::<String>());
        assert!(error.to_string().starts_with(&begins), "{name:?}: {error}");
        texts += 1;
    }
    assert!(texts > 150, "only {texts} texts: are the vectors found?");
}

impl Refused {
    fn text(&self) -> String {
        let Some(Fill { with, times }) = &self.fill else { return self.text.clone() };
        assert!(self.text.contains("FILL"), "{:?} has nothing to fill", self.name);
        self.text.replace("FILL", &with.repeat(*times))
    }
}

impl Case {
    fn compile(&self) -> Policies {
        self.set().compile(&self.workload())
    }

    fn egress(&self) -> Egress {
        self.set().compile_egress(&self.workload())
    }

    fn set(&self) -> PolicySet {
        // A mesh without any policy has no file either: an empty file is an error.
        let set = if self.policies.is_empty() { Ok(PolicySet::default()) } else { load(&self.policies) };
        set.unwrap_or_else(|errors| panic!("in {:?}: {errors:?}", self.name))
    }

    fn workload(&self) -> Workload<'_> {
        let Selected { namespace, labels, trust_domain, root_namespace } = &self.workload;
        Workload { namespace, labels, trust_domain, root_namespace: root_namespace.as_deref() }
    }
}

impl Leaving {
    /// As a sidecar does: by the name first, where there is one, and then by the address.
    fn judged(&self, egress: &Egress) -> Want {
        let identity = SpiffeId::parse(&self.from).expect("a vector names valid IDs");
        let host = self.host.as_deref().map(Named::Host);
        let outside = Outside {
            identity: Some(&identity),
            name: host.or(self.sni.as_deref().map(Named::ServerName)),
            port: self.port,
            now: u64::try_from(self.at.unix_timestamp()).expect("a vector plays after 1970"),
        };
        let by_address = egress.judge_address(&outside, self.ip, self.in_mesh);
        let by_name = outside.name.map(|_| egress.judge_name(&outside));
        let decision = by_name.filter(|decision| decision.verdict == Verdict::Deny).unwrap_or(by_address);
        Want {
            verdict: format!("{:?}", decision.verdict),
            code: decision.code.map(|code| code.id().to_owned()),
            policy: decision.policy.map(ToString::to_string),
            rule: decision.rule.map(ToString::to_string),
            pattern: None,
            shadow: decision.shadow.map(|verdict| format!("{verdict:?}")),
            shadow_policy: decision.shadow_policy.map(ToString::to_string),
            shadow_rule: decision.shadow_rule.map(ToString::to_string),
            nearest: self.want.nearest.as_ref().and(egress.nearest(&outside, Some(self.ip), self.in_mesh)),
        }
    }
}

impl Asked {
    fn judged(&self, policies: &Policies) -> Want {
        let identity = self.from.as_deref().map(|id| SpiffeId::parse(id).expect("a vector names valid IDs"));
        let headers = self.http.as_ref().map(AskedHttp::fields).unwrap_or_default();
        let http = self.http.as_ref();
        let claims = http.and_then(|http| http.claims.as_ref()).map(|claims| {
            Claims::parse(&claims.to_string()).unwrap_or_else(|error| panic!("{claims}: {error}"))
        });
        let request = Request {
            source: Source { identity: identity.as_ref(), ip: self.ip },
            port: self.port,
            http: http.map(|AskedHttp { method, host, path, .. }| Http {
                method,
                host,
                path,
                headers: &headers,
                claims: claims.as_ref(),
            }),
            sni: self.sni.as_deref(),
            now: u64::try_from(self.at.unix_timestamp()).expect("a vector plays after 1970"),
        };
        let explanation = policies.explain(&request);
        let decision = policies.judge(&request);
        assert_eq!(explanation.decision, decision, "explain and judge differ");
        Want {
            verdict: format!("{:?}", decision.verdict),
            code: decision.code.map(|code| code.id().to_owned()),
            policy: decision.policy.map(ToString::to_string),
            rule: decision.rule.map(ToString::to_string),
            pattern: decision.path_pattern.map(ToString::to_string),
            shadow: decision.shadow.map(|verdict| format!("{verdict:?}")),
            shadow_policy: decision.shadow_policy.map(ToString::to_string),
            shadow_rule: decision.shadow_rule.map(ToString::to_string),
            nearest: self.want.nearest.as_ref().and(explanation.nearest),
        }
    }
}

impl AskedHttp {
    fn fields(&self) -> Vec<(String, String)> {
        let lines = |lines: &Lines| match lines {
            Lines::One(line) => vec![line.clone()],
            Lines::Several(lines) => lines.clone(),
        };
        let named = self
            .headers
            .iter()
            .flat_map(|(name, it)| lines(it).into_iter().map(move |it| (name.clone(), it)));
        named.collect()
    }
}

fn load(text: &str) -> Result<PolicySet, Vec<PolicyError>> {
    PolicySet::new(parse_yaml("policies.yaml", text, None).map_err(|error| vec![error])?)
}

fn vectors() -> Vec<Vectors> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let entries = fs::read_dir(&folder).expect("the vectors are part of the repository");
    let files = entries.map(|entry| entry.expect("a readable folder").path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| {
        let text = fs::read_to_string(&path).expect("a readable file");
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
    .collect()
}

impl Default for Selected {
    fn default() -> Self {
        Self {
            namespace: "shop".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "payments".to_owned())]),
            trust_domain: "shop.test".to_owned(),
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
            headers: BTreeMap::new(),
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

fn moment() -> time::OffsetDateTime {
    time::macros::datetime!(2026-06-01 00:00 UTC)
}

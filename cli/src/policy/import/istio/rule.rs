//! One rule of an `AuthorizationPolicy`: sources, operations and conditions in; rules that match the same requests out.

use serde_json::json;
use sidegate_identity::TrustDomain;

use super::{
    super::{
        Refusal, address,
        draft::{Action, Fields, Rule},
        glob::{self, Glob},
        only,
        report::anybody,
        texts,
    },
    operation::{numbers, operation},
    part::{Part, grouped},
    token::{self, Token},
};
use crate::yaml::Node;

/// What a rule is read with.
pub(super) struct Translator<'t> {
    pub(super) trust_domain: &'t TrustDomain,
    /// Of the policy: a service account without a namespace is one of this.
    pub(super) namespace: &'t str,
    pub(super) action: Action,
    /// Whose tokens its workloads verify.
    pub(super) issuers: Vec<String>,
}

/// Conditions of the whole rule.
#[derive(Debug, Default)]
struct Conditions {
    when: Vec<String>,
    /// Addresses, if any are asked for.
    blocks: Option<Vec<String>>,
    /// One of these, if any is asked for.
    tokens: Option<Vec<Token>>,
}

impl Translator<'_> {
    /// Rules that together match what the one matches.
    pub(super) fn rule(&self, number: usize, node: &Node) -> Result<Vec<Rule>, Refusal> {
        only(node, &["from", "to", "when"])?;
        let conditions = self.conditions(node)?;
        let mut sources = Vec::new();
        for item in list(node, "from")? {
            sources.push(self.source(inner(item, "source")?)?);
        }
        if let Some(blocks) = &conditions.blocks {
            sources = with_blocks(node, sources, blocks)?;
        }
        let mut operations = Vec::new();
        for item in list(node, "to")? {
            operations.extend(operation(inner(item, "operation")?)?);
        }
        let mut rules = Vec::new();
        for from in grouped(sources) {
            for to in grouped(operations.clone()) {
                let when = [&from.when[..], &to.when, &conditions.when].concat();
                let rule = Rule { from: from.entries.clone(), to: to.entries, when, ..Rule::default() };
                match either(node, from.tokens.as_ref(), conditions.tokens.as_ref())? {
                    None => rules.push(rule),
                    Some(tokens) => rules
                        .extend(tokens.iter().map(|token| Rule { jwt: Some(token.json()), ..rule.clone() })),
                }
            }
        }
        let count = rules.len();
        for (part, rule) in (1_usize..).zip(&mut rules) {
            rule.name = if count == 1 { format!("rule-{number}") } else { format!("rule-{number}-{part}") };
            if rule.from.is_empty() && rule.to.is_empty() && rule.jwt.is_none() && rule.when.is_empty() {
                rule.from.push(self.everybody());
            }
        }
        Ok(rules)
    }

    /// A rule here has at least one condition, so that one for everybody says so.
    fn everybody(&self) -> Fields {
        match self.action {
            Action::Allow => field("trustDomains", json!([self.trust_domain.to_string()])),
            Action::Deny => anybody(),
        }
    }

    fn source(&self, node: &Node) -> Result<Part, Refusal> {
        only(node, &SOURCE)?;
        let wrong = |why: String| Refusal::at(node, why);
        let mut part = Part::default();
        let globs = |field: &str| Glob::all(&texts(node, field)?).map_err(wrong);
        let principals = self.principals(globs("principals")?);
        part.any(&principals, Some("principals"), "source.principal");
        part.none(node, &self.principals(globs("notPrincipals")?), "source.principal")?;
        part.any(&globs("namespaces")?, Some("namespaces"), "source.namespace");
        part.none(node, &globs("notNamespaces")?, "source.namespace")?;
        part.any(&self.domains(globs("trustDomains")?), Some("trustDomains"), "source.trustDomain");
        part.none(node, &self.domains(globs("notTrustDomains")?), "source.trustDomain")?;
        let accounts: Vec<String> =
            texts(node, "serviceAccounts")?.into_iter().map(|text| self.account(text)).collect();
        if !accounts.is_empty() {
            part.fields.insert("serviceAccounts".to_owned(), json!(accounts));
        }
        let not: Vec<String> =
            texts(node, "notServiceAccounts")?.into_iter().map(|text| self.account(text)).collect();
        if !not.is_empty() {
            part.when.push(format!("!{}", is_account(&not).map_err(wrong)?));
        }
        if let Some(blocks) = blocks(node, "ipBlocks", "notIpBlocks")? {
            part.fields.insert("ipBlocks".to_owned(), json!(blocks));
        }
        let (asked, not) = (globs("requestPrincipals")?, globs("notRequestPrincipals")?);
        if !asked.is_empty() {
            self.refuse_in_deny(node, "requestPrincipals")?;
            part.tokens = Some(token::principals(node, &asked, &self.issuers)?);
        }
        match (self.action, &not[..]) {
            (_, []) => {}
            (Action::Deny, [Glob::Present]) if asked.is_empty() => {
                part.tokens = Some(vec![token::none(node, &self.issuers)?]);
            }
            _ => {
                let why = "`notRequestPrincipals` has a translation as `[\"*\"]` in a DENY alone";
                return Err(Refusal::at(node, why));
            }
        }
        Ok(part)
    }

    fn conditions(&self, node: &Node) -> Result<Conditions, Refusal> {
        let mut conditions = Conditions::default();
        for condition in list(node, "when")? {
            only(condition, &["key", "values", "notValues"])?;
            let Some(key) = condition.get("key")? else {
                return Err(Refusal::at(condition, "a condition without `key`"));
            };
            let key = key.text()?;
            if key == "source.ip" {
                if conditions.blocks.is_some() {
                    return Err(Refusal::at(condition, "two conditions on `source.ip`"));
                }
                conditions.blocks = blocks(condition, "values", "notValues")?;
                continue;
            }
            if let Some(key) = key.strip_prefix("request.auth.") {
                let asked = self.of_token(key, condition)?;
                conditions.tokens = either(condition, conditions.tokens.as_ref(), Some(&asked))?;
                continue;
            }
            conditions.when.extend(self.condition(key, condition)?);
        }
        Ok(conditions)
    }

    fn of_token(&self, key: &str, node: &Node) -> Result<Vec<Token>, Refusal> {
        let key_of_it = format!("request.auth.{key}");
        self.refuse_in_deny(node, &key_of_it)?;
        if !texts(node, "notValues")?.is_empty() {
            return Err(Refusal::at(node, format!("`notValues` of {key_of_it} has no translation")));
        }
        let globs = Glob::all(&texts(node, "values")?).map_err(|why| Refusal::at(node, why))?;
        if globs.is_empty() {
            return Err(Refusal::at(node, "a condition without values"));
        }
        token::condition(node, key, &globs, &self.issuers)
    }

    /// A Deny on a token denies here also who brings none.
    fn refuse_in_deny(&self, node: &Node, what: &str) -> Result<(), Refusal> {
        match self.action {
            Action::Allow => Ok(()),
            Action::Deny => {
                let why = format!("`{what}` in a DENY: here who brings no token would be denied too");
                Err(Refusal::at(node, why))
            }
        }
    }

    fn condition(&self, key: &str, node: &Node) -> Result<Vec<String>, Refusal> {
        let wrong = |why: String| Refusal::at(node, why);
        let (values, not) = (texts(node, "values")?, texts(node, "notValues")?);
        let globs = |texts: &[&str]| Glob::all(texts).map_err(wrong);
        if values.is_empty() && not.is_empty() {
            return Err(Refusal::at(node, "a condition without values"));
        }
        if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            return header(node, &name.to_ascii_lowercase(), &globs(&values)?, &globs(&not)?);
        }
        let mut part = Part::default();
        match key {
            "source.principal" => {
                part.any(&self.principals(globs(&values)?), None, key);
                part.none(node, &self.principals(globs(&not)?), key)?;
            }
            "source.namespace" => {
                part.any(&globs(&values)?, None, key);
                part.none(node, &globs(&not)?, key)?;
            }
            "source.trustDomain" => {
                part.any(&self.domains(globs(&values)?), None, key);
                part.none(node, &self.domains(globs(&not)?), key)?;
            }
            "source.serviceAccount" => {
                let accounts =
                    |texts: &[&str]| texts.iter().map(|text| self.account(text)).collect::<Vec<_>>();
                if !values.is_empty() {
                    part.when.push(is_account(&accounts(&values)).map_err(wrong)?);
                }
                if !not.is_empty() {
                    part.when.push(format!("!{}", is_account(&accounts(&not)).map_err(wrong)?));
                }
            }
            "destination.port" => {
                for (ports, sign) in [(values, ""), (not, "!")] {
                    if !ports.is_empty() {
                        part.when
                            .push(format!("{sign}(destination.port in {})", json!(numbers(node, &ports)?)));
                    }
                }
            }
            _ => return Err(Refusal::at(node, format!("the condition `{key}` has no translation"))),
        }
        Ok(part.when)
    }

    /// With the scheme that Istio leaves out. `cluster.local` means the mesh's own trust domain, whatever it is called.
    fn principals(&self, globs: Vec<Glob>) -> Vec<Glob> {
        let whole = |text: String| match text.strip_prefix("cluster.local/") {
            Some(path) => format!("spiffe://{}/{path}", self.trust_domain),
            None => format!("spiffe://{text}"),
        };
        let principal = |glob| match glob {
            Glob::Exact(text) => Glob::Exact(whole(text)),
            Glob::Prefix(text) => Glob::Prefix(whole(text)),
            other @ (Glob::Suffix(_) | Glob::Present) => other,
        };
        globs.into_iter().map(principal).collect()
    }

    fn domains(&self, globs: Vec<Glob>) -> Vec<Glob> {
        let own = |glob| match glob {
            Glob::Exact(text) if text == "cluster.local" => Glob::Exact(self.trust_domain.to_string()),
            other => other,
        };
        globs.into_iter().map(own).collect()
    }

    /// `namespace/account`
    fn account(&self, text: &str) -> String {
        if text.contains('/') { text.to_owned() } else { format!("{}/{text}", self.namespace) }
    }
}

/// What the source and the conditions ask of the token.
fn either(
    node: &Node,
    one: Option<&Vec<Token>>,
    other: Option<&Vec<Token>>,
) -> Result<Option<Vec<Token>>, Refusal> {
    match (one, other) {
        (Some(one), Some(other)) => token::both(node, one, other).map(Some),
        (one, other) => Ok(one.or(other).cloned()),
    }
}

/// A header that is missing is none of the values: asked first, so that no rule is in doubt.
fn header(node: &Node, name: &str, values: &[Glob], not: &[Glob]) -> Result<Vec<String>, Refusal> {
    if name.starts_with(':') || is_claim(name) {
        return Err(Refusal::at(node, format!("the header `{name}` cannot be asked for")));
    }
    let is_there = format!("{} in request.headers", json!(name));
    let attribute = format!("request.headers[{}]", json!(name));
    let is_any = |globs: &[Glob]| {
        if globs.contains(&Glob::Present) {
            is_there.clone()
        } else {
            format!("{is_there} && {}", glob::is_any(&attribute, globs))
        }
    };
    let mut when = Vec::new();
    if !values.is_empty() {
        when.push(is_any(values));
    }
    if !not.is_empty() {
        when.push(format!("!({})", is_any(not)));
    }
    Ok(when)
}

/// That the caller is one of the accounts, in parentheses.
fn is_account(accounts: &[String]) -> Result<String, String> {
    let one = |account: &String| {
        let parts = account.split_once('/').filter(|_| !account.contains('*'));
        let (namespace, name) = parts.ok_or_else(|| format!("{account:?} is no account"))?;
        Ok(format!("source.namespace == {} && source.serviceAccount == {}", json!(namespace), json!(name)))
    };
    let all: Vec<String> = accounts.iter().map(one).collect::<Result<_, String>>()?;
    Ok(format!("({})", all.join(" || ")))
}

fn blocks(node: &Node, field: &str, not: &str) -> Result<Option<Vec<String>>, Refusal> {
    let (blocks, except) = (texts(node, field)?, texts(node, not)?);
    if blocks.is_empty() && except.is_empty() {
        return Ok(None);
    }
    let blocks = if blocks.is_empty() { vec!["0.0.0.0/0", "::/0"] } else { blocks };
    address::without(&blocks, &except).map(Some).map_err(|why| Refusal::at(node, why))
}

/// The sources, each with the addresses that the rule asks for.
fn with_blocks(node: &Node, sources: Vec<Part>, blocks: &[String]) -> Result<Vec<Part>, Refusal> {
    let sources = if sources.is_empty() { vec![Part::default()] } else { sources };
    let with = |mut part: Part| match part.fields.insert("ipBlocks".to_owned(), json!(blocks)) {
        None => Ok(part),
        Some(_) => Err(Refusal::at(node, "two conditions on the address of the caller")),
    };
    sources.into_iter().map(with).collect()
}

/// An empty list is none, as it is to Istio.
fn list<'n>(node: &'n Node, field: &str) -> Result<&'n [Node], Refusal> {
    Ok(node.get(field)?.map(Node::items).transpose()?.unwrap_or_default())
}

/// The source of a `from`, or the operation of a `to`, which must say something.
fn inner<'n>(item: &'n Node, field: &str) -> Result<&'n Node, Refusal> {
    only(item, &[field])?;
    let inner = item.get(field)?.filter(|node| node.fields().is_ok_and(|fields| !fields.is_empty()));
    inner.ok_or_else(|| Refusal::at(item, format!("an empty `{field}`")))
}

fn field(name: &str, value: serde_json::Value) -> Fields {
    [(name.to_owned(), value)].into_iter().collect()
}

/// Headers that claim who the caller is, which a sidecar takes off before it judges.
fn is_claim(name: &str) -> bool {
    let claims = ["forwarded", "x-real-ip", "x-client-cert", "client-cert", "client-cert-chain"];
    let prefixes = ["x-forwarded-", "x-sidegate-", "x-ssl-client-"];
    claims.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

const SOURCE: [&str; 12] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
];

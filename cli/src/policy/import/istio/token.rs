//! What a policy of Istio asks of tokens. Here each question is to the tokens of one issuer, so that one question becomes one
//! for each issuer whose tokens the files say are verified.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Refusal, glob::Glob};
use crate::yaml::Node;

/// What the token of a request must say: the `jwt` of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    issuer: String,
    audiences: Vec<String>,
    /// Tests by the names of claims.
    claims: BTreeMap<String, Value>,
}

impl Token {
    fn of(issuer: &str) -> Self {
        Self { issuer: issuer.to_owned(), audiences: Vec::new(), claims: BTreeMap::new() }
    }

    fn with(issuer: &str, claim: &str, test: Value) -> Self {
        Self { claims: BTreeMap::from([(claim.to_owned(), test)]), ..Self::of(issuer) }
    }

    pub(super) fn json(&self) -> Value {
        let mut jwt = json!({"issuer": self.issuer});
        if let Some(jwt) = jwt.as_object_mut() {
            if !self.audiences.is_empty() {
                jwt.insert("audiences".to_owned(), json!(self.audiences));
            }
            if !self.claims.is_empty() {
                jwt.insert("claims".to_owned(), json!(self.claims));
            }
        }
        jwt
    }
}

/// Principals, `issuer/subject`: any of the globs.
pub(super) fn principals(node: &Node, globs: &[Glob], issuers: &[String]) -> Result<Vec<Token>, Refusal> {
    // A principal is made of both, so that a token without a subject has none.
    let any_subject = |issuer: &str| Token::with(issuer, "sub", json!({"exists": true}));
    let mut tokens = Vec::new();
    for glob in globs {
        match glob {
            Glob::Exact(text) => {
                let (issuer, subject) = text.rsplit_once('/').ok_or_else(|| {
                    Refusal::at(node, format!("the principal {text:?} is not issuer/subject"))
                })?;
                tokens.push(Token::with(issuer, "sub", json!({"equals": subject})));
            }
            Glob::Present => tokens.extend(known(node, issuers)?.iter().map(|issuer| any_subject(issuer))),
            Glob::Prefix(prefix) => {
                let known = known(node, issuers)?.iter().map(|issuer| (issuer, format!("{issuer}/")));
                let (whole, others): (Vec<_>, Vec<_>) =
                    known.partition(|(_, begin)| begin.starts_with(prefix));
                if whole.is_empty() || others.iter().any(|(_, begin)| prefix.starts_with(begin)) {
                    let why = format!("\"{prefix}*\" is not the begin of an issuer that these files name");
                    return Err(Refusal::at(node, why));
                }
                tokens.extend(whole.iter().map(|(issuer, _)| any_subject(issuer)));
            }
            Glob::Suffix(text) => {
                return Err(Refusal::at(node, format!("the principal \"*{text}\" has no translation")));
            }
        }
    }
    Ok(tokens)
}

/// A condition on `request.auth.…`, `key` without that.
pub(super) fn condition(
    node: &Node,
    key: &str,
    globs: &[Glob],
    issuers: &[String],
) -> Result<Vec<Token>, Refusal> {
    if key == "principal" {
        return principals(node, globs, issuers);
    }
    let Some(texts) = Glob::exact(globs) else {
        return Err(Refusal::at(node, format!("a pattern for `request.auth.{key}` has no translation")));
    };
    let issuers = known(node, issuers)?.iter();
    let any_of = json!({"containsAny": texts});
    if key == "audiences" {
        let audiences: Vec<String> = texts.iter().map(ToString::to_string).collect();
        return Ok(issuers
            .map(|issuer| Token { audiences: audiences.clone(), ..Token::of(issuer) })
            .collect());
    }
    let claim = if key == "presenter" { Some("azp".to_owned()) } else { claim(key) };
    let claim = claim
        .ok_or_else(|| Refusal::at(node, format!("the condition `request.auth.{key}` has no translation")))?;
    if SPLIT_OTHERWISE.contains(&claim.as_str()) {
        let why = format!("`{claim}` is a list of words to one of the two and a text to the other");
        return Err(Refusal::at(node, why));
    }
    Ok(issuers.map(|issuer| Token::with(issuer, &claim, any_of.clone())).collect())
}

/// What says both: one of each, of the same issuer.
pub(super) fn both(node: &Node, one: &[Token], other: &[Token]) -> Result<Vec<Token>, Refusal> {
    let mut tokens = Vec::new();
    for left in one {
        for right in other.iter().filter(|right| right.issuer == left.issuer) {
            let twice = left.claims.keys().any(|claim| right.claims.contains_key(claim))
                || !(left.audiences.is_empty() || right.audiences.is_empty());
            if twice {
                return Err(Refusal::at(node, "two conditions on one claim"));
            }
            let claims = left.claims.iter().chain(&right.claims);
            tokens.push(Token {
                issuer: left.issuer.clone(),
                audiences: [&left.audiences[..], &right.audiences].concat(),
                claims: claims.map(|(name, test)| (name.clone(), test.clone())).collect(),
            });
        }
    }
    if tokens.is_empty() {
        return Err(Refusal::at(node, "conditions on tokens of different issuers: nothing matches"));
    }
    Ok(tokens)
}

/// That there is no token, for a Deny: one without a token is in doubt, which denies, and one with a token has a subject.
pub(super) fn none(node: &Node, issuers: &[String]) -> Result<Token, Refusal> {
    let issuer = known(node, issuers)?.first();
    let issuer = issuer.ok_or_else(|| Refusal::at(node, UNKNOWN))?;
    Ok(Token::with(issuer, "sub", json!({"exists": false})))
}

fn known<'i>(node: &Node, issuers: &'i [String]) -> Result<&'i [String], Refusal> {
    if issuers.is_empty() { Err(Refusal::at(node, UNKNOWN)) } else { Ok(issuers) }
}

/// `claims[a][b]` as `a[b]`.
fn claim(key: &str) -> Option<String> {
    let names = key.strip_prefix("claims[")?.strip_suffix(']')?;
    let mut names = names.split("][");
    let first = names.next()?.to_owned();
    Some(names.fold(first, |path, name| format!("{path}[{name}]")))
}

const UNKNOWN: &str =
    "whose tokens are meant? No RequestAuthentication of its namespace is translated with these files";
/// Istio splits `permission`, and here `scp` is split.
const SPLIT_OTHERWISE: [&str; 2] = ["permission", "scp"];

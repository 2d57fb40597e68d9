//! `jwt` once more, on the JSON of the claims. `None` is doubt.

use serde_json::Value;
use sidegate_policy::{ClaimTest, ClaimValue, Jwt, Request};

/// Whether the token is one that is asked for.
pub(super) fn is_taken(jwt: &Jwt, request: &Request<'_>) -> Option<bool> {
    let claims: Value = serde_json::from_str(request.http?.claims?.as_json()).expect("claims are JSON");
    if claims["iss"] != jwt.issuer.as_str() {
        return Some(false);
    }
    let mut answers = Vec::new();
    if let Some(wanted) = &jwt.audiences {
        let wanted: Vec<&str> = wanted.iter().map(sidegate_policy::ClaimText::as_str).collect();
        answers.push(match &claims["aud"] {
            Value::String(one) => Some(wanted.contains(&one.as_str())),
            Value::Array(several) => {
                Some(several.iter().any(|it| wanted.contains(&it.as_str().expect("a text"))))
            }
            _ => None,
        });
    }
    for (name, test) in jwt.claims.iter().flatten() {
        let name = name.to_string();
        let pointer = format!("/{}", name.replace('[', "/").replace(']', ""));
        answers.push(holds(&name, test, claims.pointer(&pointer)));
    }
    if answers.contains(&Some(false)) {
        Some(false)
    } else if answers.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn holds(name: &str, test: &ClaimTest, value: Option<&Value>) -> Option<bool> {
    if let Some(exists) = test.exists {
        return Some(exists == value.is_some());
    }
    match (&test.equals, value?) {
        (Some(ClaimValue::Bool(wanted)), Value::Bool(value)) => Some(wanted == value),
        (Some(ClaimValue::Integer(wanted)), value) => value.as_i64().map(|value| value == *wanted),
        (Some(ClaimValue::Text(wanted)), Value::String(value)) => Some(wanted.as_str() == value),
        (Some(_), _) => None,
        (None, value) => {
            let wanted = test.contains_any.as_ref().expect("one of the three is there");
            let is_wanted = |word: &str| wanted.iter().any(|it| it.as_str() == word);
            match value {
                Value::String(words) if name == "scope" || name == "scp" => {
                    Some(words.split(' ').any(is_wanted))
                }
                Value::String(one) => Some(is_wanted(one)),
                Value::Array(list) if list.iter().any(|it| it.as_str().is_some_and(is_wanted)) => Some(true),
                Value::Array(list) if list.iter().all(Value::is_string) => Some(false),
                _ => None,
            }
        }
    }
}

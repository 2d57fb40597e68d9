//! `when` once more, from its text: taken apart at `||`, then at `&&`, down to single questions. `None` is doubt.

use sidegate_policy::Request;

/// Whether the condition holds.
pub(super) fn holds(text: &str, request: &Request<'_>) -> Option<bool> {
    let text = text.trim();
    let any = parts(text, "||");
    if any.len() > 1 {
        let answers: Vec<_> = any.iter().map(|part| holds(part, request)).collect();
        return if answers.contains(&Some(true)) { Some(true) } else { without_doubt(&answers, false) };
    }
    let all = parts(text, "&&");
    if all.len() > 1 {
        let answers: Vec<_> = all.iter().map(|part| holds(part, request)).collect();
        return if answers.contains(&Some(false)) { Some(false) } else { without_doubt(&answers, true) };
    }
    if let Some(negated) = text.strip_prefix('!') {
        return holds(negated, request).map(|it| !it);
    }
    match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(inner) => holds(inner, request),
        None => question(text, request),
    }
}

fn without_doubt(answers: &[Option<bool>], otherwise: bool) -> Option<bool> {
    if answers.contains(&None) { None } else { Some(otherwise) }
}

/// The parts between `sign`, where it stands in no parentheses.
fn parts<'t>(text: &'t str, sign: &str) -> Vec<&'t str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && at >= start && text[at..].starts_with(sign) => {
                parts.push(&text[start..at]);
                start = at + sign.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn question(text: &str, request: &Request<'_>) -> Option<bool> {
    if let Some((name, "request.headers")) = text.split_once(" in ") {
        let (lines, lookalike) = fields(literal(name), request)?;
        return if lookalike { None } else { Some(!lines.is_empty()) };
    }
    let (subject, relation, literals) = taken_apart(text);
    if subject == "destination.port" {
        let port = i64::from(request.port);
        let wanted: Vec<i64> = literals.iter().map(|it| it.parse().expect("a port")).collect();
        return Some(match relation {
            "==" | "in" => wanted.contains(&port),
            "!=" => !wanted.contains(&port),
            "<" => port < wanted[0],
            ">=" => port >= wanted[0],
            other => unreachable!("{other}"),
        });
    }
    let meets = |value: &str| match relation {
        "==" | "in" => literals.iter().any(|it| it == value),
        "!=" => literals.iter().all(|it| it != value),
        "startsWith" => value.starts_with(&literals[0]),
        "endsWith" => value.ends_with(&literals[0]),
        "contains" => value.contains(&literals[0]),
        other => unreachable!("{other}"),
    };
    match subject {
        "request.method" => Some(meets(request.http?.method)),
        "request.path" => Some(meets(request.http?.path)),
        "request.host" => {
            let host = request.http?.host.to_lowercase();
            let lower: Vec<String> = literals.iter().map(|it| it.to_lowercase()).collect();
            Some(match relation {
                "==" => lower.contains(&host),
                "endsWith" => host.ends_with(&lower[0]),
                other => unreachable!("{other}"),
            })
        }
        "source.principal" => Some(meets(request.source.identity?.as_str())),
        "source.trustDomain" => Some(meets(request.source.identity?.trust_domain())),
        "source.namespace" => request.source.identity?.namespace().map(meets),
        "source.serviceAccount" => request.source.identity?.service_account().map(meets),
        header => {
            let name = header.strip_prefix("request.headers[").and_then(|it| it.strip_suffix(']'));
            let (lines, lookalike) = fields(literal(name.expect("the only subject left")), request)?;
            let [line] = lines.as_slice() else { return None };
            // Every way to read it must agree.
            let answers: Vec<bool> =
                std::iter::once(line.as_str()).chain(line.split(',').map(str::trim)).map(meets).collect();
            if lookalike || answers.contains(&!answers[0]) { None } else { Some(answers[0]) }
        }
    }
}

/// What is asked about, how it is compared, and with what.
fn taken_apart(text: &str) -> (&str, &str, Vec<String>) {
    for relation in ["==", "!=", ">=", "<", "in"] {
        if let Some((subject, list)) = text.split_once(&format!(" {relation} ")) {
            let list = list.trim_matches(['[', ']']).split(", ").map(literal);
            return (subject, relation, list.map(str::to_owned).collect());
        }
    }
    let (subject, call) = text.rsplit_once('.').filter(|(_, it)| it.contains('(')).unwrap_or_else(|| {
        // The dot was inside the text.
        let (head, _) = text.split_once("(\"").expect("a call");
        text.split_at(head.rfind('.').expect("a function of something"))
    });
    let (function, literals) = call.trim_start_matches('.').split_once('(').expect("a call");
    (subject, function, vec![literal(literals.trim_end_matches(')')).to_owned()])
}

fn literal(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

/// The lines of a header, and whether it is there under another spelling.
fn fields(name: &str, request: &Request<'_>) -> Option<(Vec<String>, bool)> {
    let (mut lines, mut lookalike) = (Vec::new(), false);
    request.http?.headers.visit(&mut |field, value| {
        if field.to_lowercase() == name.to_lowercase() {
            lines.push(String::from_utf8(value.to_vec()).expect("the world has text"));
        } else if field.to_lowercase().replace('_', "-") == name.to_lowercase().replace('_', "-") {
            lookalike = true;
        }
    });
    Some((lines, lookalike))
}

//! Receives the name and value of a variable; says why the value is a secret in plain text, if it is one.

/// Why a value is a secret that stands in the file itself; `None` if it is none, or only refers to one.
pub(super) fn reason(name: &str, value: &str) -> Option<&'static str> {
    let written = without_references(value);
    if let Some(form) = known_form(&written) {
        return Some(form);
    }
    let says_nothing = matches!(
        written.trim().to_ascii_lowercase().as_str(),
        "" | "true" | "false" | "yes" | "no" | "on" | "off" | "0" | "1" | "null" | "none"
    );
    (names_a_secret(name) && !says_nothing).then_some("its name says that it is a secret")
}

/// By the last words of the name: `DB_PASSWORD` and `API_KEY` are secrets; `TOKEN_TTL` and `PASSWORD_FILE` are not.
fn names_a_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(['_', '-', '.']).filter(|word| !word.is_empty()).collect();
    let alone = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "CREDENTIALS"];
    let after_another = ["PASS", "PWD"];
    let of_key = ["API", "PRIVATE", "ACCESS", "SECRET", "ENCRYPTION", "SIGNING", "MASTER", "AUTH"];
    let Some((last, before)) = words.split_last() else {
        return false;
    };
    alone.contains(last)
        || before
            .last()
            .is_some_and(|word| after_another.contains(last) || *last == "KEY" && of_key.contains(word))
}

/// Forms that are secrets whatever the variable is called.
fn known_form(value: &str) -> Option<&'static str> {
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----") {
        return Some("it is a private key");
    }
    if has_password(value) {
        return Some("it is a URL with a password in it");
    }
    let word = value.trim();
    let is_token = word.len() >= TOKEN_BYTES && TOKENS.iter().any(|prefix| word.starts_with(prefix));
    is_token.then_some("it has the form of an access token")
}

/// `scheme://user:password@host`
fn has_password(value: &str) -> bool {
    value.split_whitespace().any(|word| {
        let authority = word.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next());
        let user = authority.flatten().and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
        user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
    })
}

/// The value without what stands for something outside of the file: `$(NAME)`, `$NAME`, `${NAME}`, `${NAME:?why}`. Of
/// `${NAME:-default}` the default stays, which is written in the file.
fn without_references(value: &str) -> String {
    let mut written = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        written.push_str(before);
        rest = match after.chars().next() {
            Some('$') => {
                written.push('$');
                &after[1..]
            }
            Some('(') => after.split_once(')').map_or("", |(_, rest)| rest),
            Some('{') => {
                let (inside, rest) = braces(&after[1..]);
                written.push_str(default(inside));
                rest
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_')
            }
            _ => {
                written.push('$');
                after
            }
        };
    }
    written.push_str(rest);
    written
}

/// What stands before the brace that closes, and what follows it; defaults may hold references of their own.
fn braces(text: &str) -> (&str, &str) {
    let mut open = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return (&text[..at], &text[at + 1..]);
        }
    }
    (text, "")
}

/// The default in `NAME:-default` or `NAME-default`, unless it is itself a reference.
fn default(inside: &str) -> &str {
    let name = inside.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let default = name.strip_prefix(":-").or_else(|| name.strip_prefix('-')).unwrap_or_default();
    if default.starts_with('$') { "" } else { default }
}

/// How access tokens of well-known services begin.
const TOKENS: [&str; 11] = [
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "sk_live_",
    "rk_live_",
    "AKIA",
    "ASIA",
    sidegate_control_plane::tokens::PREFIX,
];
/// The shortest of them.
const TOKEN_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_name_or_by_its_form() {
        for (name, value) in [
            ("DB_PASSWORD", "hunter2"),
            ("db-pwd", "hunter2"),
            ("spring.datasource.password", "hunter2"),
            ("STRIPE_API_KEY", "x"),
            ("GITHUB_TOKEN", "x"),
            ("DB_PASSWORD", "${DB_PASSWORD:-hunter2}"),
            ("DB_PASSWORD", "$$ecret"),
            ("DATABASE_URL", "postgres://app:hunter2@db:5432/shop"),
            ("JVM_OPTS", "-Ddb=jdbc:postgresql://app:hunter2@db/shop"),
            ("ID", "-----BEGIN EC PRIVATE KEY-----\nMHc"),
            ("GH", "ghp_0123456789abcdef0123"),
        ] {
            assert!(reason(name, value).is_some(), "{name}={value}");
        }
    }

    #[test]
    fn a_reference_and_what_only_sounds_like_a_secret_are_none() {
        for (name, value) in [
            ("DB_PASSWORD", ""),
            ("DB_PASSWORD", "${DB_PASSWORD}"),
            ("DB_PASSWORD", "${DB_PASSWORD:?set it}"),
            ("DB_PASSWORD", "${DB_PASSWORD:-${OTHER}}"),
            ("DB_PASSWORD", "$DB_PASSWORD"),
            ("DB_PASSWORD", "$(DB_PASSWORD)"),
            ("DB_PASSWORD_FILE", "/run/secrets/db"),
            ("MYSQL_ALLOW_EMPTY_PASSWORD", "yes"),
            ("TOKEN_TTL", "3600"),
            ("PWD", "/srv"),
            ("KEY", "value"),
            ("DATABASE_URL", "postgres://app@db:5432/shop"),
            ("DATABASE_URL", "postgres://app:${PW}@db:5432/shop"),
            ("URL", "http://shop.test:8080/a:b@c"),
        ] {
            assert_eq!(reason(name, value), None, "{name}={value}");
        }
    }
}

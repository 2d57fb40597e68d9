//! Compose's variables in a value: `${NAME:-default}` becomes its default, so that what a file says by itself can be read. What
//! has no default stays as it is, and is then no name and no port.

/// The text with every default in the place of its variable.
pub(super) fn with_defaults(text: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, variable) = rest.split_at(start);
        filled.push_str(before);
        let Some(end) = variable.find('}') else {
            filled.push_str(variable);
            return filled;
        };
        let (inside, after) = (&variable[2..end], &variable[end + 1..]);
        match inside.split_once(":-").or_else(|| inside.split_once('-')) {
            Some((_, default)) => filled.push_str(default),
            None => filled.push_str(&variable[..=end]),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_stands_for_its_variable_and_nothing_else_does() {
        assert_eq!(with_defaults("${PORT:-8080}:80"), "8080:80");
        assert_eq!(with_defaults("http://${HOST-orders}:${PORT}/"), "http://orders:${PORT}/");
        assert_eq!(with_defaults("${A:-x"), "${A:-x");
        assert_eq!(with_defaults("plain $5"), "plain $5");
    }
}

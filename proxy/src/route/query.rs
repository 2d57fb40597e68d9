//! Compares query parameters with what a rule wants of them, decoded, without decoding them into anything.

/// Whether the first parameter called `name` in `query` has this `value`. Both are compared decoded
/// (`application/x-www-form-urlencoded`); a percent sign that encodes nothing stands for itself.
pub(super) fn has(query: &str, name: &str, value: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(raw, _)| means(raw, name)).is_some_and(|(_, raw)| means(raw, value))
}

fn means(raw: &str, text: &str) -> bool {
    let mut rest = raw.as_bytes();
    let decoded = std::iter::from_fn(|| {
        let (byte, after) = match rest {
            [] => return None,
            [b'%', high, low, after @ ..] if let (Some(high), Some(low)) = (digit(*high), digit(*low)) => {
                (high << 4 | low, after)
            }
            [b'+', after @ ..] => (b' ', after),
            [byte, after @ ..] => (*byte, after),
        };
        rest = after;
        Some(byte)
    });
    decoded.eq(text.bytes())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts_and_is_compared_decoded() {
        for (query, is_match) in [
            ("a=b c", true),
            ("a=b+c", true),
            ("a=b%20c", true),
            ("%61=b%20c", true),
            ("x=1&a=b+c", true),
            ("a=b+c&a=other", true),
            ("a=other&a=b+c", false),
            ("a", false),
            ("A=b+c", false),
            ("a=b+c+", false),
            ("a=b%2", false),
            ("aa=b+c", false),
            ("", false),
        ] {
            assert_eq!(has(query, "a", "b c"), is_match, "{query}");
        }
        assert!(has("a", "a", "") && has("a=", "a", "") && has("a=100%&b", "a", "100%"));
    }
}

//! Patterns of HTTP hosts.

use std::{fmt, str::FromStr, sync::Arc};

use super::InvalidValue;

/// A host, or `*.` and a domain: any host with one or more labels before that domain, and never the domain itself.
/// Case does not matter; there is no port. IPv6 addresses have too many spellings to be compared as text, and are none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    /// Lower case.
    text: Arc<str>,
}

impl HostPattern {
    /// Whether the pattern matches a host without port.
    pub fn matches(&self, host: &str) -> bool {
        match self.text.strip_prefix('*') {
            None => self.text.eq_ignore_ascii_case(host),
            // The domain keeps its dot, so that `*.shop.test` cannot match inside a label of `myshop.test`.
            Some(domain) => host
                .len()
                .checked_sub(domain.len())
                .and_then(|labels| host.split_at_checked(labels))
                .is_some_and(|(labels, rest)| rest.eq_ignore_ascii_case(domain) && are_labels(labels)),
        }
    }

    /// Whether the pattern matches every host that another matches.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        match (self.text.strip_prefix('*'), narrow.text.strip_prefix('*')) {
            (Some(domain), Some(narrow)) => narrow.ends_with(domain),
            (None, Some(_)) => false,
            (_, None) => self.matches(&narrow.text),
        }
    }

    /// Whether no host is matched by both.
    pub(crate) fn is_apart(&self, other: &Self) -> bool {
        match (self.text.strip_prefix('*'), other.text.strip_prefix('*')) {
            (Some(one), Some(other)) => !one.ends_with(other) && !other.ends_with(one),
            (Some(_), None) => !self.matches(&other.text),
            (None, _) => !other.matches(&self.text),
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let lower = text.to_ascii_lowercase();
        let domain = lower.strip_prefix("*.").unwrap_or(&lower);
        if is_host_name(domain) {
            return Ok(Self { text: lower.into() });
        }
        Err(InvalidValue::because(
            "a host is a name or IPv4 address without port, or `*.` and a domain; leave `hosts` out for any",
        ))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_host_name(text: &str) -> bool {
    const LONGEST: usize = 253;
    text.len() <= LONGEST && are_labels(text)
}

fn are_labels(text: &str) -> bool {
    const LONGEST: usize = 63;
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.split('.').all(|label| !label.is_empty() && label.len() <= LONGEST && label.bytes().all(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_match_whole_and_without_case() {
        assert!(host("Pay.Shop.test").matches("pay.shop.TEST"));
        assert!(!host("pay.shop.test").matches("pay.shop.test."));
        assert!(!host("pay.shop.test").matches("xpay.shop.test"));
        assert!(!host("pay.shop.test").matches(""));
    }

    #[test]
    fn a_wildcard_takes_whole_labels_and_at_least_one() {
        let wild = host("*.shop.test");
        assert!(wild.matches("pay.shop.test"));
        assert!(wild.matches("A.B.SHOP.test"));
        for other in [
            "shop.test",
            ".shop.test",
            "myshop.test",
            "pay.myshop.test",
            "a..shop.test",
            "pay.shop.test.evil",
            "*.shop.test",
            "ä.shop.test",
        ] {
            assert!(!wild.matches(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "*",
            "*.",
            "*shop.test",
            "pay.*.test",
            "a.shop.test:80",
            "shop.test.",
            "a b",
            "ä.test",
            "[::1]",
            "[::g]",
            "http://a",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
    }
}

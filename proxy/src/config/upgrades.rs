//! What requests of a port may become. Takes the names that `Upgrade` and `:protocol` carry; refuses those that are no name,
//! and HTTP itself: a connection that changed into another HTTP would be past every check of requests.

use super::file::Faults;

/// Protocols that a request may become, in lower case. By default WebSockets alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(Vec<String>);

impl Upgrades {
    /// Whether `name`, in any case, is one of them.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The list as it is written, or the default where none is.
    pub(super) fn resolve(list: Option<Vec<String>>, field: &str, faults: &mut Faults<'_>) -> Self {
        let Some(list) = list else {
            return Self::default();
        };
        if list.len() > MOST {
            faults.push(
                &format!("{field}.upgrades"),
                format!("{} names; at most {MOST} are allowed", list.len()),
            );
        }
        Self(faults.each(&format!("{field}.upgrades"), list, |name, field, faults| match refused(&name) {
            None => Some(name.to_ascii_lowercase()),
            Some(why) => {
                faults.push(field, format!("{name:?} {why}"));
                None
            }
        }))
    }
}

impl Default for Upgrades {
    fn default() -> Self {
        Self(vec!["websocket".to_owned()])
    }
}

/// RFC 9110 §7.8: a token, and perhaps a version behind a slash.
fn refused(name: &str) -> Option<&'static str> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let (protocol, version) = name.split_once('/').unwrap_or((name, "1"));
    if name.len() > LONGEST || !is_part(protocol) || !is_part(version) {
        return Some("is not the name of a protocol");
    }
    let protocol = protocol.to_ascii_lowercase();
    (protocol == "http" || protocol.starts_with("h2")).then_some("is HTTP, which is never upgraded to")
}

const MOST: usize = 16;
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn names_of_protocols_are_taken_and_http_is_not() {
        for name in ["websocket", "SPDY/3.1", "tcp", "tls/1.2"] {
            assert_eq!(refused(name), None, "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", "a b", "/1", "a/", "a,b", "h2c", "H2C", "h2", "HTTP/2.0", &long] {
            assert!(refused(name).is_some(), "{name}");
        }
    }
}

//! Whom a service calls and what it listens on, read from what its Compose file says: `depends_on`, `links`, values of the
//! environment that look like addresses, well-known images. Each guess says where it comes from; labels stand in place of all.

use super::file::{Project, Protocol, Service};

/// One service calls another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The called one's name in the file.
    pub(crate) to: String,
    /// `None`: whichever it listens on.
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Protocol,
    /// Another name that the caller has for it.
    pub(crate) alias: Option<String>,
    /// Where it stands: `depends_on`, `ORDERS_URL`.
    pub(crate) source: String,
}

/// Whom a service of the project calls, without itself. `Err` names what its label calls and is not there.
pub(crate) fn references(project: &Project, service: &Service) -> Result<Vec<Reference>, String> {
    let mut found = match &service.declared_upstreams {
        Some(declared) => declared
            .iter()
            .map(|upstream| {
                let to = project.called(&upstream.name).ok_or_else(|| upstream.name.clone())?;
                Ok(reference(to, upstream.port, Protocol::Auto, "label"))
            })
            .collect::<Result<Vec<_>, String>>()?,
        None => guessed(project, service),
    };
    for outside in &service.egress {
        let to = project.outside(&outside.host).ok_or_else(|| outside.host.clone())?;
        found.push(reference(to, Some(outside.port), outside.protocol, "egress"));
    }
    found.retain(|reference| reference.to != service.name);
    Ok(found)
}

/// The port of a well-known image, where nothing else says one.
pub(crate) fn port_of_image(image: &str) -> Option<(u16, Protocol)> {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split([':', '@']).next().unwrap_or(name);
    IMAGES.iter().find(|(known, ..)| *known == name).map(|(_, port, protocol)| (*port, *protocol))
}

fn guessed(project: &Project, service: &Service) -> Vec<Reference> {
    let waits = service.depends_on.iter().filter_map(|name| project.called(name));
    let mut found: Vec<_> = waits.map(|to| reference(to, None, Protocol::Auto, "depends_on")).collect();
    for (name, alias) in &service.links {
        found.extend(project.called(name).map(|to| Reference {
            alias: Some(alias.clone()),
            ..reference(to, None, Protocol::Auto, "links")
        }));
    }
    for (key, value) in &service.environment {
        let addresses = if value.contains("://") { urls(value) } else { plain(key, value) };
        for address in addresses {
            found.extend(
                project.called(&address.host).map(|to| reference(to, address.port, address.protocol, key)),
            );
        }
    }
    found
}

fn reference(to: &Service, port: Option<u16>, protocol: Protocol, source: &str) -> Reference {
    Reference { to: to.name.clone(), port, protocol, alias: None, source: source.to_owned() }
}

#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: Option<u16>,
    protocol: Protocol,
}

/// Every `scheme://[user@]host[:port][,host[:port]]` of a text.
fn urls(text: &str) -> Vec<Address> {
    let mut addresses = Vec::new();
    for (at, _) in text.match_indices("://") {
        let (before, after) = (&text[..at], &text[at + 3..]);
        let scheme =
            before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '+')).next().unwrap_or_default();
        let authority = after.split(|c: char| "/?#\"' ;|)]}".contains(c)).next().unwrap_or_default();
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        let (default_port, protocol) = of_scheme(scheme);
        addresses.extend(hosts.split(',').map(|host| match host.split_once(':') {
            Some((host, port)) => Address { host: host.to_owned(), port: port.parse().ok(), protocol },
            None => Address { host: host.to_owned(), port: default_port, protocol },
        }));
    }
    addresses
}

/// `host:port` anywhere, and a bare host where the variable's name says that it is one.
fn plain(key: &str, value: &str) -> Vec<Address> {
    let key = key.to_ascii_uppercase();
    if BARE_HOSTS.iter().any(|ending| key.ends_with(ending)) && !value.contains(':') {
        let hosts = value.split([',', ' ']).filter(|host| !host.is_empty());
        return hosts
            .map(|host| Address { host: host.to_owned(), port: None, protocol: Protocol::Auto })
            .collect();
    }
    value
        .split(|c: char| !(c.is_ascii_alphanumeric() || ".:_-".contains(c)))
        .filter_map(|word| {
            let (host, port) = word.split_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some(Address { host: host.to_owned(), port: Some(port), protocol: Protocol::Auto })
        })
        .collect()
}

fn of_scheme(scheme: &str) -> (Option<u16>, Protocol) {
    let scheme = scheme.to_ascii_lowercase();
    let found = SCHEMES.iter().find(|(known, ..)| *known == scheme);
    found.map_or((None, Protocol::Auto), |(_, port, protocol)| (*port, *protocol))
}

/// TLS of the application's own is `auto`: it goes by its server name.
const SCHEMES: [(&str, Option<u16>, Protocol); 19] = [
    ("http", Some(80), Protocol::Http),
    ("ws", Some(80), Protocol::Http),
    ("https", Some(443), Protocol::Auto),
    ("wss", Some(443), Protocol::Auto),
    ("tcp", None, Protocol::Tcp),
    ("postgres", Some(5432), Protocol::Tcp),
    ("postgresql", Some(5432), Protocol::Tcp),
    ("mysql", Some(3306), Protocol::Tcp),
    ("mysql2", Some(3306), Protocol::Tcp),
    ("mariadb", Some(3306), Protocol::Tcp),
    ("redis", Some(6379), Protocol::Tcp),
    ("rediss", Some(6379), Protocol::Tcp),
    ("valkey", Some(6379), Protocol::Tcp),
    ("amqp", Some(5672), Protocol::Tcp),
    ("amqps", Some(5671), Protocol::Tcp),
    ("mongodb", Some(27017), Protocol::Tcp),
    ("nats", Some(4222), Protocol::Tcp),
    ("kafka", Some(9092), Protocol::Tcp),
    ("memcached", Some(11211), Protocol::Tcp),
];

const IMAGES: [(&str, u16, Protocol); 12] = [
    ("postgres", 5432, Protocol::Tcp),
    ("postgis", 5432, Protocol::Tcp),
    ("mysql", 3306, Protocol::Tcp),
    ("mariadb", 3306, Protocol::Tcp),
    ("redis", 6379, Protocol::Tcp),
    ("valkey", 6379, Protocol::Tcp),
    ("mongo", 27017, Protocol::Tcp),
    ("rabbitmq", 5672, Protocol::Tcp),
    ("nats", 4222, Protocol::Tcp),
    ("memcached", 11211, Protocol::Tcp),
    ("nginx", 80, Protocol::Http),
    ("httpd", 80, Protocol::Http),
];

/// `POSTGRES_USER=postgres` names no host, `DB_HOST=postgres` does.
const BARE_HOSTS: [&str; 9] =
    ["HOST", "HOSTS", "HOSTNAME", "ADDR", "ADDRESS", "SERVER", "SERVERS", "ENDPOINT", "UPSTREAM"];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: &str, value: &str) -> Vec<String> {
        let addresses = if value.contains("://") { urls(value) } else { plain(key, value) };
        let shown = |address: Address| {
            let port = address.port.map_or("-".to_owned(), |port| port.to_string());
            format!("{}:{port}/{}", address.host, address.protocol.word())
        };
        addresses.into_iter().map(shown).collect()
    }

    #[test]
    fn an_address_is_read_in_every_form_that_programs_take_it_in() {
        assert_eq!(found("X", "http://orders:8080/api"), ["orders:8080/http"]);
        assert_eq!(found("X", "jdbc:postgresql://db/shop?a=b"), ["db:5432/tcp"]);
        assert_eq!(found("X", "postgres://me:p%40ss@db:5433/x"), ["db:5433/tcp"]);
        assert_eq!(found("X", "mongodb://a:1,b:2/x"), ["a:1/tcp", "b:2/tcp"]);
        assert_eq!(found("X", "https://a/ wss://b:1"), ["a:443/auto", "b:1/auto"]);
        assert_eq!(found("X", "me:pw@tcp(db:3306)/shop"), ["db:3306/auto"]);
        assert_eq!(found("DB_HOST", "db"), ["db:-/auto"]);
        assert_eq!(found("KAFKA", "k1:9092,k2:9092"), ["k1:9092/auto", "k2:9092/auto"]);
    }

    #[test]
    fn a_word_that_only_happens_to_be_a_name_is_no_address() {
        assert_eq!(found("POSTGRES_USER", "postgres"), [""; 0]);
        assert_eq!(found("LEVEL", "orders:debug"), [""; 0]);
    }

    #[test]
    fn an_image_is_known_by_its_last_name() {
        assert_eq!(port_of_image("docker.io/library/postgres:16@sha256:0"), Some((5432, Protocol::Tcp)));
        assert_eq!(port_of_image("acme/postgres-exporter"), None);
    }
}

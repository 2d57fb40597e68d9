//! `ports` and `expose` of a service: every way Compose writes them in, port numbers out. UDP, a port that only a variable says, and
//! a range that is too wide for listeners are refused.

use super::variables::with_defaults;
use crate::compose::yaml::Node;

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// As it was written; it moves to the sidecar word for word.
    pub(crate) entry: Node,
    /// The container's ports that it leads to.
    pub(crate) ports: Vec<u16>,
}

impl Published {
    /// The same entry, leading to other ports of the container; a range stays one.
    pub(crate) fn leading_to(&self, port: impl Fn(u16) -> u16) -> Option<Node> {
        let (first, last) = (self.ports.first()?, self.ports.last()?);
        let target = match self.ports.len() {
            1 => port(*first).to_string(),
            _ => format!("{}-{}", port(*first), port(*last)),
        };
        if self.entry.get("target").is_some() {
            let mut entry = self.entry.clone();
            entry.set("target", Node::Number(target));
            return Some(entry);
        }
        let text = self.entry.scalar()?;
        let (ports, protocol) = text.rsplit_once('/').map_or((&*text, ""), |(ports, _)| (ports, "/tcp"));
        let (host, container) = ports.split_at(ports.rfind(':').map_or(0, |colon| colon + 1));
        // The colon was one of `${PORT:-80}`.
        (!container.contains('}')).then(|| Node::text(format!("{host}{target}{protocol}")))
    }
}

/// What `ports` publishes.
pub(super) fn published(node: Option<&Node>) -> Result<Vec<Published>, String> {
    let items = node.map(Node::items).unwrap_or_default();
    items
        .iter()
        .map(|entry| {
            let ports = match entry.get("target") {
                Some(target) => {
                    let protocol = entry.get("protocol").and_then(Node::scalar);
                    container_ports(&target.scalar().unwrap_or_default(), protocol.as_deref())?
                }
                None => {
                    short(&entry.scalar().ok_or("an entry of `ports` is neither a text nor has a `target`")?)?
                }
            };
            Ok(Published { entry: entry.clone(), ports })
        })
        .collect()
}

/// What `expose` names.
pub(super) fn exposed(node: Option<&Node>) -> Result<Vec<u16>, String> {
    let items = node.map(Node::items).unwrap_or_default();
    let lists = items.iter().map(|item| short(&item.scalar().unwrap_or_default()));
    Ok(lists.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// `[[address:]host:]container[/protocol]`; the host's part is Compose's affair.
fn short(text: &str) -> Result<Vec<u16>, String> {
    let text = with_defaults(text);
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol)),
        None => (&*text, None),
    };
    let container = ports.rsplit_once(':').map_or(ports, |(_, container)| container);
    container_ports(container, protocol)
}

fn container_ports(text: &str, protocol: Option<&str>) -> Result<Vec<u16>, String> {
    if let Some(other) = protocol.filter(|protocol| *protocol != "tcp") {
        return Err(format!("port {text}/{other}: sidecars carry TCP"));
    }
    let text = with_defaults(text);
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| {
        let parsed = text.trim().parse::<u16>().ok().filter(|port| *port != 0);
        parsed.ok_or_else(|| format!("{text:?} is not a container's port"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first || last - first >= MOST_PORTS {
        return Err(format!("{first}-{last} is not a range of at most {MOST_PORTS} ports"));
    }
    Ok((first..=last).collect())
}

/// Of one range: each is a listener of the sidecar.
const MOST_PORTS: u16 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::yaml;

    fn ports_of(list: &str) -> Result<Vec<u16>, String> {
        let node = yaml::parse(list).unwrap();
        published(Some(&node)).map(|list| list.into_iter().flat_map(|entry| entry.ports).collect())
    }

    #[test]
    fn every_way_of_writing_a_port_names_the_containers() {
        let list = "['80', 8080, '8081:81', '127.0.0.1:8082:82', '[::1]:8083:83', '${P:-1}:84', '90-92:90-92/tcp', \
                    {target: 85, published: '8085'}, '::86']";
        assert_eq!(ports_of(list).unwrap(), [80, 8080, 81, 82, 83, 84, 90, 91, 92, 85, 86]);
    }

    #[test]
    fn an_entry_leads_to_other_ports_and_keeps_the_rest() {
        let list = "['80', '8081:80', '127.0.0.1:8082:80/tcp', '[::1]:8083:80', '90-91:80-81', '${P:-1}:80', \
                    '1:${P:-80}', {target: 80, published: '8085'}]";
        let entries = published(Some(&yaml::parse(list).unwrap())).unwrap();
        let moved: Vec<_> = entries.iter().map(|entry| entry.leading_to(|port| port + 15_000)).collect();
        let texts: Vec<_> = moved.iter().map(|node| node.as_ref().and_then(Node::scalar)).collect();
        let wanted = [
            "15080",
            "8081:15080",
            "127.0.0.1:8082:15080/tcp",
            "[::1]:8083:15080",
            "90-91:15080-15081",
            "${P:-1}:15080",
        ];
        assert_eq!(texts[..6], wanted.map(|text| Some(text.to_owned())));
        assert_eq!(moved[6], None);
        assert_eq!(moved[7].as_ref().unwrap().get("target"), Some(&Node::Number("15080".into())));
        assert_eq!(moved[7].as_ref().unwrap().get("published"), Some(&Node::text("8085")));
    }

    #[test]
    fn what_a_sidecar_cannot_carry_is_refused() {
        for list in [
            "['53:53/udp']",
            "[{target: 53, protocol: udp}]",
            "['80:${PORT}']",
            "['1-90:1-90']",
            "['9-8']",
            "[[1]]",
        ] {
            assert!(ports_of(list).is_err(), "{list}");
        }
    }
}

//! One stream's memory: what the sidecar has in force, what it was sent and has not answered, what it refused.
//! Makes the next Update, and checks the answers. No input or output here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sidegate_proto::v1::Update;
use tokio::time::Instant;

use super::desired::Desired;
use crate::proxies::Nack;

/// What is known of the sidecar's side.
#[derive(Debug)]
pub(crate) struct Session {
    /// In force there, resource name to version.
    held: BTreeMap<String, String>,
    /// Names that are held from an earlier stream or a cache, and that this stream has said nothing of yet.
    from_before: BTreeSet<String>,
    outstanding: Option<Outstanding>,
    /// The difference that was refused: not sent again until it is another one.
    refused: Option<Difference>,
    /// Of the newest Update.
    version: u64,
    /// The first Update is sent even if it is empty: its Ack says that the sidecar is up to date.
    begun: bool,
}

/// The sidecar's answer to an Update.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Ack(u64),
    Nack(Nack),
}

#[derive(Debug)]
struct Outstanding {
    difference: Difference,
    due: Instant,
}

/// Names with their versions; `None`: removed.
type Difference = BTreeMap<String, Option<String>>;

impl Session {
    /// `version` is the last that the instance was sent on an earlier stream.
    pub(crate) fn new(held: BTreeMap<String, String>, version: u64) -> Self {
        Self {
            from_before: held.keys().cloned().collect(),
            held,
            outstanding: None,
            refused: None,
            version,
            begun: false,
        }
    }

    /// The next Update, if nothing is unanswered and something differs from what is held and from what was refused.
    /// After a refusal nothing may differ any more: that is said too, for its Ack takes the refusal back.
    pub(crate) fn next(&mut self, desired: &Desired, now: Instant) -> Option<Update> {
        if self.outstanding.is_some() {
            return None;
        }
        let difference = self.difference(desired);
        let is_news = match &self.refused {
            Some(refused) => *refused != difference,
            None => !difference.is_empty(),
        };
        if self.begun && !is_news {
            return None;
        }
        self.begun = true;
        self.version += 1;
        let set =
            difference.keys().filter_map(|name| desired.set.get(name)).map(|resource| (**resource).clone());
        let removed =
            difference.iter().filter(|(_, version)| version.is_none()).map(|(name, _)| name.clone());
        let update = Update { version: self.version, set: set.collect(), removed: removed.collect() };
        self.outstanding = Some(Outstanding { difference, due: now + ANSWER_TIMEOUT });
        Some(update)
    }

    /// Takes an answer; the error is for a sidecar that breaks the protocol.
    pub(crate) fn answer(&mut self, answer: &Answer) -> Result<(), &'static str> {
        let (Answer::Ack(version) | Answer::Nack(Nack { version, .. })) = answer;
        if *version != self.version {
            return Err("the answer is not to the newest update");
        }
        let Outstanding { difference, .. } =
            self.outstanding.take().ok_or("no update is waiting for an answer")?;
        match answer {
            Answer::Ack(_) => self.apply(difference),
            Answer::Nack(_) => self.refused = Some(difference),
        }
        Ok(())
    }

    /// The version of a resource that the sidecar has in force.
    pub(crate) fn held(&self, name: &str) -> Option<&String> {
        self.held.get(name)
    }

    /// Whether the sidecar has this resource in force as somebody before this stream said it.
    pub(crate) fn holds_from_before(&self, name: &str) -> bool {
        self.from_before.contains(name)
    }

    pub(crate) fn awaits_answer(&self) -> bool {
        self.outstanding.is_some()
    }

    /// When the answer must have come; of no meaning unless one is awaited.
    pub(crate) fn answer_due(&self) -> Instant {
        self.outstanding.as_ref().map_or_else(Instant::now, |outstanding| outstanding.due)
    }

    fn apply(&mut self, difference: Difference) {
        self.refused = None;
        for (name, version) in difference {
            self.from_before.remove(&name);
            match version {
                Some(version) => self.held.insert(name, version),
                None => self.held.remove(&name),
            };
        }
    }

    fn difference(&self, desired: &Desired) -> Difference {
        let set = desired
            .set
            .iter()
            .filter(|(name, resource)| self.held.get(*name) != Some(&resource.version))
            .map(|(name, resource)| (name.clone(), Some(resource.version.clone())));
        let removed = self
            .held
            .keys()
            .filter(|name| !desired.set.contains_key(*name) && !desired.keeps(name))
            .map(|name| (name.clone(), None));
        set.chain(removed).collect()
    }
}

/// Compiling ten thousand rules takes milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sidegate_proto::v1::Resource;

    use super::*;

    fn desired(resources: &[(&str, &str)]) -> Desired {
        let resource = |(name, version): &(&str, &str)| {
            let resource = Resource { name: (*name).into(), version: (*version).into(), kind: None };
            ((*name).to_owned(), Arc::new(resource))
        };
        Desired { set: resources.iter().map(resource).collect(), ..Desired::default() }
    }

    fn session(held: &[(&str, &str)]) -> Session {
        Session::new(held.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect(), 0)
    }

    fn next(session: &mut Session, desired: &Desired) -> Option<(Vec<String>, Vec<String>)> {
        let update = session.next(desired, Instant::now())?;
        Some((update.set.into_iter().map(|resource| resource.name).collect(), update.removed))
    }

    fn ack(session: &mut Session) {
        session.answer(&Answer::Ack(session.version)).unwrap();
    }

    fn nack(session: &mut Session) {
        let nack = Nack { version: session.version, path: "p".into(), code: "c".into(), message: "m".into() };
        session.answer(&Answer::Nack(nack)).unwrap();
    }

    #[test]
    fn only_what_differs_from_what_is_held_is_sent() {
        let mut session = session(&[("a", "1"), ("b", "1"), ("gone", "1")]);
        let update = next(&mut session, &desired(&[("a", "1"), ("b", "2"), ("c", "1")]));
        assert_eq!(update, Some((vec!["b".into(), "c".into()], vec!["gone".into()])));
    }

    #[test]
    fn the_first_update_is_sent_even_if_nothing_differs_and_the_second_is_not() {
        let mut session = session(&[("a", "1")]);
        let desired = desired(&[("a", "1")]);
        assert_eq!(next(&mut session, &desired), Some((vec![], vec![])));
        ack(&mut session);
        assert_eq!(next(&mut session, &desired), None);
    }

    #[test]
    fn one_update_waits_for_its_answer_and_the_next_carries_all_that_came_since() {
        let mut session = session(&[]);
        next(&mut session, &desired(&[("a", "1")])).unwrap();
        assert_eq!(next(&mut session, &desired(&[("a", "2")])), None);
        ack(&mut session);
        let update = next(&mut session, &desired(&[("a", "3"), ("b", "1")]));
        assert_eq!(update, Some((vec!["a".into(), "b".into()], vec![])));
    }

    #[test]
    fn what_was_refused_is_not_sent_again_until_it_changes() {
        let mut session = session(&[]);
        let bad = desired(&[("a", "1")]);
        next(&mut session, &bad).unwrap();
        nack(&mut session);
        assert_eq!(next(&mut session, &bad), None);
        assert_eq!(next(&mut session, &desired(&[("a", "2")])), Some((vec!["a".into()], vec![])));
    }

    #[test]
    fn after_a_refusal_what_is_held_already_is_said_once() {
        let mut session = session(&[("a", "1")]);
        next(&mut session, &desired(&[("a", "bad")])).unwrap();
        nack(&mut session);
        let restored = desired(&[("a", "1")]);
        assert_eq!(next(&mut session, &restored), Some((vec![], vec![])));
        ack(&mut session);
        assert_eq!(next(&mut session, &restored), None);
    }

    #[test]
    fn a_refused_update_changes_nothing_of_what_is_held() {
        let mut session = session(&[("a", "1")]);
        next(&mut session, &desired(&[])).unwrap();
        nack(&mut session);
        let update = next(&mut session, &desired(&[("b", "1")]));
        assert_eq!(update, Some((vec!["b".into()], vec!["a".into()])));
    }

    #[test]
    fn what_is_unknown_is_neither_sent_nor_removed() {
        let mut session =
            session(&[("policy/shop/a", "1"), ("service/shop/b", "1"), ("service/shop/c", "1")]);
        let unknown = Desired {
            policies_unknown: true,
            withheld: ["service/shop/b".to_owned()].into(),
            ..Desired::default()
        };
        assert_eq!(next(&mut session, &unknown), Some((vec![], vec!["service/shop/c".into()])));
    }

    #[test]
    fn an_answer_to_another_version_or_to_nothing_breaks_the_protocol() {
        let mut session = session(&[]);
        assert!(session.answer(&Answer::Ack(0)).is_err());
        next(&mut session, &desired(&[("a", "1")])).unwrap();
        assert!(session.answer(&Answer::Ack(2)).is_err());
        ack(&mut session);
        assert!(session.answer(&Answer::Ack(1)).is_err());
    }

    #[test]
    fn versions_go_on_from_the_stream_before() {
        let mut session = Session::new(BTreeMap::new(), 41);
        assert_eq!(session.next(&desired(&[]), Instant::now()).unwrap().version, 42);
    }
}

//! Rotations under every order of events that chance finds: messages lost and late, sidecars and the control plane that
//! crash, partitions, clocks that differ, operators who change their mind. After each event the mesh's promise is checked
//! for every two sidecars that are alive.
//!
//! A handshake is modelled as what the verifier makes of it: the peer's certificate is within its validity by this side's
//! clock, and its issuer is in this side's bundle. `ca::tests::rotated` shows with real certificates and the real
//! verifier that this is so. A sidecar keeps its certificate and bundle on disk and comes back with them, or with nothing
//! and its join token; so does the real one.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{
    machine::{Cause, Moment, Phase, Root, State, Tainted, margin},
    roll::Roll,
};
use crate::registry::Issuance;

const SIDECARS: usize = 4;
const LIFE: u64 = 600;
const LEAF_LIFE: Duration = Duration::from_secs(LIFE);
/// Within `margin`, either way, between any two.
const MAX_SKEW: i64 = 25;

#[derive(Clone, Debug)]
enum Happens {
    /// Seconds go by.
    Time(u64),
    /// The control plane looks.
    Turn,
    /// It falls and comes back: what it did not keep on disk is gone.
    Crash,
    Start,
    Abort,
    /// The sidecar can or cannot reach the control plane.
    Part(usize),
    Join(usize),
    /// It is told the newest bundle, and its answer arrives or is lost.
    Tell(usize, bool),
    /// It asks for a certificate, and the answer arrives or is lost.
    Renew(usize, bool),
    /// It falls and comes back with what it has on disk, or with nothing.
    Restart(usize, bool),
}

#[derive(Clone, Debug, Default)]
struct Sidecar {
    skew: i64,
    parted: bool,
    own: Option<Leaf>,
    /// Fingerprints.
    trusted: Vec<String>,
}

#[derive(Clone, Debug)]
struct Leaf {
    serial: String,
    issuer: String,
    not_before: i64,
    not_after: i64,
}

struct Mesh {
    now: u64,
    state: State,
    roll: Roll,
    /// The registry: every issuance in its order.
    records: Vec<Issuance>,
    sidecars: Vec<Sidecar>,
    /// What the control plane heard since its start.
    heard: BTreeMap<String, (bool, Option<String>)>,
    roots: usize,
    finished: usize,
}

impl Mesh {
    fn new(skews: &[i64]) -> Self {
        let sidecars = skews.iter().map(|&skew| Sidecar { skew, ..Sidecar::default() }).collect();
        let mut mesh = Self {
            now: 1_000_000,
            state: State::steady(root(0)),
            roll: Roll::default(),
            records: Vec::new(),
            sidecars,
            heard: BTreeMap::new(),
            roots: 1,
            finished: 0,
        };
        for index in 0..SIDECARS {
            mesh.renew(index, true);
            mesh.tell(index, true);
        }
        mesh
    }

    fn trusted(&self) -> Vec<String> {
        let also = self.state.also_trusted();
        let mut roots: Vec<_> = [Some(&self.state.signing), also]
            .into_iter()
            .flatten()
            .map(|root| root.fingerprint.clone())
            .collect();
        roots.sort();
        roots
    }

    fn version(&self) -> String {
        self.trusted().join("+")
    }

    fn happen(&mut self, event: &Happens) {
        match *event {
            Happens::Time(seconds) => self.now += seconds,
            Happens::Turn => self.turn(),
            Happens::Crash => self.crash(),
            Happens::Start => {
                if let Ok(next) = self.state.start(root(self.roots), Cause::Operator, self.now_ms()) {
                    self.roots += 1;
                    self.state = next;
                }
            }
            Happens::Abort => {
                if let Ok(next) = self.state.abort(self.now_ms()) {
                    self.state = next;
                }
            }
            Happens::Part(index) => self.sidecars[index].parted = true,
            Happens::Join(index) => self.sidecars[index].parted = false,
            Happens::Tell(index, arrives) => self.tell(index, arrives),
            Happens::Renew(index, arrives) => self.renew(index, arrives),
            Happens::Restart(index, keeps) => {
                if !keeps {
                    let skew = self.sidecars[index].skew;
                    self.sidecars[index] = Sidecar { skew, ..Sidecar::default() };
                }
            }
        }
    }

    fn turn(&mut self) {
        let moment = self.moment();
        self.roll.forget_connections();
        for (serial, (connected, bundle)) in &self.heard {
            self.roll.seen(serial, "", *connected, bundle.as_deref());
        }
        self.roll.sweep(moment.now_ms, moment.margin);
        if let Some(next) = self.state.advance(&self.roll, &self.version(), moment) {
            self.state = next;
        }
        if matches!(self.state.phase, Phase::Destroy { .. }) {
            self.state = self.state.destroyed(moment.now_ms);
            self.finished += 1;
        }
    }

    /// The state and the registry are on disk.
    fn crash(&mut self) {
        self.heard.clear();
        self.roll = Roll::default();
        let since = self.now - margin(LEAF_LIFE).as_secs();
        for issuance in self.records.iter().filter(|issuance| issuance.not_after >= since) {
            self.roll.enroll(issuance);
        }
    }

    fn tell(&mut self, index: usize, answer_arrives: bool) {
        let (trusted, version) = (self.trusted(), self.version());
        let sidecar = &mut self.sidecars[index];
        // Without a certificate there is no stream.
        let Some(own) = sidecar.own.as_ref().filter(|own| !sidecar.parted && trusted.contains(&own.issuer))
        else {
            return;
        };
        sidecar.trusted = trusted;
        if answer_arrives {
            self.heard.insert(own.serial.clone(), (true, Some(version)));
        }
    }

    fn renew(&mut self, index: usize, answer_arrives: bool) {
        if self.sidecars[index].parted {
            return;
        }
        let trusted = self.trusted();
        let own_now = self.by_clock_of(index);
        let parent = self.sidecars[index]
            .own
            .clone()
            .filter(|own| own.not_after >= own_now && trusted.contains(&own.issuer));
        let (attestor, evidence) = match parent {
            Some(parent) => ("svid", parent.serial),
            None => ("join-token", String::new()),
        };
        let issuance = Issuance {
            serial: format!("{:04}", self.records.len()),
            identity: format!("sidecar {index}"),
            key: String::new(),
            attestor: attestor.to_owned(),
            evidence,
            caller: String::new(),
            new_source: false,
            not_before: self.now - 60,
            not_after: self.now + LIFE,
            issuer: self.state.signing.fingerprint.clone(),
        };
        self.roll.enroll(&issuance);
        self.records.push(issuance.clone());
        if answer_arrives {
            let sidecar = &mut self.sidecars[index];
            // The answer's bundles count where the ones at hand do not know the certificate's root, or where the sidecar had no
            // certificate to be told newer ones by.
            if issuance.attestor == "join-token" || !sidecar.trusted.contains(&issuance.issuer) {
                sidecar.trusted = trusted;
            }
            sidecar.own = Some(Leaf {
                serial: issuance.serial,
                issuer: issuance.issuer,
                not_before: signed(issuance.not_before),
                not_after: signed(issuance.not_after),
            });
        }
    }

    /// Why the first two sidecars that do not trust each other do not.
    fn broken(&self) -> Option<String> {
        let alive = |index: usize| {
            let now = self.by_clock_of(index);
            self.sidecars[index].own.as_ref().filter(|own| own.not_before <= now && now <= own.not_after)
        };
        for here in (0..SIDECARS).filter(|&here| alive(here).is_some()) {
            let now = self.by_clock_of(here);
            for there in (0..SIDECARS).filter(|&there| there != here) {
                // One that has ended by this side's clock is refused in any mesh; what is asked is whether a root is.
                let Some(peer) = alive(there).filter(|peer| now <= peer.not_after) else { continue };
                if !self.sidecars[here].trusted.contains(&peer.issuer) {
                    return Some(format!(
                        "{here} trusts {:?} and {there} is of {} in {:?}",
                        self.sidecars[here].trusted, peer.issuer, self.state.phase
                    ));
                }
            }
        }
        None
    }

    fn moment(&self) -> Moment {
        Moment { now_ms: self.now_ms(), up: LEAF_LIFE, margin: margin(LEAF_LIFE) }
    }

    fn now_ms(&self) -> u64 {
        self.now * 1000
    }

    fn by_clock_of(&self, index: usize) -> i64 {
        signed(self.now) + self.sidecars[index].skew
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap()
}

fn root(number: usize) -> Root {
    Root { fingerprint: format!("{number:02}"), file: String::new() }
}

fn event() -> impl Strategy<Value = Happens> {
    let one = 0..SIDECARS;
    prop_oneof![
        4 => (1..90_u64).prop_map(Happens::Time),
        1 => (300..1_500_u64).prop_map(Happens::Time),
        6 => Just(Happens::Turn),
        1 => Just(Happens::Crash),
        2 => Just(Happens::Start),
        1 => Just(Happens::Abort),
        1 => one.clone().prop_map(Happens::Part),
        2 => one.clone().prop_map(Happens::Join),
        6 => (one.clone(), prop::bool::weighted(0.8)).prop_map(|(index, arrives)| Happens::Tell(index, arrives)),
        5 => (one.clone(), prop::bool::weighted(0.8)).prop_map(|(index, arrives)| Happens::Renew(index, arrives)),
        1 => (one, any::<bool>()).prop_map(|(index, keeps)| Happens::Restart(index, keeps)),
    ]
}

proptest! {
    #[test]
    fn no_two_living_sidecars_ever_refuse_each_other(
        skews in prop::collection::vec(-MAX_SKEW..=MAX_SKEW, SIDECARS),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut mesh = Mesh::new(&skews);
        for (position, event) in events.iter().enumerate() {
            mesh.happen(event);
            let broken = mesh.broken();
            prop_assert!(broken.is_none(), "after event {}, {:?}: {}", position, event, broken.unwrap_or_default());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_rotation_ends_once_everybody_is_back(
        events in prop::collection::vec(event(), 1..100),
    ) {
        let mut mesh = Mesh::new(&[0; SIDECARS]);
        for event in &events {
            mesh.happen(event);
        }
        mesh.happen(&Happens::Start);
        for index in 0..SIDECARS {
            mesh.happen(&Happens::Join(index));
        }
        let before = mesh.finished;
        for _ in 0..200 {
            for index in 0..SIDECARS {
                mesh.happen(&Happens::Renew(index, true));
                mesh.happen(&Happens::Tell(index, true));
            }
            mesh.happen(&Happens::Time(30));
            mesh.happen(&Happens::Turn);
            prop_assert!(mesh.broken().is_none());
        }
        prop_assert!(mesh.finished > before, "{:?}", mesh.state);
        prop_assert_eq!(&mesh.state.phase, &Phase::Steady);
    }
}

/// The model can fail: without its gates the same schedules break the promise.
#[test]
fn a_rotation_that_waits_for_nobody_breaks_the_promise() {
    let mut mesh = Mesh::new(&[0; SIDECARS]);
    mesh.happen(&Happens::Part(0));
    mesh.happen(&Happens::Start);
    let Phase::Prepare { incoming } = mesh.state.phase.clone() else { panic!("it began") };
    let outgoing = std::mem::replace(&mut mesh.state.signing, incoming);
    mesh.state.phase = Phase::Activate { outgoing };
    mesh.happen(&Happens::Renew(1, true));
    assert!(mesh.broken().is_some());
}

#[test]
fn who_is_away_holds_a_rotation_up_until_its_certificate_has_ended() {
    let mut mesh = Mesh::new(&[0; SIDECARS]);
    mesh.happen(&Happens::Part(0));
    mesh.happen(&Happens::Start);
    mesh.happen(&Happens::Time(120));
    (1..SIDECARS).for_each(|index| mesh.tell(index, true));
    mesh.turn();
    let version = mesh.version();
    let blockers: Vec<_> = mesh.state.blockers(&mesh.roll, &version, mesh.moment()).collect();
    assert_eq!(blockers.iter().map(|blocker| blocker.identity.as_str()).collect::<Vec<_>>(), ["sidecar 0"]);
    assert!(matches!(mesh.state.phase, Phase::Prepare { .. }));
    mesh.happen(&Happens::Time(LIFE));
    (1..SIDECARS).for_each(|index| {
        mesh.renew(index, true);
        mesh.tell(index, true);
    });
    mesh.turn();
    assert!(matches!(mesh.state.phase, Phase::Activate { .. }), "{:?}", mesh.state);
}

#[test]
fn a_taint_waits_for_half_a_minute_and_no_longer() {
    let mut mesh = Mesh::new(&[0; SIDECARS]);
    mesh.happen(&Happens::Part(0));
    assert_eq!(mesh.state.taint(None, mesh.now_ms()), Ok(Tainted::NeedsIncoming));
    mesh.state = mesh.state.start(root(1), Cause::Taint, mesh.now_ms()).unwrap();
    mesh.roots = 2;
    mesh.happen(&Happens::Time(29));
    mesh.happen(&Happens::Turn);
    assert!(matches!(mesh.state.phase, Phase::Prepare { .. }));
    for _ in 0..2 {
        mesh.happen(&Happens::Time(60));
        mesh.happen(&Happens::Turn);
    }
    assert!(matches!(mesh.state.phase, Phase::Retire { .. }), "{:?}", mesh.state);
    assert_eq!(mesh.trusted(), ["01"]);
}

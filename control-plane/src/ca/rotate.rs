//! The steps of a rotation, done: each is on disk before it has an effect, and taken up again after a crash.

use std::{sync::Arc, time::Duration};

use super::{
    Authority,
    office::{self, Office},
    root::Root,
};
use crate::{
    clock,
    rotation::{
        machine::{self, Cause, Moment, Phase, Refused, State, Tainted},
        patience,
        store::{Answer, Report, Request},
    },
    state::{StateError, unusable},
};

/// A step was not taken. What was in force stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// It was asked for and cannot be.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The state folder, the disk.
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the rotation's state cannot be written: {0}")]
    Store(#[from] rusqlite::Error),
    #[error("the operating system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A subscribed sidecar, as the roll wants to know it.
pub(crate) struct Seen {
    pub(crate) serial: String,
    pub(crate) address: String,
    pub(crate) connected: bool,
    /// The version of the bundle that is in force there.
    pub(crate) bundle: Option<String>,
}

/// What a rotation waits for.
pub(crate) struct Blocked {
    pub(crate) phase: &'static str,
    /// How many certificates are in the way.
    pub(crate) count: usize,
    /// Whose the first of them are.
    pub(crate) some: Vec<String>,
    /// How much longer than usual; zero: as long as is usual.
    pub(crate) overdue: Duration,
}

impl Authority {
    /// Answers what operators ask for. Hands on how many there were.
    pub(crate) fn answer_requests(&self, root_life: Duration) -> Result<(), StepError> {
        let asked = self.office().store.asked()?;
        for (number, request) in asked {
            let answer = match self.execute(&request, root_life) {
                Ok(message) => Answer { done: true, message },
                Err(StepError::Refused(Refused::StillRetiring)) => {
                    self.hurry()?;
                    Answer { done: false, message: Refused::StillRetiring.to_string() }
                }
                Err(StepError::Refused(refused)) => Answer { done: false, message: refused.to_string() },
                Err(error) => return Err(error),
            };
            tracing::info!(?request, done = answer.done, message = answer.message, "asked about the root");
            self.office().store.answer(number, &answer)?;
        }
        Ok(())
    }

    /// Begins a rotation by itself if the root is about to expire.
    pub(crate) fn start_if_due(&self, leaf_life: Duration, root_life: Duration) -> Result<(), StepError> {
        let due = {
            let office = self.office();
            let term = (office.signing.not_before().as_secs(), office.signing.not_after().as_secs());
            let (held, now) = (office.state.held_until_ms / 1000, clock::now_ms() / 1000);
            // Under an offline root there is nothing that this process could do by itself.
            office.state.phase == Phase::Steady
                && !office.signing.is_offline()
                && machine::is_due(term, leaf_life, held, now)
        };
        if due { self.begin(Cause::Expiry, Cause::Expiry.describe(), root_life) } else { Ok(()) }
    }

    /// Takes every step that nobody is in the way of. Others than sidecars may rely on the bundle and acknowledge nothing: an
    /// incoming root is published for `lead` at least before it signs.
    pub(crate) fn turn(&self, seen: &[Seen], moment: Moment, lead: Duration) -> Result<(), StepError> {
        let mut office = self.office();
        office.roll.forget_connections();
        for seen in seen {
            office.roll.seen(&seen.serial, &seen.address, seen.connected, seen.bundle.as_deref());
        }
        office.roll.sweep(moment.now_ms, moment.margin);
        let State { phase, since_ms, urgent, .. } = &office.state;
        let age = Duration::from_millis(moment.now_ms.saturating_sub(*since_ms));
        let is_early = matches!(phase, Phase::Prepare { .. }) && !urgent && age < lead;
        if !is_early && let Some(next) = self.next(&office, moment) {
            self.enter(&mut office, next, None, "nobody was in the way")?;
        }
        if let Phase::Destroy { outgoing } = &office.state.phase {
            self.folder.remove(&outgoing.file)?;
            let next = office.state.destroyed(clock::now_ms());
            self.enter(&mut office, next, None, "the key was deleted")?;
        }
        self.report(&office, moment)
    }

    /// How far the rotation is.
    pub(crate) fn rotation(&self) -> State {
        self.office().state.clone()
    }

    /// Who is in the way of the rotation's next phase, and for how much longer than usual.
    pub(crate) fn blocked(&self, leaf_life: Duration, now_ms: u64) -> Blocked {
        let bundle = self.trust.borrow().resource.version.clone();
        let office = self.office();
        let State { phase, since_ms, .. } = &office.state;
        let moment = Moment { now_ms, up: Duration::ZERO, margin: machine::margin(leaf_life) };
        let (mut count, mut some) = (0, Vec::new());
        for blocker in office.state.blockers(&office.roll, &bundle, moment) {
            count += 1;
            if some.len() < MAX_NAMED {
                some.push(blocker.identity);
            }
        }
        let overdue = patience::overdue(phase, *since_ms, now_ms, leaf_life);
        // Without anybody in the way it is a step that fails, which is told elsewhere.
        let overdue = if count == 0 { Duration::ZERO } else { overdue };
        Blocked { phase: phase.name(), count, some, overdue }
    }

    fn next(&self, office: &Office, moment: Moment) -> Option<State> {
        let bundle = self.trust.borrow().resource.version.clone();
        office.state.advance(&office.roll, &bundle, moment)
    }

    fn execute(&self, request: &Request, root_life: Duration) -> Result<String, StepError> {
        match request {
            Request::Start { reason } => self.begin(Cause::Operator, reason, root_life)?,
            Request::Abort { reason } => {
                let mut office = self.office();
                let next = office.state.abort(clock::now_ms())?;
                self.enter(&mut office, next, None, reason)?;
            }
            Request::Taint { root, reason } => self.taint(root.as_deref(), reason, root_life)?,
            Request::Install { file, taint, reason } => {
                let installed = self.install(file, *taint, reason);
                if matches!(installed, Err(StepError::Refused(_))) {
                    self.forget(file)?;
                }
                installed?;
            }
        }
        let office = self.office();
        let State { number, phase, .. } = &office.state;
        Ok(format!("rotation {number} is in phase {}", phase.name()))
    }

    pub(super) fn begin(&self, cause: Cause, reason: &str, root_life: Duration) -> Result<(), StepError> {
        let mut office = self.office();
        if office.state.phase != Phase::Steady {
            return Err(Refused::Running(office.state.number).into());
        }
        if office.signing.is_offline() {
            return Err(Refused::Offline.into());
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let file = office::root_file(random);
        // A crash before the state names it leaves a key that has never signed anything and is trusted by nobody.
        let root = Root::create(&self.folder, &file, &self.trust_domain, root_life)?;
        let incoming = machine::Root { fingerprint: root.fingerprint().to_owned(), file };
        let next = office.state.start(incoming, cause, clock::now_ms())?;
        self.enter(&mut office, next, Some(Arc::new(root)), reason)
    }

    /// An intermediate that was brought is to sign: at once if its root is the one that is trusted, and else by a rotation.
    fn install(&self, file: &str, taint: bool, reason: &str) -> Result<(), StepError> {
        if !office::is_intermediate_file(file) {
            return Err(Refused::Unusable(format!("{file} is no file of an intermediate")).into());
        }
        let brought = Root::load_brought(&self.folder, file, &self.trust_domain)
            .and_then(|root| {
                let proven = super::intermediate::prove(&root, &self.trust_domain);
                proven.map(|()| root).map_err(|reason| unusable(&self.folder.join(file), reason))
            })
            .map_err(|error| Refused::Unusable(error.to_string()))?;
        let mut office = self.office();
        let named = machine::Root { fingerprint: brought.fingerprint().to_owned(), file: file.to_owned() };
        if named.fingerprint != office.state.signing.fingerprint {
            let cause = if taint { Cause::Taint } else { Cause::Operator };
            let next = office.state.start(named, cause, clock::now_ms())?;
            return self.enter(&mut office, next, Some(Arc::new(brought)), reason);
        }
        if taint {
            return Err(Refused::SameRoot.into());
        }
        let before = office.state.signing.file.clone();
        let next = office.state.resigned(named.file, clock::now_ms())?;
        office.replace_signing(next, Arc::new(brought), reason)?;
        self.in_force(&office, reason)?;
        Ok(self.folder.remove(&before)?)
    }

    /// A key that is not going to sign is not kept.
    fn forget(&self, file: &str) -> Result<(), StateError> {
        let state = self.rotation();
        let is_used =
            [Some(&state.signing), state.other()].into_iter().flatten().any(|root| root.file == file);
        if is_used || !office::is_intermediate_file(file) { Ok(()) } else { self.folder.remove(file) }
    }

    fn taint(&self, root: Option<&str>, reason: &str, root_life: Duration) -> Result<(), StepError> {
        let mut office = self.office();
        match office.state.taint(root, clock::now_ms())? {
            Tainted::Now(next) => self.enter(&mut office, next, None, reason),
            Tainted::NeedsIncoming => {
                drop(office);
                self.begin(Cause::Taint, reason, root_life)
            }
        }
    }

    /// The phase that runs ends soon, whoever is away.
    fn hurry(&self) -> Result<(), StepError> {
        let mut office = self.office();
        let next = State { urgent: true, ..office.state.clone() };
        self.enter(&mut office, next, None, "another root is to be replaced")
    }

    /// On disk, in force, told.
    fn enter(
        &self,
        office: &mut Office,
        next: State,
        other: Option<Arc<Root>>,
        reason: &str,
    ) -> Result<(), StepError> {
        office.enter(next, other, reason)?;
        self.in_force(office, reason)
    }

    /// What the office holds now, told.
    fn in_force(&self, office: &Office, reason: &str) -> Result<(), StepError> {
        let State { number, phase, signing, urgent, .. } = &office.state;
        tracing::info!(
            rotation = number,
            phase = phase.name(),
            signing = signing.fingerprint,
            urgent,
            reason,
            "root rotation"
        );
        let trust = office.trust(&self.trust_domain)?;
        // A newcomer without it asks again; nobody else needs it.
        if let Err(error) = trust.publish(&self.folder, self.copy.as_deref()) {
            tracing::error!(code = %error.code(), %error, "the copy of the roots is an old one");
        }
        self.trust.send_replace(Arc::new(trust));
        if let Err(error) = office.record(&self.registry) {
            tracing::error!(error, "a step of the rotation is not in the registry yet");
        }
        Ok(())
    }

    /// For the operator; written only when it says something else.
    fn report(&self, office: &Office, moment: Moment) -> Result<(), StepError> {
        let bundle = self.trust.borrow().resource.version.clone();
        let mut blockers: Vec<_> = office.state.blockers(&office.roll, &bundle, moment).collect();
        blockers.sort_by(|a, b| (&a.identity, &a.serial).cmp(&(&b.identity, &b.serial)));
        let count = blockers.len();
        blockers.truncate(MAX_REPORTED);
        let before = office.store.report()?.unwrap_or_default();
        if (before.count, &before.blockers) != (count, &blockers) {
            office.store.set_report(&Report { at_ms: moment.now_ms, count, blockers })?;
        }
        office
            .record(&self.registry)
            .map_err(|reason| unusable(&self.folder.join("registry.db"), reason).into())
    }
}

/// Ten thousand sidecars that are all in the way are no list that anybody reads.
const MAX_REPORTED: usize = 100;
/// In one line of the log.
const MAX_NAMED: usize = 5;

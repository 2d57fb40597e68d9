//! What a rotation may do next: receives its state, the certificates that are alive and the time; hands on the next state,
//! or who is in the way of it. Refuses what would leave two sidecars that do not trust each other. No input or output.
//!
//! The invariant: at every moment, for every two sidecars whose certificates are alive, the authority of the one is in
//! the bundle of the other. A state is left only when it holds in the next one, too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roll::{Roll, Standing};

/// A root: by its certificate, and by the file with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// The file's name in the state folder.
    pub file: String,
}

/// How far a rotation is, and with which second root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase", deny_unknown_fields)]
pub enum Phase {
    /// One root, and nothing to do.
    Steady,
    /// The incoming root is trusted and signs nothing yet.
    Prepare {
        /// Signs next.
        incoming: Root,
    },
    /// The outgoing root is trusted and signs nothing any more.
    Activate {
        /// Signed before.
        outgoing: Root,
    },
    /// The outgoing root is trusted no longer.
    Retire {
        /// Nothing of it is alive.
        outgoing: Root,
    },
    /// The outgoing root's key is being deleted.
    Destroy {
        /// Nobody trusts it.
        outgoing: Root,
    },
}

/// Why a rotation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// An operator wanted it.
    Operator,
    /// The root is about to expire.
    Expiry,
    /// The root's key may be known to others.
    Taint,
}

/// The rotation, whole. It is on disk before anything is done by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Counts the rotations of this mesh.
    pub number: u64,
    /// Signs now.
    pub signing: Root,
    /// How far it is.
    pub phase: Phase,
    /// When the phase began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Why the newest rotation began.
    pub cause: Cause,
    /// A key may be known to others: waiting has an end.
    pub urgent: bool,
    /// The fingerprint of a root that must never sign again.
    pub tainted: Option<String>,
    /// No rotation begins by itself before, in milliseconds since the Unix epoch: an operator ended one.
    pub held_until_ms: u64,
}

/// What was asked cannot be done now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing runs.
    #[error("no rotation is under way")]
    NotRunning,
    /// One runs.
    #[error("rotation {0} is under way already")]
    Running(u64),
    /// It has gone too far.
    #[error("the old root is trusted no longer; the rotation ends by itself")]
    TooLate,
    /// Going back would mean to go back to a root whose key may be known to others.
    #[error("the root to go back to is tainted")]
    BackToTainted,
    /// There is no such root.
    #[error("{0} is not the beginning of exactly one root's fingerprint")]
    UnknownRoot(String),
    /// A root whose key is elsewhere is replaced by what is brought from there.
    #[error(
        "the root's key is not on this machine: have an intermediate signed by another root and install it \
         (`sidegate certs intermediate request`), which begins the rotation"
    )]
    Offline,
    /// What one intermediate of a root signs, and what another signed, is trusted alike.
    #[error(
        "the intermediate is of the root that is to be tainted: whoever trusts it trusts the old intermediate \
         too; have one signed by another root"
    )]
    SameRoot,
    /// The file that was named cannot sign.
    #[error("{0}")]
    Unusable(String),
    /// The signing root cannot be replaced while another still leaves.
    #[error("another root is still being retired; that is hurried now, ask again when it is done")]
    StillRetiring,
}

/// The moment, and how long this process has known it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Milliseconds since the Unix epoch.
    pub(crate) now_ms: u64,
    /// Since the start: sidecars take a while to find back.
    pub(crate) up: Duration,
    /// How far clocks may differ: nothing is taken for over before that.
    pub(crate) margin: Duration,
}

/// A certificate that keeps the phase from ending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// Whose.
    pub identity: String,
    /// Hex.
    pub serial: String,
    /// Where its holder was seen last; empty if it never subscribed.
    pub address: String,
    /// Whether its holder is subscribed now.
    pub connected: bool,
    /// When the certificate ends by itself, in Unix seconds.
    pub not_after: u64,
    /// What is waited for.
    pub waits_for: Wait,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wait {
    /// Its holder has not acknowledged the trust bundle.
    Acknowledgement,
    /// It is of the outgoing root and alive.
    End,
}

/// What to taint, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tainted {
    /// The next state.
    Now(State),
    /// A new root is needed first: begin with it.
    NeedsIncoming,
}

impl State {
    /// Of a mesh with one root.
    pub(crate) fn steady(signing: Root) -> Self {
        Self {
            number: 0,
            signing,
            phase: Phase::Steady,
            since_ms: 0,
            cause: Cause::Operator,
            urgent: false,
            tainted: None,
            held_until_ms: 0,
        }
    }

    /// The second root, if there is one.
    pub fn other(&self) -> Option<&Root> {
        match &self.phase {
            Phase::Steady => None,
            Phase::Prepare { incoming: other }
            | Phase::Activate { outgoing: other }
            | Phase::Retire { outgoing: other }
            | Phase::Destroy { outgoing: other } => Some(other),
        }
    }

    /// The second root, if it is in the bundle.
    pub(crate) fn also_trusted(&self) -> Option<&Root> {
        match &self.phase {
            Phase::Prepare { incoming: other } | Phase::Activate { outgoing: other } => Some(other),
            Phase::Steady | Phase::Retire { .. } | Phase::Destroy { .. } => None,
        }
    }

    /// Begins, with a root that nobody knows yet.
    pub(crate) fn start(&self, incoming: Root, cause: Cause, now_ms: u64) -> Result<Self, Refused> {
        match self.phase {
            Phase::Steady => Ok(Self {
                number: self.number + 1,
                cause,
                urgent: cause == Cause::Taint,
                tainted: (cause == Cause::Taint).then(|| self.signing.fingerprint.clone()),
                ..self.at(Phase::Prepare { incoming }, now_ms)
            }),
            _ => Err(Refused::Running(self.number)),
        }
    }

    /// Goes back to the root that signed before. What was issued meanwhile stays good until it has been replaced: both
    /// roots are trusted everywhere.
    pub(crate) fn abort(&self, now_ms: u64) -> Result<Self, Refused> {
        let is_tainted = |root: &Root| self.tainted.as_ref() == Some(&root.fingerprint);
        match &self.phase {
            Phase::Steady => Err(Refused::NotRunning),
            Phase::Prepare { .. } if is_tainted(&self.signing) => Err(Refused::BackToTainted),
            // Nothing was issued by the incoming root.
            Phase::Prepare { incoming } => {
                Ok(self.held(Phase::Retire { outgoing: incoming.clone() }, now_ms))
            }
            Phase::Activate { outgoing } if is_tainted(outgoing) => Err(Refused::BackToTainted),
            Phase::Activate { outgoing } => Ok(Self {
                signing: outgoing.clone(),
                ..self.held(Phase::Activate { outgoing: self.signing.clone() }, now_ms)
            }),
            Phase::Retire { .. } | Phase::Destroy { .. } => Err(Refused::TooLate),
        }
    }

    /// A key may be known to others: its root leaves, and waiting has an end. Without a name, the signing root's.
    pub(crate) fn taint(&self, name: Option<&str>, now_ms: u64) -> Result<Tainted, Refused> {
        let root = self.named(name)?;
        let hurried = |state: Self| Self { urgent: true, tainted: Some(root.fingerprint.clone()), ..state };
        let leaves = match &self.phase {
            Phase::Steady => return Ok(Tainted::NeedsIncoming),
            Phase::Prepare { .. } => &self.signing,
            Phase::Activate { outgoing } | Phase::Retire { outgoing } | Phase::Destroy { outgoing } => {
                outgoing
            }
        };
        if root == leaves {
            return Ok(Tainted::Now(hurried(self.clone())));
        }
        match self.abort(now_ms) {
            Ok(back) => Ok(Tainted::Now(hurried(back))),
            Err(Refused::TooLate) => Err(Refused::StillRetiring),
            Err(refused) => Err(refused),
        }
    }

    /// Another key signs under the same root: nothing changes for whoever verifies, so nobody is waited for.
    pub(crate) fn resigned(&self, file: String, now_ms: u64) -> Result<Self, Refused> {
        match self.phase {
            Phase::Steady => {
                let signing = Root { file, ..self.signing.clone() };
                Ok(Self { signing, ..self.at(Phase::Steady, now_ms) })
            }
            _ => Err(Refused::Running(self.number)),
        }
    }

    /// The state after the outgoing key was deleted.
    pub(crate) fn destroyed(&self, now_ms: u64) -> Self {
        Self { urgent: false, tainted: None, ..self.at(Phase::Steady, now_ms) }
    }

    /// The next state, if nobody is in the way of it. From `Destroy` leads [`Self::destroyed`] alone.
    pub(crate) fn advance(&self, roll: &Roll, bundle: &str, moment: Moment) -> Option<Self> {
        let age = Duration::from_millis(moment.now_ms.saturating_sub(self.since_ms));
        // A handshake that began under the phase before ends under it.
        if !self.urgent && age < moment.margin.min(HANDSHAKES) {
            return None;
        }
        let waited_enough = self.urgent && age >= URGENT_WAIT && moment.up >= URGENT_WAIT;
        if !waited_enough && self.blockers(roll, bundle, moment).next().is_some() {
            return None;
        }
        match &self.phase {
            Phase::Steady | Phase::Destroy { .. } => None,
            Phase::Prepare { incoming } => Some(Self {
                signing: incoming.clone(),
                ..self.at(Phase::Activate { outgoing: self.signing.clone() }, moment.now_ms)
            }),
            Phase::Activate { outgoing } => {
                Some(self.at(Phase::Retire { outgoing: outgoing.clone() }, moment.now_ms))
            }
            Phase::Retire { outgoing } => {
                Some(self.at(Phase::Destroy { outgoing: outgoing.clone() }, moment.now_ms))
            }
        }
    }

    /// Who is in the way of the next state. `bundle` is the version of the trust bundle that this state distributes.
    pub(crate) fn blockers<'a>(
        &'a self,
        roll: &'a Roll,
        bundle: &'a str,
        moment: Moment,
    ) -> impl Iterator<Item = Blocker> + 'a {
        let alive = roll.alive(moment.now_ms, moment.margin);
        alive.filter_map(move |(serial, standing)| {
            let waits_for = self.waits_for(standing, bundle)?;
            Some(Blocker {
                identity: standing.identity.clone(),
                serial: serial.to_owned(),
                address: standing.address.clone(),
                connected: standing.connected,
                not_after: standing.not_after,
                waits_for,
            })
        })
    }

    fn waits_for(&self, standing: &Standing, bundle: &str) -> Option<Wait> {
        match &self.phase {
            Phase::Steady | Phase::Destroy { .. } => None,
            Phase::Prepare { .. } | Phase::Retire { .. } => {
                let is_told = standing.replaced || standing.bundle.as_deref() == Some(bundle);
                (!is_told).then_some(Wait::Acknowledgement)
            }
            // A connection that a replaced certificate began goes on until that one ends: only in need is it cut.
            Phase::Activate { outgoing } => {
                let is_gone = standing.issuer != outgoing.fingerprint || (self.urgent && standing.replaced);
                (!is_gone).then_some(Wait::End)
            }
        }
    }

    fn named(&self, name: Option<&str>) -> Result<&Root, Refused> {
        let Some(name) = name else { return Ok(&self.signing) };
        let mut found = [Some(&self.signing), self.other()]
            .into_iter()
            .flatten()
            .filter(|root| root.fingerprint.starts_with(name));
        match (found.next(), found.next()) {
            (Some(root), None) if !name.is_empty() => Ok(root),
            _ => Err(Refused::UnknownRoot(name.to_owned())),
        }
    }

    /// Like [`Self::at`], and no rotation begins by itself for a while.
    fn held(&self, phase: Phase, now_ms: u64) -> Self {
        let hold = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
        Self { held_until_ms: now_ms.saturating_add(hold), ..self.at(phase, now_ms) }
    }

    fn at(&self, phase: Phase, now_ms: u64) -> Self {
        Self { phase, since_ms: now_ms, ..self.clone() }
    }
}

impl Phase {
    /// Its name, as people read it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Prepare { .. } => "prepare",
            Self::Activate { .. } => "activate",
            Self::Retire { .. } => "retire",
            Self::Destroy { .. } => "destroy",
        }
    }
}

/// Whether a root with this term is to be replaced, in Unix seconds: at a fifth of its life, or early enough for four
/// lives of its leaves, but never in its first half. A rotation that was aborted is not begun again before `held_until`,
/// unless half of that time is gone.
pub(crate) fn is_due(term: (u64, u64), leaf_life: Duration, held_until: u64, now: u64) -> bool {
    let (not_before, not_after) = term;
    let life = not_after.saturating_sub(not_before);
    let ahead = (life / 5).max(leaf_life.as_secs().saturating_mul(4)).min(life / 2);
    let left = not_after.saturating_sub(now);
    left <= ahead && (now >= held_until || left <= ahead / 2)
}

/// How far clocks may differ. Where leaves are short, a minute would be all of their life.
pub(crate) fn margin(leaf_life: Duration) -> Duration {
    (leaf_life / 10).min(MARGIN)
}

/// What leaves are backdated by.
pub(crate) const MARGIN: Duration = Duration::from_mins(1);
/// As long as a handshake may take, and as much again.
const HANDSHAKES: Duration = Duration::from_secs(10);
/// How long somebody who is away may hold up the end of a tainted root, per phase.
pub(crate) const URGENT_WAIT: Duration = Duration::from_secs(30);
/// How long a rotation that was aborted stays so.
const HOLD: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;

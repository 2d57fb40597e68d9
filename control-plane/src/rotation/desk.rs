//! Where an operator asks for a rotation and sees how far it is: files in the state folder, so that whoever may do this is
//! who owns the root's key anyway. A running control plane answers within a second.

use serde::Serialize;
use sidegate_codes::Code;

use super::{
    machine::{Cause, State},
    store::Store,
};
use crate::{
    clock,
    config::Config,
    registry::Rotated,
    state::{StateError, StateFolder, unusable},
};

pub use super::store::{Answer, Report, Request};

/// The open desk.
pub struct Desk {
    store: Store,
    path: std::path::PathBuf,
}

/// How far the rotation is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its state, as it is on disk.
    #[serde(flatten)]
    pub state: State,
    /// When the phase began, RFC 3339.
    pub since: String,
    /// When the list below was true, RFC 3339; `None`: nobody has been in the way.
    pub seen: Option<String>,
    /// How many certificates are in the way of the next phase.
    pub blocking: usize,
    /// Some of them.
    pub blockers: Vec<super::machine::Blocker>,
    /// The newest steps, the newest first.
    pub steps: Vec<Dated>,
}

/// A step and when it was taken.
#[derive(Clone, Debug, Serialize)]
pub struct Dated {
    /// RFC 3339.
    pub at: String,
    /// The step.
    #[serde(flatten)]
    pub step: Rotated,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Asked(i64);

impl Desk {
    /// Opens the desk of the control plane with this configuration. `None`: it has never run.
    pub fn open(config: &Config) -> Result<Option<Self>, StateError> {
        let folder = StateFolder::open_to_read(&config.state)?;
        let path = folder.join(super::store::FILE);
        Ok(Store::open_existing(&folder)?.map(|store| Self { store, path }))
    }

    /// Puts a request down.
    pub fn ask(&self, request: &Request) -> Result<Asked, StateError> {
        self.answer_of(self.store.ask(request, clock::now_ms())).map(Asked)
    }

    /// `None`: not answered yet.
    pub fn answer(&self, asked: Asked) -> Result<Option<Answer>, StateError> {
        self.answer_of(self.store.answered(asked.0))
    }

    /// Takes a request back, unless it was answered.
    pub fn withdraw(&self, asked: Asked) -> Result<(), StateError> {
        self.answer_of(self.store.withdraw(asked.0))
    }

    /// How far it is. `None`: the control plane has not begun to keep it.
    pub fn status(&self) -> Result<Option<Status>, StateError> {
        let Some(state) = self.answer_of(self.store.state())? else { return Ok(None) };
        let report = self.answer_of(self.store.report())?;
        let steps = self.answer_of(self.store.steps(STEPS))?;
        Ok(Some(Status {
            since: clock::rfc3339(state.since_ms),
            seen: report.as_ref().map(|report| clock::rfc3339(report.at_ms)),
            blocking: report.as_ref().map_or(0, |report| report.count),
            blockers: report.map_or_else(Vec::new, |report| report.blockers),
            steps: steps.into_iter().map(|(at_ms, step)| Dated { at: clock::rfc3339(at_ms), step }).collect(),
            state,
        }))
    }

    fn answer_of<T>(&self, result: rusqlite::Result<T>) -> Result<T, StateError> {
        result.map_err(|error| unusable(&self.path, error.to_string()))
    }
}

impl Cause {
    /// As people read it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Operator => "asked for by an operator",
            Self::Expiry => "the root is about to expire",
            Self::Taint => "the root is tainted",
        }
    }
}

impl super::machine::Refused {
    /// The code that explains it.
    pub const CODE: Code = Code::RotationRefused;
}

const STEPS: u32 = 10;

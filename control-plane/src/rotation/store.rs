//! The rotation on disk: its state and the step that led there in one transaction, what operators ask for, and who is in
//! the way. A step is written before anything is done by it; doing it twice does no harm.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::machine::{Blocker, State};
use crate::{
    database::{self, signed, unsigned},
    registry::Rotated,
    state::{StateError, StateFolder, unusable},
};

/// The open database.
pub(crate) struct Store(Connection);

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Begin.
    Start {
        /// For the record.
        reason: String,
    },
    /// Go back.
    Abort {
        /// For the record.
        reason: String,
    },
    /// A key may be known to others.
    Taint {
        /// The beginning of a root's fingerprint. Absent: the signing root.
        root: Option<String>,
        /// For the record.
        reason: String,
    },
    /// An intermediate under an offline root is to sign.
    Install {
        /// Its file in the state folder.
        file: String,
        /// Whether the key that signs now may be known to others.
        taint: bool,
        /// For the record.
        reason: String,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why not.
    pub message: String,
}

/// Who is in the way of the next phase, and when that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How many are in the way.
    pub count: usize,
    /// Some of them.
    pub blockers: Vec<Blocker>,
}

impl Store {
    /// Opens the database of this folder; makes one if there is none.
    pub(crate) fn open(folder: &StateFolder) -> Result<Self, StateError> {
        // Made by us, so that it is private from the first moment and no link is followed.
        drop(folder.open_journal(FILE)?);
        Self::connect(folder)
    }

    /// Opens what is there.
    pub(crate) fn open_existing(folder: &StateFolder) -> Result<Option<Self>, StateError> {
        if folder.join(FILE).exists() { Self::connect(folder).map(Some) } else { Ok(None) }
    }

    fn connect(folder: &StateFolder) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        database::open(&path, VERSION, SCHEMA).map(Self).map_err(|error| unusable(&path, error.to_string()))
    }

    /// `None`: this folder has never had a state.
    pub(crate) fn state(&self) -> rusqlite::Result<Option<State>> {
        document(&self.0, "state")
    }

    /// On disk when this returns: the state, and the step for the registry. Refused if the state before is another than `from`:
    /// a control plane that was stopped for a while, and whose place another has taken, does not undo that one's steps.
    pub(crate) fn commit(
        &mut self,
        from: Option<&State>,
        state: &State,
        step: &Rotated,
        at_ms: u64,
    ) -> rusqlite::Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if document::<State>(&transaction, "state")?.as_ref() != from {
            return Err(database::conflict("another control plane has taken a step of the rotation"));
        }
        set(&transaction, "state", state)?;
        transaction.execute(
            "INSERT INTO step (at_ms, body, recorded) VALUES (?1, ?2, 0)",
            params![signed(at_ms), written(step)?],
        )?;
        transaction.commit()
    }

    /// Steps that the registry may not have, in their order.
    pub(crate) fn unrecorded(&self) -> rusqlite::Result<Vec<(i64, Rotated)>> {
        let mut select =
            self.0.prepare("SELECT sequence, body FROM step WHERE recorded = 0 ORDER BY sequence")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, read(&row.get::<_, String>(1)?)?)))?;
        rows.collect()
    }

    /// The registry has it.
    pub(crate) fn recorded(&self, sequence: i64) -> rusqlite::Result<()> {
        self.0.execute("UPDATE step SET recorded = 1 WHERE sequence = ?1", [sequence])?;
        Ok(())
    }

    /// The newest steps, the newest first, with their moments.
    pub(crate) fn steps(&self, limit: u32) -> rusqlite::Result<Vec<(u64, Rotated)>> {
        let mut select = self.0.prepare("SELECT at_ms, body FROM step ORDER BY sequence DESC LIMIT ?1")?;
        let rows =
            select.query_map([limit], |row| Ok((unsigned(row.get(0)?), read(&row.get::<_, String>(1)?)?)))?;
        rows.collect()
    }

    /// The number of the newest step; each step has a greater one than those before.
    pub(crate) fn last_step(&self) -> rusqlite::Result<u64> {
        let last = self.0.query_row("SELECT coalesce(max(sequence), 0) FROM step", [], |row| row.get(0));
        last.map(unsigned)
    }

    /// Asks; the number is for the answer.
    pub(crate) fn ask(&self, request: &Request, at_ms: u64) -> rusqlite::Result<i64> {
        self.0.execute(
            "INSERT INTO request (at_ms, body) VALUES (?1, ?2)",
            params![signed(at_ms), written(request)?],
        )?;
        Ok(self.0.last_insert_rowid())
    }

    /// Requests without an answer, in their order.
    pub(crate) fn asked(&self) -> rusqlite::Result<Vec<(i64, Request)>> {
        let mut select = self
            .0
            .prepare("SELECT sequence, body FROM request WHERE answer IS NULL ORDER BY sequence LIMIT 16")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, read(&row.get::<_, String>(1)?)?)))?;
        rows.collect()
    }

    /// Answers a request.
    pub(crate) fn answer(&self, sequence: i64, answer: &Answer) -> rusqlite::Result<()> {
        self.0.execute(
            "UPDATE request SET answer = ?2 WHERE sequence = ?1",
            params![sequence, written(answer)?],
        )?;
        Ok(())
    }

    /// `None`: not answered yet.
    pub(crate) fn answered(&self, sequence: i64) -> rusqlite::Result<Option<Answer>> {
        let text: Option<String> = self
            .0
            .query_row("SELECT answer FROM request WHERE sequence = ?1", [sequence], |row| row.get(0))
            .optional()?
            .flatten();
        text.as_deref().map(read).transpose()
    }

    /// Takes a request back that was not answered.
    pub(crate) fn withdraw(&self, sequence: i64) -> rusqlite::Result<()> {
        self.0.execute("DELETE FROM request WHERE sequence = ?1 AND answer IS NULL", [sequence])?;
        Ok(())
    }

    /// Who was in the way lately.
    pub(crate) fn report(&self) -> rusqlite::Result<Option<Report>> {
        document(&self.0, "report")
    }

    /// Replaces the report.
    pub(crate) fn set_report(&self, report: &Report) -> rusqlite::Result<()> {
        set(&self.0, "report", report)
    }
}

fn document<T: DeserializeOwned>(connection: &Connection, name: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = connection
        .query_row("SELECT body FROM document WHERE name = ?1", [name], |row| row.get(0))
        .optional()?;
    text.as_deref().map(read).transpose()
}

fn set(connection: &Connection, name: &str, value: &impl Serialize) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO document (name, body) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET body = ?2",
        params![name, written(value)?],
    )?;
    Ok(())
}

fn written(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// What is not understood is not guessed: a newer release wrote it, or somebody else did.
fn read<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// The database in the state folder.
pub(crate) const FILE: &str = "rotation.db";
const VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE document (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE step (
    sequence INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    recorded INTEGER NOT NULL
) STRICT;
CREATE TABLE request (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    answer TEXT
) STRICT;
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::machine::Root;

    #[test]
    fn a_step_is_not_written_over_a_state_that_it_was_not_taken_from() {
        let parent = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&parent.path().join("state")).unwrap();
        let root = |name: &str| Root { fingerprint: name.to_owned(), file: format!("{name}.key") };
        let step = Rotated {
            rotation: 0,
            phase: "steady".to_owned(),
            signing: "a".to_owned(),
            other: None,
            urgent: false,
            reason: String::new(),
        };
        let (first, second) = (State::steady(root("a")), State::steady(root("b")));
        let (mut ours, mut others) = (Store::open(&folder).unwrap(), Store::open(&folder).unwrap());
        ours.commit(None, &first, &step, 1).unwrap();
        assert!(others.commit(None, &second, &step, 1).is_err(), "there is a state already");
        others.commit(Some(&first), &second, &step, 2).unwrap();
        let refusal = ours.commit(Some(&first), &first, &step, 3).unwrap_err();
        assert!(refusal.to_string().contains("another control plane"), "{refusal}");
        assert_eq!(ours.state().unwrap(), Some(second));
        assert_eq!(ours.steps(9).unwrap().len(), 2, "and nothing of it is left");
    }
}

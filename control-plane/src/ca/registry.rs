//! Every issuance, recorded on disk before it is signed. One JSON line each, chained: a line holds the SHA-256 of the
//! line before it. A last line cut short by a crash is dropped and noted; damage anywhere else refuses the file.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    hex,
    state::{StateError, StateFolder, unusable},
};

/// What is known of a certificate at the moment of its issuance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Issuance {
    /// Hex.
    pub(crate) serial: String,
    /// SPIFFE ID.
    pub(crate) identity: String,
    /// SHA-256 of the subject public key info, hex.
    pub(crate) key: String,
    /// How the caller was attested: "join-token", "svid" or "self".
    pub(crate) attestor: String,
    /// What shows it without giving it away: the first digits of the token's digest, or the presented serial.
    pub(crate) evidence: String,
    /// The caller's address.
    pub(crate) caller: String,
    /// Unix seconds.
    pub(crate) not_before: u64,
    /// Unix seconds.
    pub(crate) not_after: u64,
    /// SHA-256 of the issuing certificate, hex.
    pub(crate) issuer: String,
}

/// The open journal: its single writer.
pub(crate) struct Registry {
    file: File,
    /// Where the last whole record ends.
    length: u64,
    /// Sequence number of the next record.
    next: u64,
    /// SHA-256 of the last whole line.
    head: [u8; 32],
    /// A failed write could not be taken back: the file's end is unknown, nothing may follow it.
    broken: bool,
}

/// How a journal was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Whole records.
    pub(crate) records: u64,
    /// Bytes of an unfinished last line that were dropped.
    pub(crate) dropped_bytes: u64,
}

impl Registry {
    /// Opens the journal and checks its whole chain.
    pub(crate) fn open(state: &StateFolder) -> Result<(Self, Opened), StateError> {
        let path = state.join(FILE);
        let file = state.open_journal(FILE)?;
        Self::replay(file).map_err(|error| unusable(&path, error.to_string()))
    }

    /// Whether the state folder has a journal with records.
    pub(crate) fn has_records(state: &StateFolder) -> bool {
        std::fs::metadata(state.join(FILE)).is_ok_and(|found| found.len() > 0)
    }

    /// Puts the record on disk. Only after this returns may the certificate be signed.
    pub(crate) fn append(&mut self, issuance: &Issuance) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the registry failed and could not be undone"));
        }
        let record = RecordRef { sequence: self.next, previous: hex::encode(&self.head), issuance };
        let mut line = serde_json::to_vec(&record)?;
        let head = Sha256::digest(&line).into();
        line.push(b'\n');
        if let Err(error) = self.write(&line) {
            self.take_back();
            return Err(error);
        }
        self.length += line.len() as u64;
        self.next += 1;
        self.head = head;
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.file.sync_data()
    }

    fn take_back(&mut self) {
        self.broken = self.file.set_len(self.length).and_then(|()| self.file.sync_data()).is_err();
    }

    fn replay(mut file: File) -> io::Result<(Self, Opened)> {
        file.seek(SeekFrom::Start(0))?;
        let mut chain = Chain { length: 0, next: 1, head: [0; 32] };
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        let mut dropped_bytes = 0;
        while io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            if line.pop_if(|last| *last == b'\n').is_none() {
                dropped_bytes = line.len() as u64;
                break;
            }
            chain.follow(&line)?;
            line.clear();
        }
        drop(reader);
        if dropped_bytes > 0 {
            if chain.length + dropped_bytes != file.metadata()?.len() {
                return Err(damaged(chain.next, "is too long"));
            }
            file.set_len(chain.length)?;
            file.sync_data()?;
        }
        let opened = Opened { records: chain.next - 1, dropped_bytes };
        let registry = Self { file, length: chain.length, next: chain.next, head: chain.head, broken: false };
        Ok((registry, opened))
    }
}

/// How far the chain has been followed.
struct Chain {
    length: u64,
    next: u64,
    head: [u8; 32],
}

impl Chain {
    fn follow(&mut self, line: &[u8]) -> io::Result<()> {
        let record: Record = serde_json::from_slice(line).map_err(|error| damaged(self.next, error))?;
        if record.sequence != self.next || record.previous != hex::encode(&self.head) {
            return Err(damaged(self.next, "does not follow the one before it"));
        }
        self.length += line.len() as u64 + 1;
        self.next += 1;
        self.head = Sha256::digest(line).into();
        Ok(())
    }
}

#[derive(Serialize)]
struct RecordRef<'a> {
    sequence: u64,
    previous: String,
    #[serde(flatten)]
    issuance: &'a Issuance,
}

#[derive(Deserialize)]
struct Record {
    sequence: u64,
    previous: String,
}

fn damaged(record: u64, reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("record {record} {reason}"))
}

const FILE: &str = "issued.jsonl";
const MAX_LINE_BYTES: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    struct Scratch {
        _parent: tempfile::TempDir,
        state: StateFolder,
        file: PathBuf,
    }

    fn scratch() -> Scratch {
        let parent = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&parent.path().join("state")).unwrap();
        let file = state.join(FILE);
        Scratch { _parent: parent, state, file }
    }

    fn issuance(serial: &str) -> Issuance {
        Issuance {
            serial: serial.into(),
            identity: "spiffe://shop.test/ns/shop/sa/payments".into(),
            key: "00".into(),
            attestor: "join-token".into(),
            evidence: "abcd".into(),
            caller: "127.0.0.1:1".into(),
            not_before: 1,
            not_after: 2,
            issuer: "11".into(),
        }
    }

    fn with_records(scratch: &Scratch, count: u64) {
        let (mut registry, _) = Registry::open(&scratch.state).unwrap();
        for number in 0..count {
            registry.append(&issuance(&number.to_string())).unwrap();
        }
    }

    fn reopen(scratch: &Scratch) -> Result<Opened, StateError> {
        Registry::open(&scratch.state).map(|(_, opened)| opened)
    }

    #[test]
    fn records_survive_a_restart_and_the_chain_goes_on() {
        let scratch = scratch();
        with_records(&scratch, 2);
        with_records(&scratch, 1);
        assert_eq!(reopen(&scratch).unwrap(), Opened { records: 3, dropped_bytes: 0 });
    }

    #[test]
    fn a_last_line_cut_short_at_any_byte_is_dropped_and_the_rest_stays() {
        let scratch = scratch();
        with_records(&scratch, 2);
        let whole = fs::read(&scratch.file).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() {
            fs::write(&scratch.file, &whole[..cut]).unwrap();
            let opened = reopen(&scratch).unwrap();
            assert_eq!(opened, Opened { records: 1, dropped_bytes: (cut - first) as u64 });
            assert_eq!(fs::read(&scratch.file).unwrap(), &whole[..first]);
        }
    }

    #[test]
    fn a_damaged_middle_is_refused_and_left_as_it_is() {
        let scratch = scratch();
        with_records(&scratch, 3);
        let whole = fs::read_to_string(&scratch.file).unwrap();
        let lines: Vec<_> = whole.lines().collect();
        let changed = whole.replacen("\"serial\":\"1\"", "\"serial\":\"7\"", 1);
        let removed = format!("{}\n{}\n", lines[0], lines[2]);
        let torn = whole.replacen("\"serial\"", "\"se", 1);
        for damaged in [changed, removed, torn] {
            fs::write(&scratch.file, &damaged).unwrap();
            assert!(reopen(&scratch).is_err(), "{damaged}");
            assert_eq!(fs::read_to_string(&scratch.file).unwrap(), damaged);
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let scratch = scratch();
        with_records(&scratch, 1);
        let mut file = fs::OpenOptions::new().append(true).open(&scratch.file).unwrap();
        file.write_all(&vec![b'x'; 40 << 10]).unwrap();
        assert!(reopen(&scratch).is_err());
    }
}

use std::{fs, path::PathBuf};

use rusqlite::Connection;

use super::*;
use crate::clock;

struct Scratch {
    _parent: tempfile::TempDir,
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        Self { _parent: parent, folder }
    }

    fn open(&self) -> Result<(Registry, Opened), StateError> {
        self.open_with(Duration::from_hours(24))
    }

    fn open_with(&self, retention: Duration) -> Result<(Registry, Opened), StateError> {
        Registry::open(&StateFolder::open(&self.folder)?, Place::Folder, retention)
    }

    /// As many records more, the last of them a refusal.
    fn record(&self, count: u64) {
        let (registry, opened) = self.open().unwrap();
        for number in opened.last..opened.last + count - 1 {
            registry.record(issuance(number, far())).unwrap();
        }
        registry.record(refusal()).unwrap();
    }

    fn broken(&self, statement: &str) -> String {
        let connection = Connection::open(self.folder.join(FILE)).unwrap();
        connection.execute_batch(statement).unwrap();
        drop(connection);
        let error = self.open().err().expect("it must not open");
        assert_eq!(error.code(), Code::RegistryBroken, "{error}");
        error.to_string()
    }
}

fn far() -> u64 {
    clock::now_ms() / 1000 + 3600
}

fn issuance(number: u64, not_after: u64) -> Event {
    Event::Issued(Issuance {
        serial: format!("{number:032x}"),
        identity: "spiffe://shop.test/ns/shop/sa/payments".into(),
        key: "00".into(),
        attestor: "join-token".into(),
        evidence: "abcd".into(),
        caller: "127.0.0.1:1".into(),
        new_source: false,
        not_before: 1,
        not_after,
        issuer: "11".into(),
    })
}

fn refusal() -> Event {
    Event::Refused(Refused {
        code: "SG0306".into(),
        reason: "unknown_token".into(),
        identity: None,
        caller: "127.0.0.1:2".into(),
    })
}

#[test]
fn records_survive_a_restart_and_the_chain_goes_on() {
    let scratch = Scratch::new();
    scratch.record(3);
    scratch.record(2);
    assert_eq!(scratch.open().unwrap().1.last, 5);
}

#[test]
fn many_writers_at_once_make_one_chain() {
    let scratch = Scratch::new();
    let (registry, _) = scratch.open().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8_u64 {
            let registry = &registry;
            scope.spawn(move || {
                for number in 0..50 {
                    registry.record(issuance(writer << 32 | number, far())).unwrap();
                }
            });
        }
    });
    drop(registry);
    assert_eq!(scratch.open().unwrap().1.last, 400);
}

#[test]
fn a_record_that_was_changed_removed_added_or_moved_is_found() {
    for (statement, found) in [
        (
            "UPDATE record SET body = replace(body, 'payments', 'checkout') WHERE sequence = 2",
            "record 2 was changed",
        ),
        ("UPDATE record SET at_ms = at_ms + 1 WHERE sequence = 3", "record 3 was changed"),
        ("UPDATE record SET hash = zeroblob(32) WHERE sequence = 2", "record 2 was changed"),
        ("UPDATE record SET identity = 'spiffe://shop.test/x' WHERE sequence = 2", "record 2 is indexed"),
        ("UPDATE record SET ends = 0 WHERE sequence = 1", "record 1 is indexed"),
        ("UPDATE record SET serial = 'ff' WHERE sequence = 1", "record 1 is indexed"),
        ("DELETE FROM record WHERE sequence = 2", "record 3 does not follow"),
        ("DELETE FROM record WHERE sequence = 1", "record 2 does not follow"),
        ("UPDATE record SET sequence = 9 WHERE sequence = 5", "record 9 does not follow"),
        ("UPDATE record SET body = '{}' WHERE sequence = 2", "record 2 is not understood"),
    ] {
        let scratch = Scratch::new();
        scratch.record(5);
        let message = scratch.broken(statement);
        assert!(message.contains(found), "{statement}: {message}");
    }
}

#[test]
fn records_that_a_checkpoint_covers_cannot_be_cut_off_at_the_end() {
    let scratch = Scratch::new();
    scratch.record(5);
    let message = scratch.broken("DELETE FROM record WHERE sequence > 3");
    assert!(message.contains("the checkpoint at record 5 covers records that are gone"), "{message}");
    let all = Scratch::new();
    all.record(5);
    assert!(all.broken("DELETE FROM record").contains("covers records that are gone"));
}

#[test]
fn a_checkpoint_that_nobody_signed_is_found() {
    for statement in [
        "UPDATE checkpoint SET signature = zeroblob(64)",
        "UPDATE checkpoint SET sequence = 4",
        // Whoever removes records would have to sign that they were pruned.
        "DELETE FROM record; UPDATE checkpoint SET pruned = 1",
    ] {
        let scratch = Scratch::new();
        scratch.record(5);
        let message = scratch.broken(statement);
        assert!(message.contains("a signature that does not verify"), "{statement}: {message}");
    }
}

#[test]
fn a_damaged_page_is_found_and_left_as_it_is() {
    let scratch = Scratch::new();
    scratch.record(200);
    let file = scratch.folder.join(FILE);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 600].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(scratch.open().err().unwrap().code(), Code::RegistryBroken);
    assert!(fs::read(&file).unwrap() == bytes, "it was written to");
}

#[test]
fn a_registry_that_is_gone_is_not_begun_anew() {
    let scratch = Scratch::new();
    scratch.record(1);
    fs::remove_file(scratch.folder.join(FILE)).unwrap();
    let error = scratch.open().err().unwrap();
    assert_eq!(error.code(), Code::RegistryBroken);
    assert!(error.to_string().contains("is missing although"), "{error}");
}

#[test]
fn the_form_of_an_older_version_is_refused_with_what_to_do() {
    let scratch = Scratch::new();
    drop(StateFolder::open(&scratch.folder).unwrap());
    fs::write(scratch.folder.join(OLD_FILE), "{}\n").unwrap();
    let error = scratch.open().err().unwrap().to_string();
    assert!(error.contains("issued.jsonl.kept"), "{error}");
    assert!(!scratch.folder.join(FILE).exists());
}

#[test]
fn what_has_ended_long_enough_ago_is_pruned_from_the_front_and_the_chain_holds() {
    let scratch = Scratch::new();
    let (registry, _) = scratch.open().unwrap();
    for number in 0..4 {
        registry.record(issuance(number, 1000)).unwrap();
    }
    registry.record(issuance(4, far())).unwrap();
    // It has ended, but a record before it has not: the chain has no holes.
    registry.record(issuance(5, 1000)).unwrap();
    drop(registry);
    // Pruned when it opens.
    drop(scratch.open().unwrap());
    let connection = Connection::open(scratch.folder.join(FILE)).unwrap();
    let left: Vec<i64> = connection
        .prepare("SELECT sequence FROM record ORDER BY sequence")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(left, [5, 6]);
    drop(connection);
    scratch.record(1);
    assert_eq!(scratch.open().unwrap().1.last, 7);
    let message = scratch.broken("DELETE FROM record WHERE sequence = 5");
    assert!(message.contains("record 6 does not follow"), "{message}");
}

#[test]
fn everything_may_be_pruned_and_the_numbers_go_on() {
    let scratch = Scratch::new();
    let (registry, _) = scratch.open().unwrap();
    registry.record(issuance(0, 1000)).unwrap();
    drop(registry);
    drop(scratch.open().unwrap());
    scratch.record(1);
    assert_eq!(scratch.open().unwrap().1.last, 2);
}

#[test]
fn whoever_else_writes_stops_the_writer_and_not_the_records() {
    let scratch = Scratch::new();
    let (registry, _) = scratch.open().unwrap();
    registry.record(issuance(0, far())).unwrap();
    let connection = Connection::open(scratch.folder.join(FILE)).unwrap();
    connection
        .execute_batch(
            "INSERT INTO record (sequence, at_ms, ends, body, hash) VALUES (2, 1, 1, '{}', zeroblob(32))",
        )
        .unwrap();
    let error = registry.record(issuance(1, far())).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::MetadataExt;

    let scratch = Scratch::new();
    let (registry, _) = scratch.open().unwrap();
    registry.record(refusal()).unwrap();
    for entry in fs::read_dir(&scratch.folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
}

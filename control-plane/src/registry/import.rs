//! Moves the registry of a state folder into the database that several control planes share: every record and every signed
//! checkpoint as it is, so that the chain goes on. What was begun is taken up again; what is in the database and not of this
//! chain is left alone, and so is the folder's own until all of it is there.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use super::{
    FILE, broken,
    chain::{Chain, ChainError, Kind, Row},
    postgres::{Claim, Claimed, Postgres},
    seal::{self, Seal},
    sqlite::Sqlite,
    store::{Store, StoreError},
    unreachable,
};
use crate::{
    config::{Config, Postgresql, RegistryPlace},
    state::{StateError, StateFolder, unusable},
};

/// Moves it. No control plane may run meanwhile, neither with the folder nor with the database. Must not be called on a
/// runtime's own thread.
pub fn import(config: &Config) -> Result<(), StateError> {
    let RegistryPlace::Postgresql(database) = &config.registry else {
        return Err(unusable(
            &config.state,
            "`registry` of mesh.yaml names no database to move the registry to",
        ));
    };
    // A control plane whose registry it is has the lock.
    let folder = StateFolder::open(&config.state)?;
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(unusable(&path, "is not there, so there is nothing to move"));
    }
    let seal = Seal::read(&folder)?;
    let seal = seal.ok_or_else(|| broken(&folder.join(seal::FILE), "is gone"))?;
    let source = Sqlite::open(&path).map_err(|error| broken(&path, error.to_string()))?;
    let whole = Chain::check(&source, &seal).map_err(|error| broken(&path, error.to_string()))?;
    let mut target = taken(database, config, &folder)?;
    let copied = copy(&source, &mut target, &seal, whole);
    target.release();
    copied.map_err(|error| match error {
        ChainError::Store(StoreError::Postgres(reason)) => unreachable(target.to_string().as_ref(), reason),
        error => broken(target.to_string().as_ref(), error.to_string()),
    })?;
    // Closed first, so that all of it is in the one file.
    drop(source);
    fs::rename(&path, folder.join(MOVED)).map_err(|error| unusable(&path, error.to_string()))
}

/// A control plane that has just ended has the database for the rest of its lease, which is waited for.
fn taken(database: &Postgresql, config: &Config, folder: &StateFolder) -> Result<Box<Postgres>, StateError> {
    let claim = Claim::new(database.clone(), config.grpc)?;
    let begun = Instant::now();
    loop {
        match claim.take(folder)? {
            Claimed::Now(target) => return Ok(target),
            Claimed::By(_) if begun.elapsed() < database.lease + MARGIN => thread::sleep(claim.pause()),
            Claimed::By(holder) => {
                let reason = format!("{holder} has the database: stop every control plane first");
                return Err(unusable(&folder.join(FILE), reason));
            }
        }
    }
}

fn copy(from: &Sqlite, to: &mut Postgres, seal: &Seal, whole: Chain) -> Result<(), ChainError> {
    let checkpoints = from.checkpoints()?;
    let (pruned, kept): (Vec<_>, Vec<_>) =
        checkpoints.iter().partition(|checkpoint| checkpoint.kind == Kind::Pruned);
    let mut there = Chain::check(&*to, seal)?;
    if there.last() == 0 {
        // What the oldest record follows.
        for checkpoint in pruned {
            to.seal(checkpoint)?;
        }
        there = Chain::check(&*to, seal)?;
    }
    let begun = there;
    let mut page = Vec::with_capacity(PAGE);
    from.each(&mut |row| {
        if row.sequence == begun.last() && row.hash != begun.head() {
            return Err(ChainError::Record { sequence: row.sequence, reason: "is another one there" });
        }
        if row.sequence > begun.last() {
            page.push(row);
        }
        if page.len() == PAGE { append(to, &mut there, &mut page) } else { Ok(()) }
    })?;
    append(to, &mut there, &mut page)?;
    for checkpoint in kept {
        to.seal(checkpoint)?;
    }
    if Chain::check(&*to, seal)? == whole {
        Ok(())
    } else {
        Err(ChainError::Record { sequence: whole.last(), reason: "is not the last one there" })
    }
}

fn append(to: &mut Postgres, there: &mut Chain, page: &mut Vec<Row>) -> Result<(), ChainError> {
    if !page.is_empty() {
        to.append(there.tail(), page)?;
        page.drain(..).for_each(|row| there.advance(&row));
    }
    Ok(())
}

/// What the folder's own registry is called once it is in the database. Nobody reads it.
const MOVED: &str = "registry.db.imported";
/// For an end of the lease that is looked at a little too early.
const MARGIN: Duration = Duration::from_secs(2);
/// Records in one transaction, which has five seconds: about 600 KiB.
const PAGE: usize = 1_000;

//! Tells when files may have changed. The kernel's events make it quick; a slow look at the clock makes it certain,
//! where events are lost (queue overflow, network filesystems). Readers compare what they read, so a false alarm is
//! harmless.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

/// Watches the folders that hold some files.
#[derive(Debug)]
pub(crate) struct Changes {
    events: mpsc::Receiver<()>,
    /// Dropping it ends the events.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Watches `paths`: folders as they are, files through their folder, so that replacing by rename is seen.
    pub(crate) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let (wake, events) = mpsc::channel(1);
        let folders: BTreeSet<PathBuf> = paths
            .into_iter()
            .filter_map(|path| if path.is_dir() { Some(path) } else { path.parent().map(PathBuf::from) })
            .collect();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_reading(event.kind)) {
                return;
            }
            // Full means that a wake-up is due already.
            let _ = wake.try_send(());
        })
        .and_then(|mut watcher| {
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "no file events: changes are seen every {} s", FALLBACK.as_secs());
        }
        Self { events, _watcher: watcher.ok() }
    }

    /// Waits until something may have changed and the writer has paused.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            event = self.events.recv() => {
                if event.is_none() {
                    tokio::time::sleep(FALLBACK).await;
                }
            }
            () = tokio::time::sleep(FALLBACK) => {}
        }
        tokio::time::sleep(SETTLE).await;
        while self.events.try_recv().is_ok() {}
    }
}

/// Whoever waits for a change reads the files after it, and would be woken by that itself.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

const FALLBACK: Duration = Duration::from_secs(2);
/// Editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(30);

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    /// So soon that it was an event, and not the clock.
    const AT_ONCE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_file_that_is_written_is_told_and_one_that_is_read_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.yaml");
        fs::write(&file, "one").unwrap();
        let mut changes = Changes::of([file.clone()]);
        for _ in 0..10 {
            fs::read(&file).unwrap();
        }
        timeout(AT_ONCE, changes.next()).await.unwrap_err();
        fs::write(&file, "two").unwrap();
        timeout(AT_ONCE, changes.next()).await.unwrap();
        // What an editor does: another file in its place.
        fs::write(folder.path().join("new"), "three").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        timeout(AT_ONCE, changes.next()).await.unwrap();
    }
}

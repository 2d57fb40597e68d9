//! Tells that something in a watched folder may have changed: at once through the kernel, and every two seconds in any
//! case, for filesystems whose changes it does not report. Says only "look again"; what changed is for the reader.

use std::{path::PathBuf, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

/// The watched folders.
pub(crate) struct Changes {
    /// `None`: the kernel's watch is not to be had, the fallback alone remains.
    watcher: Option<RecommendedWatcher>,
    /// Holds at most one "look again".
    wake: mpsc::Receiver<()>,
    fallback: Interval,
}

impl Changes {
    /// Watches nothing yet. Must be called within a runtime.
    pub(crate) fn new() -> Self {
        let (sender, wake) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| changes_content(&event)) {
                // Full: somebody will look again anyway.
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no kernel watch on files; looking every 2 s"))
            .ok();
        let mut fallback = interval(FALLBACK);
        fallback.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { watcher, wake, fallback }
    }

    /// Watches these folders too. Repeated after each look: a folder that was removed and made anew is another one.
    pub(crate) fn follow(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in folders {
            if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "folder not watched");
            }
        }
    }

    /// Returns when it is time to look. A burst of changes is one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            Some(()) = self.wake.recv() => {
                sleep(DEBOUNCE).await;
                let _ = self.wake.try_recv();
            }
            _ = self.fallback.tick() => {}
        }
    }
}

/// Looking at a file is an event too; answering it by looking again would never end.
fn changes_content(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// An editor writes, renames and touches within a few milliseconds.
const DEBOUNCE: Duration = Duration::from_millis(20);
const FALLBACK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn writing_renaming_and_removing_wake_within_the_debounce() {
        let folder = tempfile::tempdir().unwrap();
        let mut changes = Changes::new();
        changes.follow([folder.path().to_owned()]);
        changes.next().await; // The interval's first tick is immediate.
        let target = folder.path().join("a.yaml");
        let before = std::time::Instant::now();
        fs::write(folder.path().join("a.tmp"), "x").unwrap();
        changes.next().await;
        fs::rename(folder.path().join("a.tmp"), &target).unwrap();
        changes.next().await;
        fs::remove_file(&target).unwrap();
        changes.next().await;
        assert!(before.elapsed() < FALLBACK, "the fallback answered, not the kernel");
    }

    #[test]
    fn reading_is_no_change() {
        let open = Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any)));
        let written = Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        assert!(!changes_content(&open) && changes_content(&written));
    }
}

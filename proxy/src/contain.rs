//! Keeps a fault of this program where it happened: a task that panics ends alone, and is counted.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
};

use futures_util::FutureExt;

use crate::telemetry::Metrics;

/// Runs `task`. Whatever it held is dropped by a panic, so a connection is closed and its record written.
///
/// Not an `async fn`: that would hold `task` twice, as its argument and as what it awaits, and tasks are large.
pub(crate) fn contained(task: impl Future, metrics: Arc<Metrics>) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(move |result| {
        if result.is_err() {
            metrics.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(code = %sidegate_codes::Code::ConnectionPanicked, "a connection ended by a fault of Sidegate");
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::http::LocalExecutor;

    fn faulty() -> u32 {
        std::hint::black_box(Vec::<u32>::new())[0]
    }

    #[test]
    fn a_task_is_held_once() {
        let task = async {
            let held = std::hint::black_box([1_u8; 4096]);
            tokio::task::yield_now().await;
            assert_eq!(held.len(), 4096);
        };
        let size = size_of_val(&task);
        let contained = contained(task, Arc::default());
        assert!(size > 4096 && size_of_val(&contained) < size + 64, "{}", size_of_val(&contained));
    }

    /// What hyper hands to the executor, a stream of HTTP/2 for example, and what this program spawns itself.
    #[tokio::test]
    async fn a_task_that_panics_ends_alone_and_is_counted() {
        let metrics = Arc::new(Metrics::default());
        let tasks = TaskTracker::new();
        let others = std::rc::Rc::new(Cell::new(0));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let executor = LocalExecutor { tasks: tasks.clone(), metrics: Arc::clone(&metrics) };
                hyper::rt::Executor::execute(&executor, async { faulty() });
                tasks.spawn_local(contained(async { faulty() }, Arc::clone(&metrics)));
                let seen = std::rc::Rc::clone(&others);
                tasks.spawn_local(contained(async move { seen.set(1) }, Arc::clone(&metrics)));
                tasks.close();
                tasks.wait().await;
            })
            .await;
        assert_eq!((metrics.panics.load(Ordering::Relaxed), others.get()), (2, 1));
    }
}

use std::{fs, path::PathBuf};

use super::*;

/// A P-256 key under this name. The point is the curve's own generator: nobody signs here.
fn set(kid: &str) -> String {
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}}]}}"#
    )
}

struct Fed {
    _folder: tempfile::TempDir,
    path: PathBuf,
    source: Arc<KeySource>,
    metrics: Arc<Metrics>,
    _feeder: JoinSet<Infallible>,
}

impl Fed {
    fn new(max_stale: Duration) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("keys.json");
        let origin = Origin::File(path.clone());
        let source =
            Arc::new(KeySource::new(&KeysFrom { origin, refresh: Duration::from_mins(5), max_stale }));
        let metrics = Arc::<Metrics>::default();
        let mut feeder = JoinSet::new();
        feeder.spawn(Arc::clone(&source).feed(Arc::clone(&metrics)));
        Self { _folder: folder, path, source, metrics, _feeder: feeder }
    }

    fn looks(&self) -> u64 {
        *self.source.looked.borrow()
    }

    async fn next_look(&self) {
        let mut looked = self.source.looked.subscribe();
        looked.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_are_used_while_there_are_no_new_ones_and_not_for_ever() {
    let fed = Fed::new(Duration::from_mins(1));
    fs::write(&fed.path, set("a")).unwrap();
    fed.next_look().await;
    let good = fed.source.keys().expect("they are good");

    fs::write(&fed.path, "{").unwrap();
    fed.next_look().await;
    assert!(Arc::ptr_eq(&good, &fed.source.keys().expect("the last good ones")));
    assert!(fed.metrics.token_keys_failed.load(std::sync::atomic::Ordering::Relaxed) > 0);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(fed.source.keys().is_none(), "too old, and nothing stands in for them");

    fs::write(&fed.path, set("a")).unwrap();
    while fed.source.keys().is_none() {
        fed.next_look().await;
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_with_unknown_keys_cause_one_look_in_thirty_seconds_however_many_come() {
    let fed = Fed::new(Duration::from_hours(1));
    fs::write(&fed.path, set("a")).unwrap();
    fed.next_look().await;
    let before = fed.looks();
    fed.source.newer_keys().await.expect("keys");
    assert_eq!(fed.looks(), before + 1, "the first is looked up at once");
    for _ in 0..1000 {
        assert!(!fed.source.want(), "the others are not");
    }
    tokio::time::sleep(BETWEEN_WANTED).await;
    assert!(fed.source.want());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_the_same_stay_the_same_so_that_tokens_stay_known() {
    let fed = Fed::new(Duration::from_hours(1));
    fs::write(&fed.path, set("a")).unwrap();
    fed.next_look().await;
    let first = fed.source.keys().unwrap();
    fed.next_look().await;
    assert!(Arc::ptr_eq(&first, &fed.source.keys().unwrap()));
    fs::write(&fed.path, set("b")).unwrap();
    fed.next_look().await;
    assert!(!Arc::ptr_eq(&first, &fed.source.keys().unwrap()));
}

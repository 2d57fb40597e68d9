use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";
const HOUR_MS: u64 = 3_600_000;

struct Scratch {
    folder: PathBuf,
    tokens: Tokens,
    _parent: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let tokens = Tokens::open_in(&StateFolder::open_beside(&folder).unwrap()).unwrap();
        Self { folder, tokens, _parent: parent }
    }

    /// A token for an hour.
    fn add(&self, now_ms: u64) -> (Token, Secret) {
        let secret = Secret::generate().unwrap();
        let identity = SpiffeId::parse(PAYMENTS).unwrap();
        let terms = Terms { identity, life: Duration::from_hours(1), uses: None };
        (self.tokens.add(&secret, &terms, now_ms).unwrap(), secret)
    }

    fn rotate(&self, id: &str, now_ms: u64) -> Result<(Token, Secret), TokensError> {
        let secret = Secret::generate().unwrap();
        let token = self.tokens.rotate(id, &secret, Duration::from_mins(10), now_ms)?;
        Ok((token, secret))
    }

    fn state(&self, secret: &Secret, now_ms: u64) -> State {
        match self.tokens.find(&digest(secret.as_str()), now_ms).unwrap() {
            Found::Usable(_) => State::Valid,
            Found::Ended(state, _) => state,
            Found::Unknown => panic!("unknown"),
        }
    }
}

#[test]
fn what_is_on_disk_does_not_hold_the_token_and_nobody_else_reads_it() {
    let scratch = Scratch::new();
    let (_, secret) = scratch.add(0);
    drop(scratch.tokens);
    let random = secret.as_str().strip_prefix("sidegate-join-").unwrap();
    for entry in fs::read_dir(&scratch.folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(random.len()).any(|found| found == random.as_bytes()), "{}", path.display());
    }
}

#[test]
fn tokens_differ_and_have_256_random_bits() {
    let [first, second] = [(); 2].map(|()| Secret::generate().unwrap());
    assert_ne!(first.as_str(), second.as_str());
    assert_eq!(first.as_str().len(), "sidegate-join-".len() + 64);
}

#[test]
fn a_rotated_token_and_its_successor_are_valid_until_the_overlap_ends() {
    let scratch = Scratch::new();
    let (old, old_secret) = scratch.add(0);
    let (new, new_secret) = scratch.rotate(&old.id, 1).unwrap();
    assert_eq!((new.identity.as_str(), new.uses), (PAYMENTS, None));
    assert_eq!(scratch.state(&old_secret, 600_000), State::Valid);
    assert_eq!(scratch.state(&old_secret, 600_001), State::Expired);
    assert_eq!(scratch.state(&new_secret, HOUR_MS), State::Valid);
    assert_eq!(scratch.state(&new_secret, HOUR_MS + 1), State::Expired, "as long as the first one");
}

#[test]
fn never_more_than_two_of_a_line_are_valid() {
    let scratch = Scratch::new();
    let (first, first_secret) = scratch.add(0);
    let (second, second_secret) = scratch.rotate(&first.id, 1).unwrap();
    assert!(matches!(scratch.rotate(&first.id, 2), Err(TokensError::Replaced { .. })));
    let (_, third_secret) = scratch.rotate(&second.id, 3).unwrap();
    let states = [first_secret, second_secret, third_secret].map(|secret| scratch.state(&secret, 3));
    assert_eq!(states, [State::Revoked, State::Valid, State::Valid]);
}

#[test]
fn an_overlap_does_not_prolong_the_old_token() {
    let scratch = Scratch::new();
    let (old, secret) = scratch.add(0);
    scratch.rotate(&old.id, HOUR_MS - 1).unwrap();
    assert_eq!(scratch.state(&secret, HOUR_MS), State::Expired);
}

#[test]
fn a_revoked_token_is_refused_at_once_and_cannot_be_rotated() {
    let scratch = Scratch::new();
    let (token, secret) = scratch.add(0);
    assert_eq!(scratch.tokens.revoke(&token.id, 1).unwrap().state, State::Revoked);
    assert_eq!(scratch.state(&secret, 1), State::Revoked);
    assert!(matches!(scratch.rotate(&token.id, 2), Err(TokensError::Ended { state: State::Revoked, .. })));
    assert!(matches!(scratch.tokens.revoke("0123", 2), Err(TokensError::Unknown(_))));
}

#[test]
fn what_ended_long_ago_is_forgotten_and_what_did_not_is_listed() {
    let scratch = Scratch::new();
    let (old, _) = scratch.add(0);
    scratch.tokens.take(&old.id, "10.0.0.1", 1).unwrap();
    let listed = scratch.tokens.all(1).unwrap();
    assert_eq!((listed[0].used, &listed[0].sources[..]), (1, &["10.0.0.1".to_owned()][..]));
    let later = HOUR_MS + millis(KEPT) + 1;
    let (new, _) = scratch.add(later);
    let ids: Vec<_> = scratch.tokens.all(later).unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(ids, [new.id]);
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new();
    scratch.add(0);
    drop(scratch.tokens);
    let path = scratch.folder.join(FILE);
    fs::write(&path, b"this is no database, though it is long enough to be read as the head of one").unwrap();
    let before = fs::read(&path).unwrap();
    let error = Tokens::open_in(&StateFolder::open_beside(&scratch.folder).unwrap()).unwrap_err();
    assert_eq!(error.code(), Some(Code::StateUnusable), "{error}");
    assert!(error.to_string().contains("tokens.db"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

//! Where the application is: the `forward` of a port goes in, its addresses come out. A name is looked up again and again
//! off the path of requests, so that what connects or is kept for it leads to an address that it still has. Refuses with
//! a code when the name has none or nobody answers in time; an old answer is never used in place of a failed one.

use std::{
    cell::RefCell,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use sidegate_codes::Code;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    config::{Forward, ForwardTo},
    error::Error,
};

/// The names of one worker's ports, and their addresses.
pub(crate) struct Names {
    look_up: LookUp,
    /// Look-ups in flight: each takes a thread until the system's resolver gives up, however long this side waits.
    places: Arc<Semaphore>,
    known: RefCell<HashMap<Forward, Known>>,
}

/// Blocks until it knows.
type LookUp = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

#[derive(Clone, Debug)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    /// Of the answer. `None`: an address is what it is.
    since: Option<Instant>,
}

impl Names {
    /// By the system's resolver.
    pub(crate) fn of_system() -> Self {
        Self::by(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// By `look_up`, which may block.
    pub(super) fn by(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            look_up: Arc::new(look_up),
            places: Arc::new(Semaphore::new(MOST_LOOK_UPS)),
            known: RefCell::default(),
        }
    }

    /// The addresses of `forward`, at least one. Waits only if there is no answer of late.
    pub(crate) async fn addresses(&self, forward: &Forward) -> Result<Arc<[SocketAddr]>, Error> {
        let known = self.known.borrow().get(forward).filter(|known| !known.is_older_than(OLDEST)).cloned();
        match known {
            Some(known) => Ok(known.addresses),
            None => self.look_up(forward).await,
        }
    }

    /// Whether `forward` leads to `addresses`, as far as is known.
    pub(crate) fn has(&self, forward: &Forward, addresses: &[SocketAddr]) -> bool {
        self.known.borrow().get(forward).is_some_and(|known| *known.addresses == *addresses)
    }

    /// None of the addresses could be connected to: the next one who asks looks up again.
    pub(crate) fn forget(&self, forward: &Forward) {
        self.known.borrow_mut().retain(|known, answer| known != forward || answer.since.is_none());
    }

    /// Looks up again what was looked up too long ago. What is not `wanted` any more is forgotten.
    pub(crate) async fn refresh(&self, wanted: impl Fn(&Forward) -> bool) {
        self.known.borrow_mut().retain(|forward, _| wanted(forward));
        let old =
            |(forward, known): (&Forward, &Known)| known.is_older_than(REFRESH).then(|| forward.clone());
        let old: Vec<Forward> = self.known.borrow().iter().filter_map(old).collect();
        for forward in old {
            if let Err(error) = self.look_up(&forward).await {
                tracing::warn!(code = %error.code(), detail = %error, "the application's name leads nowhere");
            }
        }
    }

    async fn look_up(&self, forward: &Forward) -> Result<Arc<[SocketAddr]>, Error> {
        let port = forward.port();
        let host = match forward.host() {
            ForwardTo::Named(host) => host,
            ForwardTo::Loopback => return Ok(self.learn(forward, loopback(port), None)),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(self.learn(forward, vec![SocketAddr::new(ip, port)], None));
        }
        let answer = timeout(LOOK_UP_TIMEOUT, self.ask(host.to_owned(), port)).await;
        let why = match answer {
            Ok(Ok(addresses)) if addresses.is_empty() => "it has no address".to_owned(),
            Ok(Ok(addresses)) => return Ok(self.learn(forward, addresses, Some(Instant::now()))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.forget(forward);
        let detail = format!("looking up {forward}: {why}");
        Err(Error::Upstream { code: Code::NameNotResolved, detail })
    }

    async fn ask(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let look_up = Arc::clone(&self.look_up);
        let looking_up = spawn_blocking(move || {
            let answer = look_up(&host, port);
            drop(place);
            answer
        });
        looking_up.await.map_err(io::Error::other)?
    }

    /// An answer with the same addresses in another order, as resolvers give them in turn, changes nothing.
    fn learn(
        &self,
        forward: &Forward,
        mut addresses: Vec<SocketAddr>,
        since: Option<Instant>,
    ) -> Arc<[SocketAddr]> {
        addresses.truncate(MOST_ADDRESSES);
        let mut known = self.known.borrow_mut();
        let is_same = |known: &Known| {
            known.addresses.len() == addresses.len()
                && addresses.iter().all(|address| known.addresses.contains(address))
        };
        let addresses = match known.get(forward) {
            Some(before) if is_same(before) => Arc::clone(&before.addresses),
            before => {
                if before.is_some() {
                    tracing::info!(%forward, ?addresses, "the application's name leads elsewhere now");
                }
                Arc::from(addresses)
            }
        };
        known.insert(forward.clone(), Known { addresses: Arc::clone(&addresses), since });
        addresses
    }
}

impl Known {
    fn is_older_than(&self, age: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= age)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("known", &self.known).finish_non_exhaustive()
    }
}

/// An application that a connection was captured for listens on either family.
fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// How often a name is looked up again.
const REFRESH: Duration = Duration::from_secs(5);
/// How old an answer may be that is still used: one look-up late, and no more.
const OLDEST: Duration = Duration::from_secs(10);
/// One look-up, the wait for its place included.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// In flight, per worker.
const MOST_LOOK_UPS: usize = 8;
/// Of one name: each is tried once, and has its share of the time to connect.
const MOST_ADDRESSES: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// A resolver whose answer is changed as the test goes on. `Err`: it has none.
    fn names(answer: &Arc<Mutex<Result<Vec<&'static str>, ()>>>) -> Names {
        let answer = Arc::clone(answer);
        Names::by(move |host, port| match &*answer.lock().unwrap() {
            Ok(list) => Ok(list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect()),
            Err(()) => Err(io::Error::other(format!("{host} is not known"))),
        })
    }

    fn app() -> Forward {
        "app:8080".parse().unwrap()
    }

    /// Unlike `advance`, this lets no time pass by itself while a look-up is under way.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_and_its_change_is_seen_by_the_next_refresh() {
        let answer = Arc::new(Mutex::new(Ok(vec!["10.0.0.7", "10.0.0.8"])));
        let names = names(&answer);
        let first = names.addresses(&app()).await.unwrap();
        assert_eq!(*first, ["10.0.0.7:8080".parse().unwrap(), "10.0.0.8:8080".parse().unwrap()]);

        *answer.lock().unwrap() = Ok(vec!["10.0.0.9"]);
        names.refresh(|_| true).await;
        assert_eq!(names.addresses(&app()).await.unwrap(), first, "nothing is looked up before its time");
        pass(REFRESH).await;
        names.refresh(|_| true).await;
        assert_eq!(*names.addresses(&app()).await.unwrap(), ["10.0.0.9:8080".parse().unwrap()]);
        assert!(!names.has(&app(), &first), "what is kept for the old addresses is current no longer");
    }

    #[tokio::test]
    async fn the_same_addresses_in_another_order_change_nothing() {
        let answer = Arc::new(Mutex::new(Ok(vec!["10.0.0.7", "10.0.0.8"])));
        let names = names(&answer);
        let first = names.addresses(&app()).await.unwrap();
        *answer.lock().unwrap() = Ok(vec!["10.0.0.8", "10.0.0.7"]);
        pass(OLDEST).await;
        assert!(Arc::ptr_eq(&names.addresses(&app()).await.unwrap(), &first));
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_is_an_error_and_no_old_answer() {
        let answer = Arc::new(Mutex::new(Ok(vec!["10.0.0.7"])));
        let names = names(&answer);
        let first = names.addresses(&app()).await.unwrap();
        for (nothing, why) in [(Err(()), "app is not known"), (Ok(vec![]), "it has no address")] {
            *answer.lock().unwrap() = nothing;
            pass(REFRESH).await;
            names.refresh(|_| true).await;
            assert!(!names.has(&app(), &first));
            let error = names.addresses(&app()).await.unwrap_err();
            assert_eq!(error.code(), Code::NameNotResolved);
            assert!(error.to_string().contains(why), "{error}");
        }
        *answer.lock().unwrap() = Ok(vec!["10.0.0.9"]);
        assert!(names.addresses(&app()).await.is_ok(), "the next one who asks looks up again");
    }

    #[tokio::test]
    async fn addresses_that_nobody_could_connect_to_are_looked_up_again_at_once() {
        let answer = Arc::new(Mutex::new(Ok(vec!["10.0.0.7"])));
        let names = names(&answer);
        names.addresses(&app()).await.unwrap();
        *answer.lock().unwrap() = Ok(vec!["10.0.0.9"]);
        names.forget(&app());
        assert_eq!(*names.addresses(&app()).await.unwrap(), ["10.0.0.9:8080".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_is_waited_for_no_longer_than_its_time() {
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(held);
        let names = Names::by(move |_, _| {
            // Ends when the test does.
            let _ = held.lock().unwrap().recv();
            Ok(Vec::new())
        });
        tokio::time::pause();
        let addresses = app();
        let asking = names.addresses(&addresses);
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        // Timers count whole milliseconds, and a blocked thread keeps the clock from going on by itself.
        tokio::time::advance(LOOK_UP_TIMEOUT + Duration::from_millis(2)).await;
        let error = asking.await.unwrap_err();
        assert!(error.to_string().contains("no answer in time"), "{error}");
        drop(let_go);
    }

    #[tokio::test]
    async fn look_ups_over_the_bound_wait_for_a_place_and_for_no_longer_than_one() {
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let (held, asked) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let names = Names::by(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            // Ends when the test does.
            let _ = held.lock().unwrap().recv();
            Ok(Vec::new())
        });
        tokio::time::pause();
        let hosts: Vec<Forward> =
            (0..=MOST_LOOK_UPS).map(|host| format!("app-{host}:80").parse().unwrap()).collect();
        let asking = futures_util::future::join_all(hosts.iter().map(|host| names.addresses(host)));
        tokio::pin!(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!(names.places.available_permits(), 0, "the last one has none");
        tokio::time::advance(LOOK_UP_TIMEOUT + Duration::from_millis(2)).await;
        for answer in asking.await {
            let error = answer.unwrap_err();
            assert!(error.to_string().contains("no answer in time"), "{error}");
        }
        drop(let_go);
        assert!(asked.load(Ordering::Relaxed) <= MOST_LOOK_UPS);
    }

    #[tokio::test]
    async fn of_a_name_with_many_addresses_eight_are_used() {
        let many = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"];
        let many = [&many[..], &["10.0.0.8", "10.0.0.9"]].concat();
        let names = names(&Arc::new(Mutex::new(Ok(many))));
        let used = names.addresses(&app()).await.unwrap();
        assert_eq!(
            (used.len(), used.last().unwrap().to_string().as_str()),
            (MOST_ADDRESSES, "10.0.0.8:8080")
        );
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let names = Names::by(|_, _| panic!("nothing to look up"));
        for text in ["127.0.0.1:80", "[::1]:80"] {
            let addresses = names.addresses(&text.parse().unwrap()).await.unwrap();
            assert_eq!(*addresses, [text.parse().unwrap()]);
        }
        pass(OLDEST).await;
        names.refresh(|_| true).await;
        assert_eq!(names.known.borrow().len(), 2);
        names.refresh(|_| false).await;
        assert!(names.known.borrow().is_empty(), "a port that is gone is not looked up for ever");
    }
}

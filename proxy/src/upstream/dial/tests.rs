use std::{sync::Mutex, time::Duration};

use tokio::net::TcpListener;

use super::*;
use crate::{config::Config, snapshot::Publisher};

/// What dials for a sidecar whose resolver gives `answer`.
fn dialer(answer: &Arc<Mutex<Vec<SocketAddr>>>) -> Dialer {
    let text = "trustDomain: shop.test\n\
        workload: {namespace: shop, serviceAccount: payments}\n\
        controlPlane: {address: '127.0.0.1:1', trustBundle: root.pem}\n\
        inbound: [{listen: '127.0.0.1:0', forward: 'app:80'}]\n";
    let config = Config::parse(std::path::Path::new("proxy.yaml"), text).unwrap();
    let (limits, metrics) = (Arc::new(config.limits.clone()), Arc::new(Metrics::default()));
    let answer = Arc::clone(answer);
    Dialer {
        limits,
        mesh: Publisher::new(config, Arc::clone(&metrics)).reader(),
        metrics,
        names: Rc::new(Names::by(move |_, _| Ok(answer.lock().unwrap().clone()))),
    }
}

fn app() -> Forward {
    "app:80".parse().unwrap()
}

/// Until when a dial may take.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_left_for_the_next_one() {
    let (closed, nobody) = listener().await;
    drop(closed);
    let (open, somebody) = listener().await;
    let dialer = dialer(&Arc::new(Mutex::new(vec![nobody, somebody])));
    let destination = dialer.app(&app()).await.unwrap();
    let (reached, accepted) = tokio::join!(dialer.dial(&destination, Carries::Tcp, soon()), open.accept());
    assert!(reached.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn what_is_kept_for_the_addresses_of_before_serves_nobody_once_they_have_changed() {
    let ((_old, before), (new, now)) = (listener().await, listener().await);
    let answer = Arc::new(Mutex::new(vec![before]));
    let dialer = dialer(&answer);
    let old = dialer.app(&app()).await.unwrap();
    assert_eq!(dialer.app(&app()).await.unwrap(), old, "a kept connection serves the same destination");

    *answer.lock().unwrap() = vec![now];
    dialer.names.forget(&app());
    let destination = dialer.app(&app()).await.unwrap();
    assert_ne!(destination, old);
    let (reached, accepted) = tokio::join!(dialer.dial(&destination, Carries::Tcp, soon()), new.accept());
    assert!(reached.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn addresses_where_nobody_listens_are_looked_up_again_by_the_next_dial() {
    let (closed, nobody) = listener().await;
    drop(closed);
    let (open, somebody) = listener().await;
    let answer = Arc::new(Mutex::new(vec![nobody]));
    let dialer = dialer(&answer);
    let destination = dialer.app(&app()).await.unwrap();
    *answer.lock().unwrap() = vec![somebody];
    let error = dialer.dial(&destination, Carries::Tcp, soon()).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);

    let destination = dialer.app(&app()).await.unwrap();
    let (reached, accepted) = tokio::join!(dialer.dial(&destination, Carries::Tcp, soon()), open.accept());
    assert!(reached.is_ok() && accepted.is_ok());
}

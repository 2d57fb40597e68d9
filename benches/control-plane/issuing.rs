//! Certificates: how many a second, a storm of renewals, and what a handshake costs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Map, Value, json};
use sidegate_identity::tls::Credentials;
use tokio::task::JoinSet;

use crate::{
    mesh::{Mesh, name},
    plane::Plane,
    proxy::{self, Key},
    quantile, rounded,
};

pub(crate) async fn measure(program: &Path, services: usize, seconds: u64) -> Result<Map<String, Value>> {
    let mesh = Mesh::new(services, 1)?;
    let plane = Arc::new(Plane::start(program, &mesh)?);
    let time = Duration::from_secs(seconds);
    let mut figures = Map::new();
    let mut add = |what: &str, figure: Value| drop(figures.insert(what.to_owned(), figure));

    let (begun, cpu) = (Instant::now(), plane.cpu()?);
    let mut issued = issue_for(&plane, services, time).await?;
    let count = number(issued.len());
    add("certificates/s", json!(rounded(count / begun.elapsed().as_secs_f64())));
    add("certificate: CPU us", json!(rounded(plane.cpu_since(cpu)?.as_secs_f64() * 1e6 / count)));
    issued.sort_by(f64::total_cmp);
    add("certificate: p50 ms", json!(quantile(&issued, 0.5)));
    add("certificate: p99 ms", json!(quantile(&issued, 0.99)));

    let (begun, cpu) = (Instant::now(), plane.cpu()?);
    let made = shake_hands_for(&plane, time).await?;
    add("handshakes/s", json!(rounded(number(made) / begun.elapsed().as_secs_f64())));
    add("handshake: CPU us", json!(rounded(plane.cpu_since(cpu)?.as_secs_f64() * 1e6 / number(made))));

    let mut renewed = renew_at_once(&plane, services).await?;
    renewed.sort_by(f64::total_cmp);
    add("renewal of 1000 at once: p50 ms", json!(quantile(&renewed, 0.5)));
    add("renewal of 1000 at once: p99 ms", json!(quantile(&renewed, 0.99)));
    add("renewal of 1000 at once: all ms", json!(quantile(&renewed, 1.0)));
    add("control plane: memory MiB", json!(plane.memory()?));
    Ok(figures)
}

/// Over connections that are open already; the milliseconds of each.
async fn issue_for(plane: &Arc<Plane>, services: usize, time: Duration) -> Result<Vec<f64>> {
    let key = Arc::new(Key::new()?);
    let end = Instant::now() + time;
    let mut callers = JoinSet::<Result<Vec<f64>>>::new();
    for caller in 0..CALLERS {
        let (plane, key) = (plane.clone(), key.clone());
        callers.spawn(async move {
            let channel = proxy::channel(plane.grpc, caller, &plane.trust, None).await?;
            let mut taken = Vec::new();
            for turn in caller.. {
                let begun = Instant::now();
                if begun >= end {
                    break;
                }
                proxy::issue(channel.clone(), key.csr.clone(), &name(turn * 7 % services)).await?;
                taken.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(taken)
        });
    }
    let mut all = Vec::new();
    while let Some(taken) = callers.join_next().await {
        all.extend(taken??);
    }
    Ok(all)
}

/// Both sides prove who they are.
async fn shake_hands_for(plane: &Arc<Plane>, time: Duration) -> Result<usize> {
    let own = Arc::new(proxy::enrolled(plane.grpc, &plane.trust, 0, &name(0)).await?);
    let (end, made) = (Instant::now() + time, Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::<Result<()>>::new();
    for caller in 0..CALLERS {
        let (plane, own, made) = (plane.clone(), own.clone(), made.clone());
        callers.spawn(async move {
            while Instant::now() < end {
                drop(proxy::dial(plane.grpc, caller, &plane.trust, Some(&own)).await?);
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(made.load(Ordering::Relaxed))
}

/// Each by a connection of its own, with its certificate: the milliseconds from the common start to the new certificate.
async fn renew_at_once(plane: &Arc<Plane>, services: usize) -> Result<Vec<f64>> {
    let mut sidecars = Vec::with_capacity(STORM);
    for number in 0..STORM {
        let own = proxy::enrolled(plane.grpc, &plane.trust, number, &name(number % services)).await?;
        sidecars.push((own, Key::new()?));
    }
    let begun = Instant::now();
    let mut renewals = JoinSet::<Result<f64>>::new();
    for (number, (own, key)) in sidecars.into_iter().enumerate() {
        let plane = plane.clone();
        renewals.spawn(async move {
            // A handshake that waits too long is cut off, and the sidecar comes again.
            for attempt in 1.. {
                match renew(&plane, number, &own, key.csr.clone()).await {
                    Err(error) if attempt == ATTEMPTS => return Err(error),
                    Err(_) => tokio::time::sleep(PAUSE * attempt).await,
                    Ok(()) => break,
                }
            }
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        });
    }
    let mut all = Vec::with_capacity(STORM);
    while let Some(taken) = renewals.join_next().await {
        all.push(taken??);
    }
    Ok(all)
}

async fn renew(plane: &Plane, number: usize, own: &Credentials, csr: Vec<u8>) -> Result<()> {
    let channel = proxy::channel(plane.grpc, number, &plane.trust, Some(own)).await?;
    proxy::issue(channel, csr, "").await.map(drop)
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

const CALLERS: usize = 32;
const STORM: usize = 1_000;
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

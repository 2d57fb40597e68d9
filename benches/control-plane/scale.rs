//! A mesh with many proxies: how long a change takes to be in force everywhere, what it costs where it concerns few, and how all of
//! them come back after a restart.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Map, Value, json};
use sidegate_identity::tls::Credentials;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::sleep,
};

use crate::{
    mesh::{Mesh, name},
    plane::{self, Plane},
    proxy::{self, Acked, Role},
    quantile, rounded,
};

/// How large a mesh is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) proxies: usize,
    pub(crate) services: usize,
    pub(crate) policies: usize,
}

/// A mesh whose proxies are connected.
struct Running {
    mesh: Mesh,
    plane: Arc<Plane>,
    own: Vec<Arc<Credentials>>,
    acks: UnboundedSender<Acked>,
    acked: UnboundedReceiver<Acked>,
    proxies: JoinSet<()>,
    size: Size,
}

pub(crate) async fn measure(program: &Path, size: Size, changes: usize) -> Result<Map<String, Value>> {
    let mut figures = Map::new();
    let mut running = Running::enrolled(program, size).await?;
    let (begun, cpu) = (Instant::now(), running.plane.cpu()?);
    let (all, pushes) = running.connect(begun).await?;
    figures.insert("connected: all s".to_owned(), json!(seconds(all)));
    figures.insert("connected: pushes".to_owned(), json!(pushes));
    figures.insert("connected: CPU s".to_owned(), json!(seconds(running.plane.cpu_since(cpu)?)));
    figures.insert("connected: memory MiB".to_owned(), json!(running.plane.memory()?));

    let begun = Instant::now();
    running.restart(program).await?;
    let (all, pushes) = running.connect(begun).await?;
    figures.insert("restarted: all serving s".to_owned(), json!(seconds(all)));
    figures.insert("restarted: pushes".to_owned(), json!(pushes));
    figures.insert("restarted: CPU s".to_owned(), json!(seconds(running.plane.cpu()?)));
    // Shortly after its start a control plane looks at everybody once more.
    sleep(SETTLED.saturating_sub(begun.elapsed())).await;
    running.quiet().await;
    let cpu = running.plane.cpu()?;
    sleep(REST).await;
    let rest = running.plane.cpu_since(cpu)?.as_secs_f64() * 1e3 / REST.as_secs_f64();
    figures.insert("at rest: CPU ms/s".to_owned(), json!(rounded(rest)));
    figures.insert("at rest: memory MiB".to_owned(), json!(running.plane.memory()?));

    let of_service = (size.proxies - 1).div_ceil(size.services - 1);
    let of_service = if size.proxies - 1 < size.services { 1 } else { of_service };
    for (what, change, concerns) in [
        ("policy for all", Change::Guardrail, size.proxies),
        ("policies of one service", Change::Policies, of_service),
        ("one endpoint", Change::Endpoint, CALLERS + 1),
    ] {
        running.measure(what, change, concerns, changes, &mut figures).await?;
    }
    Ok(figures)
}

#[derive(Clone, Copy)]
enum Change {
    /// A policy that selects everything.
    Guardrail,
    /// The policies of the first service.
    Policies,
    /// One proxy comes back on another port; ten others call it.
    Endpoint,
}

impl Running {
    /// Everybody has a certificate, nobody is connected.
    async fn enrolled(program: &Path, size: Size) -> Result<Self> {
        let mesh = Mesh::new(size.services, size.policies)?;
        let plane = Arc::new(Plane::start(program, &mesh)?);
        let mut enrolling = JoinSet::new();
        let mut own: Vec<Option<Arc<Credentials>>> = (0..size.proxies).map(|_| None).collect();
        for number in 0..size.proxies {
            if enrolling.len() >= AT_A_TIME {
                enter(enrolling.join_next().await, &mut own)?;
            }
            let plane = plane.clone();
            let service = role(number, size).service;
            enrolling.spawn(async move {
                Ok((number, proxy::enrolled(plane.grpc, &plane.trust, number, &service).await?))
            });
        }
        while let Some(enrolled) = enrolling.join_next().await {
            enter(Some(enrolled), &mut own)?;
        }
        let (acks, acked) = unbounded_channel();
        let own = own.into_iter().flatten().collect();
        Ok(Self { mesh, plane, own, acks, acked, proxies: JoinSet::new(), size })
    }

    /// Everybody at once: from `begun` until each has acknowledged an update, and how many there were until all was quiet.
    async fn connect(&mut self, begun: Instant) -> Result<(Duration, usize)> {
        for number in 0..self.size.proxies {
            self.subscribe(role(number, self.size));
        }
        let mut waiting: BTreeSet<_> = (0..self.size.proxies).collect();
        let mut pushes = 0;
        while !waiting.is_empty() {
            for acked in proxy::next(&mut self.acked, 1, Duration::from_mins(5)).await? {
                waiting.remove(&acked.number);
                pushes += 1;
            }
        }
        let all = begun.elapsed();
        Ok((all, pushes + self.quiet().await))
    }

    /// Who fails comes again, as a sidecar does; who is superseded does not.
    fn subscribe(&mut self, role: Role) {
        let (plane, own, acks) = (self.plane.clone(), self.own[role.number].clone(), self.acks.clone());
        self.proxies.spawn(async move {
            for attempt in 1.. {
                match proxy::subscribe(plane.grpc, &plane.trust, &own, role.clone(), acks.clone()).await {
                    Err(error) if !error.to_string().contains("took its place") && attempt < ATTEMPTS => {
                        sleep(PAUSE * attempt).await;
                    }
                    _ => return,
                }
            }
        });
    }

    async fn restart(&mut self, program: &Path) -> Result<()> {
        self.proxies.shutdown().await;
        self.plane.kill()?;
        while self.acked.try_recv().is_ok() {}
        self.plane = Arc::new(Plane::start(program, &self.mesh)?);
        Ok(())
    }

    /// Returns when nobody has had news for a while; how many there were until then.
    async fn quiet(&mut self) -> usize {
        let mut pushes = 0;
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, self.acked.recv()).await {
            pushes += 1;
        }
        pushes
    }

    async fn measure(
        &mut self,
        what: &str,
        change: Change,
        concerns: usize,
        changes: usize,
        figures: &mut Map<String, Value>,
    ) -> Result<()> {
        let (mut each, mut all) = (Vec::new(), Vec::new());
        let (mut pushes, mut bytes, mut resources) = (0, 0, 0);
        let (cpu, proxies) = (self.plane.cpu()?, plane::proxies_cpu()?);
        for turn in 0..changes {
            let begun = Instant::now();
            self.make(change, turn)?;
            let acked = proxy::next(&mut self.acked, concerns, Duration::from_mins(1)).await?;
            let mut taken: Vec<_> =
                acked.iter().map(|acked| (acked.at - begun).as_secs_f64() * 1e3).collect();
            taken.sort_by(f64::total_cmp);
            all.push(quantile(&taken, 1.0));
            each.extend(taken);
            pushes += acked.len();
            // The mover's own first update is not what the change costs the others.
            let others =
                acked.iter().filter(|acked| !matches!(change, Change::Endpoint) || acked.number != 0);
            for acked in others {
                (bytes, resources) = (bytes + acked.bytes, resources + acked.resources);
            }
            pushes += self.quiet().await;
        }
        let (cpu, proxies) = (self.plane.cpu_since(cpu)?, plane::proxies_cpu()?.saturating_sub(proxies));
        let each_ms = |time: Duration| {
            json!(rounded(time.as_secs_f64() * 1e3 / u32::try_from(changes).map_or(1.0, f64::from)))
        };
        each.sort_by(f64::total_cmp);
        all.sort_by(f64::total_cmp);
        let mut add = |figure: &str, value: Value| drop(figures.insert(format!("{what}: {figure}"), value));
        add("p50 ms", json!(quantile(&each, 0.5)));
        add("p99 ms", json!(quantile(&each, 0.99)));
        add("everywhere ms", json!(quantile(&all, 0.5)));
        add("pushes", json!(pushes / changes));
        add("resources", json!(resources / changes));
        add("bytes", json!(bytes / changes));
        add("CPU ms", each_ms(cpu));
        add("CPU ms of the proxies", each_ms(proxies));
        Ok(())
    }

    fn make(&mut self, change: Change, turn: usize) -> Result<()> {
        match change {
            Change::Guardrail => self.mesh.write_guardrail(turn),
            Change::Policies => self.mesh.write_policies(0, ["POST", "PUT"][turn % 2]),
            Change::Endpoint => {
                let port = 20_000 + u16::try_from(turn)?;
                self.subscribe(Role { port, ..role(0, self.size) });
                Ok(())
            }
        }
    }
}

/// The first proxy is alone in the last service, and the next ten alone call it: what a change of it costs must not depend on how
/// many others there are. The others are spread over the other services, and call five of them each.
fn role(number: usize, size: Size) -> Role {
    let last = size.services - 1;
    let service = if number == 0 { last } else { (number - 1) % last };
    let mut calls: Vec<_> =
        (1..=5).map(|step| format!("shop/{}", name((service + step * 7) % last))).collect();
    if (1..=CALLERS).contains(&number) {
        calls.push(format!("shop/{}", name(last)));
    }
    Role { number, service: name(service), calls, port: 15_106 }
}

fn enter(
    enrolled: Option<Result<Result<(usize, Credentials)>, tokio::task::JoinError>>,
    own: &mut [Option<Arc<Credentials>>],
) -> Result<()> {
    if let Some(enrolled) = enrolled {
        let (number, credentials) = enrolled??;
        own[number] = Some(Arc::new(credentials));
    }
    Ok(())
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}

/// Who calls the service whose endpoint changes.
const CALLERS: usize = 10;
const AT_A_TIME: usize = 64;
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(17);

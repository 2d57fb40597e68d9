//! What leaves the mesh: takes what the application wants of somebody who is no service, hands on a [`Leave`] with the
//! addresses that policy lets it go to. `upstream::outside` takes nothing else. A name is looked up here and nowhere else:
//! where the application has got its address from, nobody knows. Refuses what no rule names, and every address of a
//! service, which is reached over mutual TLS or not at all.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use sidegate_codes::Code;
use sidegate_policy::{self as policy, Named, Outside};

use crate::{
    authorize::{self, Denial, JUDGE_AGAIN, judgement, shadow},
    error::Error,
    snapshot::{EgressDefault, Reader, Snapshot},
    telemetry::{Judgement, Verdict},
    worker::Worker,
};

/// Something was judged and may leave the mesh. Made here alone; given up to `upstream::outside` alone.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    asked: Asked,
    /// At least one; each was judged.
    addresses: Arc<[SocketAddr]>,
    judgement: Judgement,
}

/// What the application asks for.
#[derive(Clone, Debug)]
struct Asked {
    name: Option<Name>,
    port: u16,
}

/// A name, and how it is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Name {
    /// As the host of a request or of a `CONNECT`, in its one form.
    Host(Box<str>),
    /// As the server name of the application's own TLS, in lower case.
    ServerName(Box<str>),
}

/// A connection that goes to an address and asks for nothing by name.
pub(crate) fn to_address(address: SocketAddr, snapshot: &Snapshot) -> Result<Leave, Error> {
    let address = canonical(address);
    let asked = Asked { name: None, port: address.port() };
    match asked.judge_address(address, snapshot) {
        Ok(judgement) => Ok(Leave { asked, addresses: [address].into(), judgement }),
        // Where no policy speaks of egress, the address is simply nobody's.
        Err(_) if !snapshot.egress.selects() => Err(Error::UnknownDestination(address)),
        Err(denial) => Err(Error::Denied(Box::new(denial))),
    }
}

/// What asks for a name. `going_to`: where a captured connection was going, which is taken for no address of the name's.
pub(crate) async fn to_name(
    name: Name,
    port: u16,
    going_to: Option<SocketAddr>,
    worker: &Worker,
) -> Result<Leave, Error> {
    if let Some(ip) = name.as_address() {
        let asked_for = SocketAddr::new(ip, port);
        return match to_address(going_to.unwrap_or(asked_for), &worker.mesh.load()) {
            Err(Error::UnknownDestination(_)) if going_to.is_none() => {
                Err(Error::UnknownHost(asked_for.to_string()))
            }
            judged => judged,
        };
    }
    let asked = Asked { name: Some(name), port };
    if let Err(denial) = asked.judge_name(&worker.mesh.load()) {
        let snapshot = worker.mesh.load();
        return match (going_to, snapshot.egress_default) {
            (Some(address), EgressDefault::Allow) => to_address(address, &snapshot),
            (Some(address), EgressDefault::Deny) if !snapshot.egress.selects() => {
                Err(Error::UnknownDestination(address))
            }
            (None, EgressDefault::Deny) if !snapshot.egress.selects() => {
                Err(Error::UnknownHost(asked.to_string()))
            }
            (None, EgressDefault::Allow) => {
                drop(snapshot);
                asked.look_up(worker).await
            }
            (_, EgressDefault::Deny) => Err(Error::Denied(Box::new(denial))),
        };
    }
    asked.look_up(worker).await
}

/// Whether a connection to the port has to be read to know whether it may leave.
pub(crate) fn reads_names(port: u16, snapshot: &Snapshot) -> bool {
    snapshot.is_complete && snapshot.egress.reads_names(port, authorize::now())
}

impl Leave {
    /// Where to; at least one.
    pub(crate) fn addresses(&self) -> &Arc<[SocketAddr]> {
        &self.addresses
    }

    /// What connections may be shared by.
    pub(crate) fn name(&self) -> String {
        self.asked.to_string()
    }

    /// As it is recorded.
    pub(crate) fn judgement(&self) -> Judgement {
        self.judgement.clone()
    }

    /// Whether it leaves only because what no rule names is let out.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.judgement.verdict == Verdict::WouldDeny
    }

    /// Ends when it may go on no longer: it is judged anew at each change and each second, since rules expire without one.
    pub(crate) async fn until_denied(&self, mut changes: Reader) -> Error {
        loop {
            if let Some(denial) = self.denial(&changes.load()) {
                return Error::Denied(Box::new(Denial { code: Code::CutByPolicy, ..denial }));
            }
            tokio::select! {
                () = changes.changed() => {}
                () = tokio::time::sleep(JUDGE_AGAIN) => {}
            }
        }
    }

    /// Why it may not go on, if it may not: one of its addresses is enough, since nobody knows to which it went.
    pub(crate) fn denial(&self, snapshot: &Snapshot) -> Option<Denial> {
        self.addresses.iter().find_map(|address| self.asked.judge_address(*address, snapshot).err())
    }
}

impl Asked {
    /// Each address is judged by itself, under what is in force once they are known.
    async fn look_up(self, worker: &Worker) -> Result<Leave, Error> {
        let forward = self.to_string().parse().map_err(|_| Error::UnknownHost(self.to_string()))?;
        let found = worker.outside.addresses(&forward).await?;
        let snapshot = worker.mesh.load();
        let mut permitted = Vec::new();
        let mut refused = None;
        for address in found.iter().map(|address| canonical(*address)) {
            match self.judge_address(address, &snapshot) {
                Ok(judgement) => permitted.push((address, judgement)),
                Err(denial) => refused = refused.or(Some(denial)),
            }
        }
        let Some((_, judgement)) = permitted.first() else {
            let unknown = || Error::UnknownHost(self.to_string());
            return Err(refused.map_or_else(unknown, |denial| Error::Denied(Box::new(denial))));
        };
        let judgement = judgement.clone();
        // Of another rule is of another record.
        permitted.retain(|(_, other)| *other == judgement);
        let addresses = permitted.into_iter().map(|(address, _)| address).collect();
        Ok(Leave { asked: self, addresses, judgement })
    }

    fn judge_name(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let id = snapshot.own_id();
        let outside = self.as_policy_reads_it(id.as_ref());
        let decision = snapshot.egress.judge_name(&outside);
        match decision.verdict {
            policy::Verdict::Allow if snapshot.is_complete => Ok(()),
            _ => Err(denial(&decision, self, snapshot.egress.nearest(&outside, None, false))),
        }
    }

    fn judge_address(&self, address: SocketAddr, snapshot: &Snapshot) -> Result<Judgement, Denial> {
        let id = snapshot.own_id();
        let outside = self.as_policy_reads_it(id.as_ref());
        let (ip, in_mesh) = (address.ip(), snapshot.called_at.has_workload_at(address.ip()));
        let decision = snapshot.egress.judge_address(&outside, ip, in_mesh);
        if !snapshot.is_complete || snapshot.called_at.is_claimed(address) {
            // As long as the mesh has not told what is its own, any address may be.
            let nearest = "an address of a service, or not known not to be".to_owned();
            return Err(denial(&decision, &address, Some(nearest)));
        }
        match (decision.verdict, snapshot.egress_default) {
            (policy::Verdict::Allow, _) => Ok(judgement(&decision, Verdict::Allowed)),
            (policy::Verdict::Deny, EgressDefault::Allow) if !in_mesh && policy::is_public(ip) => {
                Ok(judgement(&decision, Verdict::WouldDeny))
            }
            (policy::Verdict::Deny, _) => {
                let nearest = snapshot.egress.nearest(&outside, Some(ip), in_mesh);
                Err(denial(&decision, &address, nearest))
            }
        }
    }

    fn as_policy_reads_it<'a>(&'a self, identity: Option<&'a sidegate_identity::SpiffeId>) -> Outside<'a> {
        let name = self.name.as_ref().map(|name| match name {
            Name::Host(host) => Named::Host(host),
            Name::ServerName(name) => Named::ServerName(name),
        });
        Outside { identity, name, port: self.port, now: authorize::now() }
    }
}

impl Name {
    /// An address in place of a name is an address.
    fn as_address(&self) -> Option<IpAddr> {
        let (Self::Host(text) | Self::ServerName(text)) = self;
        text.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

/// `name:port`; of a connection without a name the port alone says nothing, and its address is shown in its place.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(Name::Host(name) | Name::ServerName(name)) => write!(f, "{name}:{}", self.port),
            None => write!(f, "port {}", self.port),
        }
    }
}

/// `api.test:443 at 203.0.113.7:443`
impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.addresses.first() else { return self.asked.fmt(f) };
        match &self.asked.name {
            Some(_) => write!(f, "{} at {first}", self.asked),
            None => first.fmt(f),
        }
    }
}

/// An IPv4-mapped address is the IPv4 address, for services and for policies alike.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Says where to beside why not: nothing else in the record does.
fn denial(decision: &policy::Decision<'_>, to: &dyn fmt::Display, nearest: Option<String>) -> Denial {
    let nearest = nearest.unwrap_or_else(|| "no rule is for this workload".to_owned());
    let denial = Denial::of(Code::EgressDenied, format!("{to}: {nearest}"));
    Denial { shadow: decision.shadow.map(shadow), ..denial }
}

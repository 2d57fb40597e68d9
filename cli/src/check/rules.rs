//! What a healthy mesh looks like: documents and the time in, one [`Check`] per rule or finding out. Pure.

use sidegate_codes::Code;
use time::{Duration, OffsetDateTime};

use super::{Check, Documents};
use crate::{api, short, status::error_text};

/// Judges everything, in the order in which it is shown.
pub(super) fn judge(documents: &Documents, now: OffsetDateTime) -> Vec<Check> {
    let Documents { status, proxies, edges } = documents;
    let mut checks = vec![root(&status.root, now)];
    checks.extend(status.rotation.as_ref().and_then(|rotation| blocked(rotation, now)));
    checks.extend(status.registry.as_ref().map(registry));
    checks.extend(policies(&status.policies));
    checks.extend(mesh(&status.mesh));
    checks.push(enforcement(status));
    checks.extend(connected(proxies));
    checks.extend(in_force(proxies));
    checks.extend(certificates(proxies, now));
    checks.extend(ledger(status.ledger));
    checks.extend(callable(proxies, edges));
    checks.extend(server_identities(edges));
    checks.extend(plaintext(edges));
    checks
}

fn root(root: &api::Root, now: OffsetDateTime) -> Check {
    let left = short::left(root.not_after, now);
    if root.offline {
        return intermediate(root, now);
    }
    if root.not_after <= now {
        Check::failed(CONTROL_PLANE, format!("the trust root {left}"))
            .why("no certificate under it is valid any more")
            .fix("bring a new root; every sidecar must get the new bundle")
            .code(Code::CertificateNotValidNow)
    } else if root.not_after - now < ROOT_WARNING {
        Check::warning(CONTROL_PLANE, format!("the trust root is valid for {left} only"))
            .why("every certificate of the mesh ends with it")
            .fix("rotate the root before then")
            .code(Code::CertificateNotValidNow)
    } else {
        Check::ok(CONTROL_PLANE, format!("trust root valid for {left}"))
    }
}

fn blocked(rotation: &api::Rotation, now: OffsetDateTime) -> Option<Check> {
    (rotation.overdue_seconds > 0).then(|| {
        let waits = short::ago(rotation.since, now);
        let name = format!(
            "the root's rotation is in phase {} since {waits}, for {} certificates",
            rotation.phase, rotation.blockers
        );
        Check::warning(CONTROL_PLANE, name).code(Code::RotationBlocked)
    })
}

fn registry(registry: &api::Registry) -> Check {
    let place = &registry.place;
    if registry.active {
        Check::ok(CONTROL_PLANE, format!("it issues, and records it: {place}"))
    } else {
        Check::failed(CONTROL_PLANE, format!("the registry is out of reach: {place}"))
            .code(Code::RegistryUnreachable)
    }
}

/// Renewed by hand, so a third of its life is early enough to say so.
fn intermediate(root: &api::Root, now: OffsetDateTime) -> Check {
    let left = short::left(root.not_after, now);
    let life = root.not_before.map_or(Duration::ZERO, |begun| root.not_after - begun);
    if root.not_after <= now {
        Check::failed(CONTROL_PLANE, format!("the intermediate {left}")).code(Code::IntermediateEnding)
    } else if root.not_after - now < life / 3 {
        Check::warning(CONTROL_PLANE, format!("the intermediate is valid for {left} only"))
            .code(Code::IntermediateEnding)
    } else {
        Check::ok(CONTROL_PLANE, format!("intermediate under an offline root, valid for {left}"))
    }
}

fn policies(policies: &api::PolicySet) -> Vec<Check> {
    let Some(errors) = &policies.last_error else {
        return vec![Check::ok(CONFIGURATION, format!("{} policies, all of them in force", policies.count))];
    };
    stale(errors, "the newest policies were refused; the last good set stays in force", Code::PolicyStale)
}

fn mesh(mesh: &api::MeshFile) -> Vec<Check> {
    let Some(errors) = &mesh.last_error else {
        return vec![Check::ok(CONFIGURATION, "mesh.yaml is in force as written")];
    };
    stale(errors, "the newest mesh.yaml was refused; the last good one stays in force", Code::ConfigStale)
}

/// One failed check for each place, under the file's own code where this release knows it.
fn stale(errors: &[api::FileError], name: &str, code: Code) -> Vec<Check> {
    let mut checks = vec![Check::failed(CONFIGURATION, name).code(code)];
    checks.extend(errors.iter().map(|error| {
        let check = Check::failed(CONFIGURATION, error_text(error));
        match error.code.parse::<Code>() {
            Ok(code) => check.code(code),
            Err(_) => check,
        }
    }));
    checks
}

fn enforcement(status: &api::Status) -> Check {
    if status.enforcement.eq_ignore_ascii_case("enforce") {
        Check::ok(CONFIGURATION, "policies are enforced")
    } else {
        Check::warning(CONFIGURATION, "policies are observed, not enforced")
            .why("`enforcement: Observe` admits what policies deny, and records it")
            .fix(
                "when `sidegate get edges` shows no would_deny any more: `enforcement: Enforce` in mesh.yaml",
            )
    }
}

fn connected(proxies: &api::Proxies) -> Vec<Check> {
    let total = proxies.proxies.len();
    let gone: Vec<_> = proxies.proxies.iter().filter(|proxy| !proxy.connected).collect();
    if total == 0 {
        return vec![
            Check::warning(DATA_PLANE, "no sidecar is registered")
                .why("nothing is protected yet")
                .fix("sidegate proxy --config sidecar.yaml"),
        ];
    }
    if gone.is_empty() {
        return vec![Check::ok(DATA_PLANE, format!("{total} of {total} sidecars connected"))];
    }
    gone.into_iter()
        .map(|proxy| {
            let name = short::identity(Some(&proxy.identity));
            Check::failed(DATA_PLANE, format!("{name} is not connected")).code(Code::ControlPlaneUnreachable)
        })
        .collect()
}

fn in_force(proxies: &api::Proxies) -> Vec<Check> {
    let mut checks: Vec<Check> = proxies.proxies.iter().filter_map(refused).collect();
    checks.extend(proxies.proxies.iter().filter_map(behind));
    if checks.is_empty() && proxies.proxies.iter().any(|proxy| proxy.connected) {
        checks.push(Check::ok(DATA_PLANE, "the newest configuration is in force in every connected sidecar"));
    }
    checks
}

fn refused(proxy: &api::Proxy) -> Option<Check> {
    let nack = proxy.nack.as_ref()?;
    let name = short::identity(Some(&proxy.identity));
    let why = format!("{}: {} ({}); version {} stays", nack.path, nack.message, nack.code, proxy.acked);
    Some(
        Check::failed(DATA_PLANE, format!("{name} refused version {}", nack.version))
            .why(why)
            .code(Code::SnapshotRefused),
    )
}

/// A moment's lag is ordinary, so this is a warning.
fn behind(proxy: &api::Proxy) -> Option<Check> {
    (proxy.connected && proxy.nack.is_none() && proxy.acked != proxy.version).then(|| {
        let name = short::identity(Some(&proxy.identity));
        Check::warning(
            DATA_PLANE,
            format!("{name} has version {} of {} in force", proxy.acked, proxy.version),
        )
        .why("the update is under way, or the sidecar does not answer")
        .fix("run the check again; if it stays, look at the sidecar's log")
    })
}

fn certificates(proxies: &api::Proxies, now: OffsetDateTime) -> Vec<Check> {
    let late: Vec<Check> = proxies.proxies.iter().filter_map(|proxy| late_renewal(proxy, now)).collect();
    if late.is_empty() && !proxies.proxies.is_empty() {
        return vec![Check::ok(DATA_PLANE, "certificates are renewed in time")];
    }
    late
}

/// Renewal begins at half life; with a quarter left it has been failing for a while.
fn late_renewal(proxy: &api::Proxy, now: OffsetDateTime) -> Option<Check> {
    let certificate = proxy.certificate.as_ref().filter(|_| proxy.connected)?;
    let remaining = certificate.not_after - now;
    let life = certificate.issued_at.map_or(UNKNOWN_LIFE, |issued| certificate.not_after - issued);
    let name = short::identity(Some(&proxy.identity));
    let left = short::left(certificate.not_after, now);
    if remaining <= Duration::ZERO {
        Some(Check::failed(DATA_PLANE, format!("{name}: certificate {left}")).code(Code::NoCredentials))
    } else if remaining < life / 4 {
        Some(
            Check::warning(DATA_PLANE, format!("{name}: certificate ends in {left}"))
                .code(Code::RenewalFailed),
        )
    } else {
        None
    }
}

fn ledger(ledger: api::Ledger) -> Option<Check> {
    (ledger.dropped > 0).then(|| {
        Check::warning(DATA_PLANE, format!("the ledger dropped {} observations", ledger.dropped))
            .why("more distinct edges were seen than its limit allows, so lists of edges are incomplete")
            .fix("look for one source that calls very many destinations: `sidegate get edges`")
    })
}

/// A listener for an unknown service is found before anybody calls it; one without endpoints when somebody does.
fn callable(proxies: &api::Proxies, edges: &api::Edges) -> Vec<Check> {
    let mut checks: Vec<Check> = proxies.proxies.iter().flat_map(unknown_services).collect();
    checks.extend(with_code(edges, Code::NoEndpoints).map(|edge| {
        let name = format!("{}: {}", call(edge), Code::NoEndpoints.title());
        Check::failed(SECURITY, name).code(Code::NoEndpoints)
    }));
    if checks.is_empty() {
        checks.push(Check::ok(SECURITY, "every service that is called is known and has endpoints"));
    }
    checks
}

fn unknown_services(proxy: &api::Proxy) -> impl Iterator<Item = Check> {
    let name = short::identity(Some(&proxy.identity));
    proxy.unknown_services.iter().map(move |service| {
        Check::failed(SECURITY, format!("{name} has a listener for {service}, which is unknown"))
            .code(Code::UnknownService)
    })
}

fn server_identities(edges: &api::Edges) -> Vec<Check> {
    with_code(edges, Code::UnexpectedServerIdentity)
        .map(|edge| {
            Check::warning(SECURITY, format!("{}: {} refused", call(edge), times(edge.count)))
                .code(Code::UnexpectedServerIdentity)
        })
        .collect()
}

fn plaintext(edges: &api::Edges) -> Vec<Check> {
    let seen = || edges.edges.iter().filter(|edge| edge.tls == "plaintext" && edge.direction == "inbound");
    let (admitted, refused): (Vec<_>, Vec<_>) =
        seen().partition(|edge| matches!(&*edge.verdict, "allowed" | "would_deny"));
    let (excepted, admitted): (Vec<_>, Vec<_>) = admitted.into_iter().partition(|edge| edge.policy.is_some());
    let is_none = excepted.is_empty() && admitted.is_empty();
    let mut checks: Vec<Check> = admitted
        .into_iter()
        .map(|edge| {
            Check::failed(SECURITY, format!("{}: plaintext, admitted {}", call(edge), times(edge.count)))
                .why("nobody proved who called, and the bytes can be read and changed on the way")
                .code(Code::PlaintextRefused)
        })
        .collect();
    checks.extend(excepted.into_iter().map(|edge| {
        let by = match edge.policy.as_deref().filter(|_| edge.verdict == "allowed") {
            Some(policy) => format!("the exception {policy}"),
            None => "an exception, because denials are only observed".to_owned(),
        };
        let what = format!("{}: plaintext, admitted {} by {by}", call(edge), times(edge.count));
        Check::warning(SECURITY, what)
            .why("an exception is for callers that cannot have an identity: nobody proved who called")
    }));
    if is_none {
        checks.push(Check::ok(SECURITY, "no plaintext was admitted in the last 10 minutes"));
    }
    checks.extend(refused.into_iter().map(|edge| {
        Check::warning(SECURITY, format!("{}: plaintext, refused {}", call(edge), times(edge.count)))
            .code(Code::PlaintextRefused)
    }));
    checks
}

fn with_code(edges: &api::Edges, code: Code) -> impl Iterator<Item = &api::Edge> {
    edges.edges.iter().filter(move |edge| edge.code.as_deref() == Some(code.id()))
}

/// `shop/web to shop/orders:8080`.
fn call(edge: &api::Edge) -> String {
    let (source, destination) =
        (short::identity(edge.source.as_deref()), short::identity(edge.destination.as_deref()));
    format!("{source} to {destination}:{}", edge.port)
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

const CONTROL_PLANE: &str = "control plane";
const CONFIGURATION: &str = "configuration";
const DATA_PLANE: &str = "data plane";
const SECURITY: &str = "security";

/// Long enough to plan a root rotation.
const ROOT_WARNING: Duration = Duration::days(30);

/// Of a certificate that does not say when it was issued: the default life of a leaf.
const UNKNOWN_LIFE: Duration = Duration::hours(6);

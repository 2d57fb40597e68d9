//! `sidegate status`, and `sidegate` alone: the control plane's own account of the mesh in ten lines, and what to
//! do next. Reads `/v1/status` and `/v1/proxies`.

use std::fmt::Write;

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    api::{self, client::Client},
    args::Read,
    exit::Exit,
    failure::Failure,
    get, short,
    table::{self, Format},
    terminal::{Charset, Paint, paint},
};

/// Prints the state of the mesh. Findings do not change the exit code: `sidegate check` judges.
pub(crate) fn run(read: &Read) -> Result<Exit, Failure> {
    let client = Client::new(read.api.clone());
    let (status, proxies) = block_on(fetch(&client))??;
    let now = OffsetDateTime::now_utc();
    match read.output.output {
        Format::Json => {
            table::print_json("Status", Body { status: &status, next: next_step(&status, &proxies) })?;
        }
        Format::Table => table::print(&text(&status, &proxies, now, Charset::from_env()))?,
        Format::Wide => {
            let mut wide = text(&status, &proxies, now, Charset::from_env());
            wide.push('\n');
            wide.push_str(&get::proxies_wide(&proxies, now));
            table::print(&wide)?;
        }
    }
    Ok(Exit::Ok)
}

/// Runs one reading command's future on a small runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(future))
        .map_err(|error| {
            Failure::new(
                Exit::Findings,
                "the runtime cannot start",
                error.to_string(),
                "check the limits of open files: `ulimit -n`",
            )
        })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(flatten)]
    status: &'a api::Status,
    next: &'static str,
}

async fn fetch(client: &Client) -> Result<(api::Status, api::Proxies), Failure> {
    Ok((client.get("/v1/status").await?, client.get("/v1/proxies").await?))
}

fn text(status: &api::Status, proxies: &api::Proxies, now: OffsetDateTime, charset: Charset) -> String {
    let mut text = String::new();
    for (level, label, value) in lines(status, proxies, now) {
        let mark = paint(level, charset.mark(level));
        let _ = writeln!(text, "{mark} {label:<15}{value}");
    }
    let _ = writeln!(text, "{}  {}", paint(Paint::Dim, "next"), next_step(status, proxies));
    text
}

/// Eight lines: with the next step fewer than ten, unless files have several errors.
fn lines(
    status: &api::Status,
    proxies: &api::Proxies,
    now: OffsetDateTime,
) -> Vec<(Paint, &'static str, String)> {
    let mut lines =
        vec![control_plane_line(status, now), enforcement_line(status), root_line(&status.root, now)];
    lines.extend(status.registry.as_ref().map(registry_line));
    lines.push(policies_line(&status.policies, now));
    lines.extend(error_lines(status.policies.last_error.as_deref()));
    if status.mesh.last_error.is_some() {
        lines.push((
            Paint::Bad,
            "mesh.yaml",
            "the newest was refused, the last good one is in force (SG0404)".to_owned(),
        ));
        lines.extend(error_lines(status.mesh.last_error.as_deref()));
    }
    lines.push(sidecars_line(status, proxies));
    lines
}

fn control_plane_line(status: &api::Status, now: OffsetDateTime) -> (Paint, &'static str, String) {
    let up = short::span(now - status.started_at);
    let value = format!("{}, up {up}, trust domain {}", status.version, status.trust_domain);
    (Paint::Good, "control plane", value)
}

fn enforcement_line(status: &api::Status) -> (Paint, &'static str, String) {
    let enforcing = status.enforcement.eq_ignore_ascii_case("enforce");
    let level = if enforcing { Paint::Good } else { Paint::Warn };
    (level, "enforcement", status.enforcement.clone())
}

fn root_line(root: &api::Root, now: OffsetDateTime) -> (Paint, &'static str, String) {
    let level = if root.not_after > now { Paint::Good } else { Paint::Bad };
    (level, "root", format!("valid for {}", short::left(root.not_after, now)))
}

fn registry_line(registry: &api::Registry) -> (Paint, &'static str, String) {
    if registry.active {
        return (Paint::Good, "registry", format!("{}, this control plane issues", registry.place));
    }
    (Paint::Bad, "registry", format!("{} is out of reach, so nothing is issued (SG0342)", registry.place))
}

fn policies_line(policies: &api::PolicySet, now: OffsetDateTime) -> (Paint, &'static str, String) {
    let set = match (&policies.digest, policies.loaded_at) {
        (Some(digest), Some(at)) => {
            let digest: String = digest.chars().take(12).collect();
            format!("{} in force, set {digest}, loaded {}", policies.count, short::ago(at, now))
        }
        _ => "none was ever loaded: everything is denied".to_owned(),
    };
    match policies.last_error {
        None => (Paint::Good, "policies", set),
        Some(_) => (Paint::Bad, "policies", format!("{set}; the newest were refused (SG0218)")),
    }
}

fn error_lines(errors: Option<&[api::FileError]>) -> Vec<(Paint, &'static str, String)> {
    let errors = errors.unwrap_or_default();
    let mut lines: Vec<_> =
        errors.iter().take(MAX_ERRORS).map(|error| (Paint::Bad, "", error_text(error))).collect();
    if errors.len() > MAX_ERRORS {
        lines.push((Paint::Bad, "", format!("and {} more: sidegate check", errors.len() - MAX_ERRORS)));
    }
    lines
}

/// `policies/a.yaml:7:13: spec.action: unknown action (SG0213)`.
pub(crate) fn error_text(error: &api::FileError) -> String {
    format!("{}: {} ({})", error.place(), error.message, error.code)
}

fn sidecars_line(status: &api::Status, proxies: &api::Proxies) -> (Paint, &'static str, String) {
    let api::Connected { connected, total } = status.proxies;
    let refused = proxies.proxies.iter().filter(|proxy| proxy.nack.is_some()).count();
    let behind =
        proxies.proxies.iter().filter(|p| p.connected && p.nack.is_none() && p.acked != p.version).count();
    let mut value = format!("{connected} of {total} connected");
    if refused > 0 {
        let _ = write!(value, ", {refused} refused an update (SG0405)");
    }
    if behind > 0 {
        let _ = write!(value, ", {behind} not yet at the newest version");
    }
    let level = if refused > 0 {
        Paint::Bad
    } else if connected < total || total == 0 || behind > 0 {
        Paint::Warn
    } else {
        Paint::Good
    };
    (level, "sidecars", value)
}

fn next_step(status: &api::Status, proxies: &api::Proxies) -> &'static str {
    let ill = status.registry.as_ref().is_some_and(|registry| !registry.active)
        || status.policies.last_error.is_some()
        || status.mesh.last_error.is_some()
        || status.proxies.connected < status.proxies.total
        || proxies.proxies.iter().any(|proxy| proxy.nack.is_some());
    if ill {
        "sidegate check"
    } else if status.proxies.total == 0 {
        "start a sidecar: sidegate proxy --config sidecar.yaml"
    } else {
        "sidegate get edges"
    }
}

/// Errors shown in full; `status` stays one screen.
const MAX_ERRORS: usize = 2;

#[cfg(test)]
mod tests;

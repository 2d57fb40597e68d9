//! The live table: who calls whom, the TLS state, the verdict and the rule behind it, redrawn each second on a
//! terminal; elsewhere a line every few seconds. Reads the control plane's API only.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::{Instant, interval};

use super::{
    feeds::Feed,
    parts::stranger::StrangerReport,
    say,
    stage::{Performers, Stage},
};
use crate::{
    api,
    exit::Exit,
    failure::Failure,
    get::decided_by,
    short,
    table::{columns, or_dash},
    terminal::{Charset, Paint, paint},
};

/// Shows the mesh at work until `until` has passed, a process ends, or the caller drops the future.
pub(super) async fn show(stage: &mut Stage, until: Option<Duration>) -> Result<Exit, Failure> {
    let performers = stage.perform()?;
    say(&format!("ready; policies to edit: {}", stage.folder.policies().display()));
    say(&format!("look around: sidegate check --api http://{}", stage.cast.api));
    let end = until.map(|until| Instant::now() + until);
    let mut view = View::of_stdout();
    let mut ticks = interval(view.every());
    loop {
        ticks.tick().await;
        if let Some((name, status)) = stage.children.ended() {
            say(&format!("{name} ended unexpectedly: {status}\n{}", stage.children.last_words(&name)));
            return Ok(Exit::Findings);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(Exit::Ok);
        }
        view.draw(stage, &performers).await?;
    }
}

/// How the state is shown.
enum View {
    /// Redrawn in place; dropping it gives the terminal back.
    Terminal { charset: Charset },
    /// A line each time.
    Lines,
}

impl View {
    fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines;
        }
        put(ENTER);
        Self::Terminal { charset: Charset::from_env() }
    }

    const fn every(&self) -> Duration {
        match self {
            Self::Terminal { .. } => Duration::from_secs(1),
            Self::Lines => Duration::from_secs(3),
        }
    }

    async fn draw(&mut self, stage: &Stage, performers: &Performers) -> Result<(), Failure> {
        match self {
            Self::Terminal { charset } => {
                let text = coloured_if_wanted(page(stage, performers, *charset).await);
                // Each line erases its own rest, so nothing flickers.
                let text = text.replace('\n', "\x1b[K\n");
                put(&format!("\x1b[H{text}\x1b[J"));
                Ok(())
            }
            Self::Lines => crate::table::print(&summary(performers)),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Self::Terminal { .. } = self {
            put(LEAVE);
        }
    }
}

async fn page(stage: &Stage, performers: &Performers, charset: Charset) -> String {
    let mut page = heading(stage, performers);
    match stage.api.get::<api::Edges>("/v1/edges?window=30s").await {
        Ok(edges) => page.push_str(&edges_table(&edges)),
        Err(failure) => _ = writeln!(page, "{}: {}", failure.what(), failure.why()),
    }
    page.push('\n');
    page.push_str(&strangers(performers, charset));
    if let Ok(proxies) = stage.api.get::<api::Proxies>("/v1/proxies").await {
        page.push_str(&certificates(&proxies, OffsetDateTime::now_utc()));
    }
    let _ = writeln!(page, "\n{}", paint(Paint::Dim, "Ctrl-C ends everything and leaves nothing behind"));
    page
}

fn heading(stage: &Stage, performers: &Performers) -> String {
    let report = performers.load.report();
    format!(
        "{}\n{} {}\n{} {}\n\n",
        paint(Paint::Strong, &format!("sidegate demo   {}", summary_text(&report))),
        paint(Paint::Dim, "policies to edit:"),
        stage.folder.policies().display(),
        paint(Paint::Dim, "look around:     "),
        format_args!("sidegate check --api http://{}", stage.cast.api),
    )
}

/// What the destinations' sidecars saw: they decide. What never reached one was seen by the source's alone.
fn edges_table(edges: &api::Edges) -> String {
    let mut rows: Vec<&api::Edge> =
        edges.edges.iter().filter(|edge| edge.direction == "inbound" || edge.verdict == "failed").collect();
    rows.sort_by(|a, b| b.rps.total_cmp(&a.rps).then_with(|| a.source.cmp(&b.source)));
    columns(
        ["SOURCE", "DESTINATION", "TLS", "VERDICT", "CODE", "POLICY/RULE", "REQ/S", "P50", "P99"],
        rows.into_iter().map(|edge| {
            [
                or_dash(edge.source.as_ref()),
                or_dash(edge.destination.as_ref()),
                edge.tls.clone(),
                edge.verdict.clone(),
                or_dash(edge.code.as_ref()),
                decided_by(edge),
                format!("{:.1}", edge.rps),
                short::millis(edge.p50_ms),
                short::millis(edge.p99_ms),
            ]
        }),
    )
}

fn strangers(performers: &Performers, charset: Charset) -> String {
    let line = |who: &str, feed: &Feed<StrangerReport>| {
        let report = feed.latest();
        let level = if report.refused == report.attempts { Paint::Good } else { Paint::Bad };
        let mark = paint(level, charset.mark(level));
        format!("{mark} {who}: {} of {} refused   {}\n", report.refused, report.attempts, report.latest)
    };
    line("certificate of a foreign CA", &performers.foreign) + &line("no certificate", &performers.anonymous)
}

fn certificates(proxies: &api::Proxies, now: OffsetDateTime) -> String {
    let ages: Vec<String> = proxies.proxies.iter().filter_map(|proxy| age(proxy, now)).collect();
    format!("certificates   {}\n", ages.join("   "))
}

/// `shop/web 3s of 30s`.
fn age(proxy: &api::Proxy, now: OffsetDateTime) -> Option<String> {
    let certificate = proxy.certificate.as_ref()?;
    let issued = certificate.issued_at?;
    let name = short::identity(Some(&proxy.identity));
    Some(format!("{name} {} of {}", short::span(now - issued), short::span(certificate.not_after - issued)))
}

fn summary(performers: &Performers) -> String {
    let (intruder, foreign, anonymous) =
        (performers.intruder.latest(), performers.foreign.latest(), performers.anonymous.latest());
    format!(
        "{}   intruder {:?}   foreign CA refused {}/{}   no certificate refused {}/{}\n",
        summary_text(&performers.load.report()),
        intruder.answers,
        foreign.refused,
        foreign.attempts,
        anonymous.refused,
        anonymous.attempts
    )
}

fn summary_text(report: &super::parts::load::LoadReport) -> String {
    format!(
        "{} requests answered, {} failed   p50 {:.1}ms p99 {:.1}ms",
        report.ok, report.failed, report.p50_ms, report.p99_ms
    )
}

fn coloured_if_wanted(text: String) -> String {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(&text).to_string(),
        _ => text,
    }
}

/// Past `anstream`, which under `NO_COLOR` would remove the cursor's movements too.
fn put(text: &str) {
    let mut out = std::io::stdout();
    // A terminal that is gone sends SIGHUP, which ends the demo.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The alternate screen, without a cursor and without wrapping: the shell's own lines come back at the end.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

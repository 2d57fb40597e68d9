//! What a control plane costs: a real one as a process of its own, and proxies that are simulated in this one over real gRPC and
//! real TLS with real certificates. Prints a table, and JSON where it is asked to. `benches/README.md` says what is measured.

mod issuing;
mod mesh;
mod plane;
mod proxy;
mod scale;

use std::{fs, io::Write, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use serde_json::{Map, Value};

/// What a control plane costs on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many proxies are connected, one mesh after the other
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000")]
    proxies: Vec<usize>,
    /// Services of the mesh
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Policies of each service
    #[arg(long, default_value_t = 10)]
    policies: usize,
    /// How often each change is made
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// How long certificates are issued and handshakes made
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Another build of `sidegate-control-plane` to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_sidegate-control-plane"))]
    program: PathBuf,
    /// Where the figures go besides
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(&arguments))?;
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Value> {
    let mut figures = Map::new();
    let issuing = issuing::measure(&arguments.program, arguments.services, arguments.seconds).await?;
    show("issuing", &issuing)?;
    figures.insert("issuing".to_owned(), Value::Object(issuing));
    for &proxies in &arguments.proxies {
        let size = scale::Size { proxies, services: arguments.services, policies: arguments.policies };
        let scale = scale::measure(&arguments.program, size, arguments.changes).await?;
        let name = format!("{proxies} proxies");
        show(&name, &scale)?;
        figures.insert(name, Value::Object(scale));
    }
    Ok(Value::Object(figures))
}

fn show(name: &str, figures: &Map<String, Value>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{name}")?;
    for (what, figure) in figures {
        writeln!(out, "  {what:<44} {figure}")?;
    }
    Ok(out.flush()?)
}

/// Each proxy is a descriptor here and one in the control plane, which inherits the limit.
fn raise_descriptors() -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?)
}

/// Of sorted figures, in their own unit, with one digit.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a position"
    )]
    let position = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    rounded(sorted.get(position).copied().unwrap_or(f64::NAN))
}

fn rounded(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

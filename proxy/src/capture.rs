//! Capture: what the configuration says about the workload's traffic becomes rules of the kernel, put in force in one
//! transaction, compared with what is there, or taken away. Touches nothing in the kernel but its own table or chains.
//! The data path knows nothing of this: it asks each connection where it was going (`orig_dst`).

pub(crate) mod command;

mod iptables;
mod nft;
mod rules;
mod start;
mod tool;

use sidegate_codes::Code;

use crate::config::{Config, ResolversUnknown};

pub(crate) use command::Args;

use rules::Chain;

/// The program that speaks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    /// Both families in one table.
    Nft,
    /// Where there is no nft: chains of our own in both families' tables.
    Iptables,
}

/// What `apply` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// The wanted rules are in force now.
    Changed,
    /// They had been before.
    Unchanged,
}

/// Why the rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// The file's author wants no capture, or has forgotten it.
    #[error("{0} has no `capture` section: nothing says what to capture")]
    NotConfigured(String),
    /// The file leaves the resolvers to the system, which does not name them.
    #[error(transparent)]
    Resolvers(#[from] ResolversUnknown),
    /// The caller lacks a privilege.
    #[error(
        "CAP_NET_ADMIN is missing: only root, or a container with this capability, reads and changes rules"
    )]
    Privilege,
    /// Neither program is installed.
    #[error("neither nft nor iptables-restore and ip6tables-restore can be found: install nftables")]
    NoBackend,
    /// The rules are in force; the process cannot become the sidecar.
    #[error("the rules are in force, and the sidecar cannot be started: {0}")]
    NotStarted(std::io::Error),
    /// The program ran and refused.
    #[error("`{command}` failed: {said}")]
    Tool {
        /// As it was called.
        command: String,
        /// What it said, or how it ended.
        said: String,
    },
}

impl CaptureError {
    /// The code that a person looks up.
    fn code(&self) -> Code {
        match self {
            Self::NotConfigured(_) | Self::Resolvers(_) => Code::ConfigBadValue,
            Self::Privilege | Self::NoBackend | Self::NotStarted(_) | Self::Tool { .. } => {
                Code::CaptureFailed
            }
        }
    }
}

/// The rules that `config` asks for.
fn wanted(config: &Config, file: &str) -> Result<Vec<Chain>, CaptureError> {
    let capture = config.capture.as_ref().ok_or_else(|| CaptureError::NotConfigured(file.to_owned()))?;
    Ok(rules::of(config, capture, &capture.resolvers()?))
}

impl Backend {
    /// nft where it is installed, else iptables.
    async fn found() -> Result<Self, CaptureError> {
        if tool::is_there("nft").await {
            return Ok(Self::Nft);
        }
        iptables::tools().await.map(|_| Self::Iptables)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }

    /// The script that puts `chains` in force.
    fn script(self, chains: &[Chain]) -> String {
        match self {
            Self::Nft => nft::script(chains),
            Self::Iptables => iptables::script(chains),
        }
    }

    /// Rules that are in force already are left alone, with their counters.
    async fn apply(self, chains: &[Chain]) -> Result<Applied, CaptureError> {
        if self.differences(chains).await?.is_empty() {
            return Ok(Applied::Unchanged);
        }
        match self {
            Self::Nft => nft::apply(chains).await?,
            Self::Iptables => iptables::apply(chains).await?,
        }
        Ok(Applied::Changed)
    }

    /// What in the kernel is not as wanted, one line each.
    async fn differences(self, chains: &[Chain]) -> Result<Vec<String>, CaptureError> {
        match self {
            Self::Nft => nft::differences(chains).await,
            Self::Iptables => iptables::differences(chains).await,
        }
    }
}

/// Compares rules as their own tool prints them, chain by chain.
fn differences_of(chain: &str, wanted: &[String], present: &[String]) -> Vec<String> {
    if wanted == present {
        return Vec::new();
    }
    let missing = wanted.iter().filter(|rule| !present.contains(rule));
    let strange = present.iter().filter(|rule| !wanted.contains(rule));
    let mut differences: Vec<String> = missing.map(|rule| format!("{chain}: missing: {rule}")).collect();
    differences.extend(strange.map(|rule| format!("{chain}: not wanted: {rule}")));
    if differences.is_empty() {
        differences.push(format!("{chain}: its rules are in another order, or one is there twice"));
    }
    differences
}

//! Where a connection comes from, and whom its limits are counted for.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Network(SocketAddr),
    /// From this host, at the unix socket.
    Local(LocalProcess),
}

/// A process of this host, as the kernel named it when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalProcess {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// For the record alone: by now it may be the number of another. `None`: it is in another namespace.
    pub(crate) pid: Option<i32>,
}

/// Whom a limit is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Address(IpAddr),
    User(u32),
}

impl Origin {
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Network(address) => Source::Address(address.ip().to_canonical()),
            Self::Local(process) => Source::User(process.uid),
        }
    }

    /// Where its host is, as far as can be seen from here.
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Network(address) => address.ip(),
            Self::Local(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Local(LocalProcess { uid, gid, pid: Some(pid) }) => {
                write!(f, "uid {uid}, gid {gid}, pid {pid}")
            }
            Self::Local(LocalProcess { uid, gid, pid: None }) => write!(f, "uid {uid}, gid {gid}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(uid) => write!(f, "uid {uid}"),
        }
    }
}

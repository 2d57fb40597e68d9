//! Whose processes on the control plane's host are workloads of which service. A process has one identity: users that
//! overlap are refused, and so are numbers by which the kernel names nobody in particular.

use schemars::JsonSchema;
use serde::Deserialize;

/// A user of the control plane's host, as the kernel names the owner of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalUser {
    /// The number of the user.
    pub uid: u32,
    /// The number of the group that the process runs under. Absent: any.
    #[serde(default)]
    pub gid: Option<u32>,
}

impl LocalUser {
    /// Whether a process of this user and group is meant.
    pub(crate) fn covers(self, uid: u32, gid: u32) -> bool {
        self.uid == uid && self.gid.is_none_or(|wanted| wanted == gid)
    }

    /// Whether a process could be of both.
    fn overlaps(self, other: Self) -> bool {
        let same_group = match (self.gid, other.gid) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        self.uid == other.uid && same_group
    }

    fn is_nobody(self) -> bool {
        [Some(self.uid), self.gid].into_iter().flatten().any(|number| matches!(number, OVERFLOW | u32::MAX))
    }
}

/// The users of the services that were looked at so far.
pub(super) struct ListedUsers {
    has_socket: bool,
    users: Vec<LocalUser>,
}

impl ListedUsers {
    /// `has_socket`: whether they could connect at all.
    pub(super) fn new(has_socket: bool) -> Self {
        Self { has_socket, users: Vec::new() }
    }

    /// Or why it cannot be listed.
    pub(super) fn add(&mut self, user: LocalUser) -> Result<(), String> {
        if !self.has_socket {
            return Err("without `listen.socket` no process can prove whose it is".to_owned());
        }
        if user.is_nobody() {
            return Err(format!(
                "{OVERFLOW} is whom the kernel shows for everybody of another user namespace, and {} for nobody",
                u32::MAX
            ));
        }
        // Two services with one user would make the attested identity a matter of order.
        if self.users.iter().any(|other| other.overlaps(user)) {
            return Err("a process of this user is listed already: it has one identity".to_owned());
        }
        self.users.push(user);
        Ok(())
    }
}

/// Of users and groups: the kernel's default, and "nobody" of most distributions.
const OVERFLOW: u32 = 65_534;

//! The requests of one worker that were admitted and are still open: judged again, all in one walk, at each change and
//! each second, and cut with `SG0207` when they would be refused now. A request costs a place in a list and no timer.

use std::{cell::RefCell, rc::Rc};

use sidegate_codes::Code;

use super::{Asked, Caller, Denial, JUDGE_AGAIN, consent::is_current, judge};
use crate::{
    egress::Leave,
    error::Error,
    http::Flow,
    identity::Client,
    snapshot::{Reader, Snapshot},
};

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Open(RefCell<Places>);

/// A place in it; given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Rc<Open>,
    index: usize,
}

#[derive(Debug, Default)]
struct Places {
    taken: Vec<Option<Admitted>>,
    free: Vec<usize>,
}

/// One request, as it was judged.
#[derive(Debug)]
struct Admitted {
    what: What,
    flow: Rc<Flow>,
}

#[derive(Debug)]
enum What {
    /// To the application.
    Asked {
        client: Rc<Client>,
        ip: std::net::IpAddr,
        port: u16,
        protocol: crate::config::Protocol,
        asked: Asked,
    },
    /// Out of the mesh.
    Leaving(Leave),
}

impl Open {
    /// Watches what `client` has just been admitted for. No await may lie between the verdict and this call: on its one thread
    /// nothing can then change in between unseen.
    pub(crate) fn enter(
        self: &Rc<Self>,
        caller: Caller<'_>,
        client: &Rc<Client>,
        asked: Asked,
        flow: Rc<Flow>,
    ) -> Place {
        let Caller { ip, port, protocol, .. } = caller;
        let what = What::Asked { client: Rc::clone(client), ip, port, protocol, asked };
        self.take(Admitted { what, flow })
    }

    /// Watches a request that has just been let out of the mesh, likewise.
    pub(crate) fn enter_leaving(self: &Rc<Self>, leave: Leave, flow: Rc<Flow>) -> Place {
        self.take(Admitted { what: What::Leaving(leave), flow })
    }

    fn take(self: &Rc<Self>, admitted: Admitted) -> Place {
        let admitted = Some(admitted);
        let mut places = self.0.borrow_mut();
        let index = if let Some(index) = places.free.pop() {
            places.taken[index] = admitted;
            index
        } else {
            places.taken.push(admitted);
            places.taken.len() - 1
        };
        Place { open: Rc::clone(self), index }
    }

    /// Judges what is open at each change, and each second, since rules expire without one. Never ends.
    pub(crate) async fn judge_again(self: Rc<Self>, mut changes: Reader) {
        loop {
            tokio::select! {
                () = changes.changed() => {}
                () = tokio::time::sleep(JUDGE_AGAIN) => {}
            }
            self.cut_denied(&changes.load());
        }
    }

    fn cut_denied(&self, snapshot: &Snapshot) {
        for admitted in self.0.borrow().taken.iter().flatten() {
            if let Some(denial) = admitted.denial(snapshot) {
                // Wakes and does no more, so nothing reaches back into the list.
                admitted.flow.cut(Denial { code: Code::CutByPolicy, ..denial });
            }
        }
    }
}

impl Admitted {
    fn denial(&self, snapshot: &Snapshot) -> Option<Denial> {
        let (client, ip, port, protocol, asked) = match &self.what {
            What::Leaving(leave) => return leave.denial(snapshot),
            What::Asked { client, ip, port, protocol, asked } => (client, ip, port, protocol, asked),
        };
        let caller = Caller { client, ip: *ip, port: *port, protocol: *protocol, sni: None };
        let judged = is_current(asked.external.as_ref(), *port, snapshot)
            .and_then(|()| judge(caller, Some(asked.http()), snapshot));
        match judged {
            Err(Error::Denied(denial)) => Some(*denial),
            _ => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.open.0.borrow_mut();
        places.taken[self.index] = None;
        places.free.push(self.index);
    }
}

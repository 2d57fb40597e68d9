//! That nobody beside policy objects: asks whoever decides about the port, once policy has permitted, and hands on a
//! [`Consent`] that only asking makes. Its word narrows and never widens: policy judges again what the answer has changed.

use std::sync::Arc;

use arc_swap::Guard;
use http::Version;
use http_body::Body;

use super::{Admission, Caller, Denial, judge, judge_request, refused};
use crate::{
    error::Error,
    external::{Changes, External, Objection, Question, take_off},
    http::Checked,
    jwt::Token,
    snapshot::{Enforcement, Snapshot},
    telemetry::Verdict,
    worker::Worker,
};

/// Nobody objects, or nobody is to be asked.
#[derive(Debug)]
pub(crate) struct Consent {
    /// Who was asked.
    external: Option<Arc<External>>,
    /// An objection that is recorded and not applied.
    observed: Option<Objection>,
}

/// Asks for one caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) caller: Caller<'a>,
    pub(crate) worker: &'a Worker,
}

impl Asker<'_> {
    /// Asks about a request, and changes it as the answer says. What whoever decides may set is taken off of it before anybody
    /// judges.
    pub(crate) async fn about_request<B: Body>(
        self,
        request: &mut Checked<B>,
        token: &Token,
        version: Version,
    ) -> Result<Consent, Error> {
        let Some((external, snapshot)) = self.whom() else { return Ok(Consent::needless()) };
        let own = snapshot.own_id();
        let question = Question::about_request(&external, self.caller, own.as_ref(), request, version);
        take_off(request.headers_mut(), &external.config.set_headers);
        let admission = judge_request(self.caller, request, token, &snapshot)?;
        let (consent, changes) = self.ask(&external, &admission, question, &snapshot).await?;
        changes.apply(request.headers_mut());
        Ok(consent)
    }

    /// Asks about an opaque connection.
    pub(crate) async fn about_connection(self) -> Result<Consent, Error> {
        let Some((external, snapshot)) = self.whom() else { return Ok(Consent::needless()) };
        let admission = judge(self.caller, None, &snapshot)?;
        let question = Question::about_connection(self.caller, snapshot.own_id().as_ref());
        self.ask(&external, &admission, Ok(question), &snapshot).await.map(|(consent, _)| consent)
    }

    /// Who decides about the port now, if anybody does; a snapshot is kept only then.
    fn whom(self) -> Option<(Arc<External>, Arc<Snapshot>)> {
        let loaded = self.worker.mesh.load();
        let external = loaded.external_of(self.caller.port).cloned()?;
        Some((external, Guard::into_inner(loaded)))
    }

    async fn ask(
        self,
        external: &Arc<External>,
        admission: &Admission,
        question: Result<Question, Objection>,
        snapshot: &Snapshot,
    ) -> Result<(Consent, Changes), Error> {
        let consent = |observed| Consent { external: Some(Arc::clone(external)), observed };
        // Under `Observe` a denial of policy is recorded, and nobody is asked about what would not have been permitted. Nor
        // has anybody consented: it is open for as long as nothing is enforced.
        if admission.judgement().verdict != Verdict::Allowed {
            return Ok((Consent::needless(), Changes::default()));
        }
        // On the heap, so that a request about which nobody is asked has no room for it.
        let asking = Box::pin(self.worker.external.ask(external, question, snapshot, &self.worker.metrics));
        match asking.await {
            Ok(changes) => Ok((consent(None), changes)),
            Err(objection) if snapshot.enforcement == Enforcement::Observe => {
                Ok((consent(Some(objection)), Changes::default()))
            }
            Err(objection) => Err(denied(&objection)),
        }
    }
}

impl Consent {
    fn needless() -> Self {
        Self { external: None, observed: None }
    }

    /// Who has consented. Whoever objected has not, though that is recorded only.
    pub(crate) fn external(&self) -> Option<&Arc<External>> {
        self.external.as_ref().filter(|_| self.observed.is_none())
    }

    /// What is left of policy's admission: nothing if somebody else is to be asked by now.
    pub(super) fn limit(
        self,
        admission: Admission,
        port: u16,
        snapshot: &Snapshot,
    ) -> Result<Admission, Error> {
        is_current(self.external.as_ref(), port, snapshot)?;
        match self.observed {
            Some(objection) if admission.judgement().verdict == Verdict::Allowed => {
                refused(objection.code(), objection.to_string(), snapshot.enforcement)
            }
            _ => Ok(admission),
        }
    }
}

/// Whether it is `asked` who decides about the port in this snapshot.
pub(super) fn is_current(asked: Option<&Arc<External>>, port: u16, snapshot: &Snapshot) -> Result<(), Error> {
    match (asked, snapshot.external_of(port)) {
        _ if snapshot.enforcement == Enforcement::Observe => Ok(()),
        (_, None) => Ok(()),
        (Some(asked), Some(now)) if asked.is_same(now) => Ok(()),
        _ => Err(denied(&Objection::unasked())),
    }
}

fn denied(objection: &Objection) -> Error {
    let denial = Denial { status: objection.status, ..Denial::of(objection.code(), objection.to_string()) };
    Error::Denied(Box::new(denial))
}

//! The certificate in use as the proof for its successor: of the same identity and no other. The handshake verified it; it
//! may have ended since.

use sidegate_identity::VerifiedSvid;

use super::{Attested, Counted, Refusal};
use crate::hex;

pub(super) fn attest(svid: &VerifiedSvid, unix_seconds: u64) -> Result<Attested, Refusal> {
    if unix_seconds > svid.not_after().as_secs() {
        return Err(Refusal::Ended);
    }
    Ok(Attested {
        identity: svid.id().clone(),
        attestor: "svid",
        evidence: hex::encode(svid.serial()),
        counted: Counted::No,
    })
}

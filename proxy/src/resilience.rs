//! What lets a call survive its endpoint: which failures may be repeated, at what price, and what is kept of a request
//! to send it again. A request that may have been processed is repeated only where its method says that twice is once.

mod budget;
mod replay;
mod retry;

pub(crate) use budget::Budget;
pub(crate) use replay::{BoxError, Held, Sent};
pub(crate) use retry::{End, Fault, Reason, Stop, Time, Tries, is_idempotent};

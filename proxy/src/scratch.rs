//! A buffer of each thread's, for what is read and used in the same moment: connections that are silent hold none.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BYTES]);
}

/// Lends it for one read. No stream that is read into it may ask for it in turn.
pub(crate) fn lend<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

/// Four records of TLS. A connection whose writer is stuck keeps as much of what was read.
pub(crate) const BYTES: usize = 64 * 1024;

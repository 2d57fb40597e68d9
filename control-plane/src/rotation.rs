//! The rotation of the root: a new one is trusted everywhere before it signs, and an old one signs nothing that is still
//! alive before it is trusted no longer.
//!
//! ```text
//! steady ─► prepare ─► activate ─► retire ─► destroy ─► steady
//! trusted: old    both       both        new       new
//! signs:   old    old        new         new       new
//! ```
//!
//! [`machine`] decides, and `roll` knows which certificates are alive and what their holders trust: both without input
//! or output. `store` keeps the state on disk, `driver` turns the wheel, and [`desk`] is where the operator asks.

pub mod desk;
pub mod machine;

pub(crate) mod driver;
pub(crate) mod patience;
pub(crate) mod roll;
pub(crate) mod store;

#[cfg(test)]
mod schedule;

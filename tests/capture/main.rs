//! Capture, for real: two hosts that are network namespaces, a wire between them with a stranger and a sniffer on it,
//! real sidecars as uid 15100, real applications as other users, and the kernel's own rules. Needs root, `ip`, `nft` and
//! `iptables`; without them it fails and says so. Not part of `cargo test --workspace`:
//!
//! ```text
//! cargo test -p sidegate --test capture
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends here")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is its own runner, and its own applications"
)]

/// The tests of a module, under the names of their functions.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),+];
    };
}

#[path = "../suite/mesh/authority.rs"]
mod authority;
mod hosts;
mod matrix;
mod programs;
mod real;
mod rules;
mod world;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use world::Backend;

/// A promise, and what tries to break it.
type Test = (&'static str, fn(Backend));

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("program", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return programs::run(rest);
    }
    if let Err(missing) = hosts::prerequisites() {
        eprintln!("capture tests cannot run: {missing}");
        println!("test result: FAILED. 0 passed; 1 failed");
        return ExitCode::FAILURE;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    run(filter.map_or("", String::as_str))
}

/// In the form of the usual runner, one after the other: the kernel's rules are no place for a race.
fn run(filter: &str) -> ExitCode {
    let (mut passed, mut failed) = (0, Vec::new());
    for backend in [Backend::Nft, Backend::Iptables] {
        for (name, test) in matrix::TESTS.iter().chain(real::TESTS).chain(rules::TESTS) {
            let name = format!("{}::{name}", backend.as_str());
            if !name.contains(filter) {
                continue;
            }
            if std::panic::catch_unwind(AssertUnwindSafe(|| test(backend))).is_ok() {
                println!("test {name} ... ok");
                passed += 1;
            } else {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {} failed", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

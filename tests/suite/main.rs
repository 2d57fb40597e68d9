//! The whole-path tests: real binaries, real sockets on loopback, one process for all of them.
#![forbid(unsafe_code)]

mod cli;

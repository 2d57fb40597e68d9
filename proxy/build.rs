//! Receives what cargo says of the build; hands on what the linker at hand can do for a smaller program. Refuses nothing: with a
//! linker that can do less the program is larger.

use std::{env, path::Path, process::Command};

/// Functions of the same code become one. None of ours is told from another by its address.
const FOLD: &str = "-Wl,--icf=all";

/// Places that move with the program, of which a program at any address has many, stand in a bit map.
const PACK: &str = "-Wl,-z,pack-relative-relocs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env("OPT_LEVEL") == "0" {
        return;
    }
    for flag in [FOLD, PACK].into_iter().filter(|flag| is_known(flag)) {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
}

/// Whether a program that is linked with `flag` can be built as ours will be, and, if it is for this machine, starts: a C
/// library before glibc 2.36 does not know a packed one.
fn is_known(flag: &str) -> bool {
    let folder = env("OUT_DIR");
    let (source, program) = (Path::new(&folder).join("probe.rs"), Path::new(&folder).join("probe"));
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut rustc = Command::new(env("RUSTC"));
    rustc.arg(&source).arg("-o").arg(&program).args([
        "--target",
        &env("TARGET"),
        "-C",
        &format!("link-arg={flag}"),
    ]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    rustc.args(env("CARGO_ENCODED_RUSTFLAGS").split('\u{1f}').filter(|flag| !flag.is_empty()));
    succeeds(&mut rustc) && (env("HOST") != env("TARGET") || succeeds(&mut Command::new(&program)))
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// What cargo sets for every build script, or nothing.
fn env(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

//! The committed code is what the `.proto` files say.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends here")]

use std::{fs, path::Path};

#[test]
fn generated_code_is_fresh() {
    let files = ["identity", "discovery", "ledger"].map(|file| format!("sidegate/v1/{file}.proto"));
    is_fresh(&files, "sidegate.v1.rs", "sidegate.v1.rs");
}

#[test]
fn generated_code_of_the_workload_api_is_fresh() {
    // The standard's service is in no package, which the generator calls `_`.
    is_fresh(&["spiffe/workload.proto".to_owned()], "_.rs", "spiffe.workload.rs");
}

#[test]
fn generated_code_of_external_authorization_is_fresh() {
    let files = ["envoy/external_authorization.proto".to_owned()];
    is_fresh(&files, "envoy.service.auth.v3.rs", "envoy.service.auth.v3.rs");
}

fn is_fresh(files: &[String], generated: &str, committed: &str) {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(files, [crate_dir.join("proto")]).expect("the .proto files compile");
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .btree_map(".")
        // It holds a private key, which has no representation.
        .skip_debug(["X509SVID"])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");

    let fresh = fs::read_to_string(out.path().join(generated)).unwrap();
    let committed_path = crate_dir.join("src/generated").join(committed);
    let before = fs::read_to_string(&committed_path).unwrap_or_default();
    if fresh != before {
        fs::write(&committed_path, fresh).unwrap();
        panic!("src/generated/{committed} was stale and has been written anew: commit it");
    }
}

//! The committed code is what the `.proto` files say.

use std::{fs, path::Path};

#[test]
fn generated_code_is_fresh() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(
        ["identity", "discovery", "ledger"].map(|file| format!("sidegate/v1/{file}.proto")),
        [crate_dir.join("proto")],
    )
    .expect("the .proto files compile");
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .btree_map(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");

    let fresh = fs::read_to_string(out.path().join("sidegate.v1.rs")).unwrap();
    let committed_path = crate_dir.join("src/generated/sidegate.v1.rs");
    let committed = fs::read_to_string(&committed_path).unwrap_or_default();
    if fresh != committed {
        fs::write(&committed_path, fresh).unwrap();
        panic!("src/generated/sidegate.v1.rs was stale and has been written anew: commit it");
    }
}

//! Compiles the protocol with protox, so that no `protoc` has to be installed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/pmpo/replay/v1/replay.proto",
        "proto/pmpo/v1/weights.proto",
        "proto/pmpo/v1/run.proto",
        "proto/pmpo/v1/language.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    // For reflection: clients that have no copy of the protocol ask the server for this one.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

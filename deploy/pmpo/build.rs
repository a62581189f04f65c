//! Gives the binary and tests of this package a run path to libmujoco: link arguments do not propagate from
//! dependencies, so every package that links a binary or a test prints its own.

fn main() {
    const DIRECTORY: &str = "MUJOCO_DYNAMIC_LINK_DIR";
    println!("cargo::rerun-if-env-changed={DIRECTORY}");
    // Beside the binary first, so that it moves with its folder: see `make dist`.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/third_party/mujoco/lib");
    if let Ok(directory) = std::env::var(DIRECTORY) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
    }
}

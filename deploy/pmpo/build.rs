//! Gives the tests of this package a run path to libmujoco: link arguments do not propagate from
//! dependencies, so every package that links a binary or a test prints its own.

fn main() {
    const DIRECTORY: &str = "MUJOCO_DYNAMIC_LINK_DIR";
    println!("cargo::rerun-if-env-changed={DIRECTORY}");
    if let Ok(directory) = std::env::var(DIRECTORY) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
    }
}

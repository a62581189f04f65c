#!/bin/sh
# Builds target/wheels/pmpo-*.whl with the libraries that `cargo test --workspace` and `cargo build` have built:
# all are of the same features. Maturin comes from PyPI into an environment of its own.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
"$root/deploy/setup/venv.sh" maturin maturin==1.16.0
rm -f "$root"/target/wheels/pmpo-*.whl
cd "$root"
third_party/venv-maturin/bin/maturin build --release --quiet --manifest-path actor/python/Cargo.toml --out target/wheels
ls target/wheels/pmpo-*.whl

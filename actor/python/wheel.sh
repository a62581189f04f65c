#!/bin/sh
# Builds target/wheels/pmpo-*.whl with the libraries that `cargo test --workspace` and `cargo build` have built:
# all are of the same features. Maturin comes from PyPI into an environment of its own.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
environment="$root/third_party/venv-maturin"
maturin="maturin==1.16.0"
stamp="$environment/complete"

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$maturin" ]; then
  rm -rf "$environment"
  # Without pip of its own, which Debian has in another package: the system's pip installs into it.
  python3 -m venv --without-pip "$environment"
  if ! python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check "$maturin"; then
    echo "wheel: pip could not install $maturin" >&2
    exit 1
  fi
  echo "$maturin" > "$stamp"
fi
rm -f "$root"/target/wheels/pmpo-*.whl
cd "$root"
"$environment/bin/maturin" build --release --quiet --manifest-path actor/python/Cargo.toml --out target/wheels
ls target/wheels/pmpo-*.whl

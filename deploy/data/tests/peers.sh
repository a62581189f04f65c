#!/bin/sh
# Data sets between this library and Minari's own package, in a private environment.
set -eu

root=$(cd "$(dirname "$0")/../../.." && pwd)
"$root/deploy/setup/venv.sh" data gymnasium==1.4.0 h5py==3.16.0 minari==0.5.4 numpy==2.4.6 pandas==2.3.3 \
  pillow==13.0.0 pyarrow==26.0.1
cd "$root"
${CARGO:-cargo} build --quiet --release -p pmpo-data --example convert
exec "$root/third_party/venv-data/bin/python" deploy/data/tests/peers.py \
  "${CARGO_TARGET_DIR:-target}/release/examples/convert"

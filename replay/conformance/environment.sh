#!/bin/sh
# Makes the private Python environment of the conformance program: gRPC's own packages and NumPy.
# Idempotent: does nothing when the environment is complete.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
environment="$root/third_party/venv-conformance"
stamp="$environment/complete"

if [ -f "$stamp" ] && cmp -s "$stamp" "$here/requirements.txt"; then
  exit 0
fi
rm -rf "$environment"
# Without pip of its own, which Debian has in another package: the system's pip installs into it.
python3 -m venv --without-pip "$environment"
if ! python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check \
  --requirement "$here/requirements.txt"; then
  echo "conformance: pip could not install $here/requirements.txt" >&2
  exit 1
fi
cp "$here/requirements.txt" "$stamp"

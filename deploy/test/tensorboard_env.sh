#!/bin/sh
# Makes the private Python environment with TensorBoard that reads the event files back. Idempotent: does
# nothing when the environment is complete.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
environment="$root/third_party/venv-tensorboard"
packages="tensorboard==2.21.0"
stamp="$environment/complete"

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$packages" ]; then
  exit 0
fi
rm -rf "$environment"
# Without pip of its own, which Debian has in another package: the system's pip installs into it.
python3 -m venv --without-pip "$environment"
# shellcheck disable=SC2086 # one argument a package
if ! python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check \
  $packages; then
  echo "tensorboard_env: pip could not install $packages" >&2
  exit 1
fi
echo "$packages" > "$stamp"

#!/bin/sh
# Makes the private Python environment third_party/venv-NAME; does nothing when it is complete.
#   deploy/setup/venv.sh NAME PACKAGE==VERSION...
set -eu

name=$1
shift
environment=$(cd "$(dirname "$0")/../.." && pwd)/third_party/venv-$name
stamp="$environment/complete"

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$*" ]; then
  exit 0
fi
rm -rf "$environment"
# Without pip of its own, which Debian has in another package: the system's pip installs into it.
python3 -m venv --without-pip "$environment"
if ! python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check "$@"; then
  echo "venv-$name: pip could not install $*" >&2
  exit 1
fi
echo "$*" > "$stamp"

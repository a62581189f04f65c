#!/bin/sh
# Installs the wheel of target/wheels into a private environment, with what it is tested beside, and runs the
# tests there. The packages are installed once; the wheel anew each time.
set -eu

root=$(cd "$(dirname "$0")/../../.." && pwd)
environment="$root/third_party/venv-python"
packages="numpy==2.4.6 scipy==1.17.1 mujoco==3.17.0 dm_control==1.0.50 gymnasium==1.4.0"
# Gymnasium's MuJoCo environments want imageio.
packages="$packages imageio==2.38.1 onnxruntime==1.32.0 pytest==9.2.0"
stamp="$environment/complete"
pip="python3 -m pip --python $environment/bin/python --disable-pip-version-check"

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$packages" ]; then
  rm -rf "$environment"
  python3 -m venv --without-pip "$environment"
  # shellcheck disable=SC2086 # one argument a package
  if ! $pip install --quiet $packages; then
    echo "python tests: pip could not install $packages" >&2
    exit 1
  fi
  echo "$packages" > "$stamp"
fi
$pip install --quiet --force-reinstall --no-deps "$root"/target/wheels/pmpo-*.whl
# Not where the package's source is, which has no native part.
cd "$root/actor/python/tests"
exec "$environment/bin/python" -m pytest -q -p no:cacheprovider . "$@"

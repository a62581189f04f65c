#!/bin/sh
# Installs the wheel of target/wheels into a private environment, with what it is tested beside, and runs the
# tests there. The packages are installed once; the wheel anew each time.
set -eu

root=$(cd "$(dirname "$0")/../../.." && pwd)
python="$root/third_party/venv-python/bin/python"
"$root/deploy/setup/venv.sh" python numpy==2.4.6 scipy==1.17.1 mujoco==3.17.0 dm_control==1.0.50 gymnasium==1.4.0 \
  imageio==2.38.1 onnxruntime==1.32.0 pytest==9.2.0
python3 -m pip --python "$python" install --quiet --disable-pip-version-check --force-reinstall --no-deps \
  "$root"/target/wheels/pmpo-*.whl
# Not where the package's source is, which has no native part.
cd "$root/actor/python/tests"
exec "$python" -m pytest -q -p no:cacheprovider . "$@"

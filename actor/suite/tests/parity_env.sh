#!/bin/sh
# Makes the private Python environment with dm_control that the parity test compares with.
set -eu

# NumPy and SciPy are pinned, too: their elementary functions are part of what is compared.
exec "$(dirname "$0")/../../../deploy/setup/venv.sh" parity \
  dm_control==1.0.50 mujoco==3.17.0 numpy==2.4.6 scipy==1.17.1

#!/bin/sh
# Checks deploy/k8s and deploy/slurm without a cluster: `make test-manifests`. kubectl (which has kustomize),
# the schemas and shellcheck are Python packages at the versions in manifests.txt, in a private environment.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
environment="$root/third_party/venv-manifests"
packages="$root/deploy/test/manifests.txt"
# The same bytes are in two unrelated packages that carry Kubernetes' release.
kubectl_x86_64=65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8

if ! cmp -s "$packages" "$environment/complete"; then
  rm -rf "$environment"
  if ! python3 -m venv "$environment"; then
    echo "manifests: python3 -m venv failed; on Debian install python3-venv" >&2
    exit 1
  fi
  if ! "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --only-binary :all: --requirement "$packages"; then
    echo "manifests: pip could not install what $packages lists" >&2
    exit 1
  fi
  if [ "$(uname -m)" = x86_64 ]; then
    echo "$kubectl_x86_64  $environment/bin/kubectl" | sha256sum --check --quiet
  fi
  cp "$packages" "$environment/complete"
fi

PATH="$environment/bin:$PATH"
cd "$root"
shellcheck deploy/k8s/certs.sh deploy/k8s/base/actor.sh deploy/slurm/pmpo.sbatch deploy/test/manifests.sh
echo "shellcheck: nothing found"
pmpo=target/release/pmpo
[ -x "$pmpo" ] || pmpo=
# shellcheck disable=SC2086 # no argument without a binary
python deploy/test/manifests.py kubectl $pmpo

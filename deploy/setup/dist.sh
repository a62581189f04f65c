#!/usr/bin/env bash
# Packs one archive that runs from any folder on a machine of the same system: the binary, MuJoCo's library
# and the suite's models beside it, what fetches those two, and the manual.
#   deploy/setup/dist.sh BINARY OUT_FOLDER
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(realpath "$1")
mkdir -p "$2"
out=$(cd "$2" && pwd)
name=pmpo-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/$name/deploy/setup"
cp "$binary" "$stage/$name/pmpo"
cp -r "$root/third_party" "$stage/$name/third_party"
cp "$root/deploy/setup/fetch_assets.py" "$stage/$name/deploy/setup/"
cp -r "$root"/{LICENSE,README.md,CONTRIBUTING.md,CHANGELOG.md,docs} "$stage/$name/"
tar -C "$stage" -czf "$out/.$name.tar.gz" "$name"
mv "$out/.$name.tar.gz" "$out/$name.tar.gz"
echo "$out/$name.tar.gz"

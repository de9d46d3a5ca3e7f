#!/usr/bin/env sh
# Resolve everything that `make setup` installs, for every platform and for Python 3.11 to 3.13, and write it with the
# hashes of its files into requirements.lock: sh scripts/lock.sh. To be run after a change of pyproject.toml or
# constraints.txt; needs `uv` (pip install uv).
#
# torch is not in it, nor what only its CUDA builds bring: which build is right depends on the machine, and each has a
# hash of its own. constraints.txt pins its version.
set -eu
cd "$(dirname "$0")/.."
torch_only() {
  for package in cuda-bindings cuda-pathfinder cuda-toolkit torch triton; do echo "--no-emit-package $package"; done
  sed -n 's/^\(nvidia-[a-z0-9-]*\)==.*/--no-emit-package \1/p' "$1"
}
all=$(mktemp)
trap 'rm -f "$all"' EXIT
compile() {
  uv pip compile pyproject.toml --quiet --extra dev -c constraints.txt --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links "$@"
}
echo "setuptools>=77" > "$all.in"
compile "$all.in" -o "$all"
{
  echo "# Every package of the set-up but torch, with the hashes of its files. Written by scripts/lock.sh; do not edit."
  # shellcheck disable=SC2046
  compile "$all.in" --generate-hashes $(torch_only "$all")
} > requirements.lock
rm -f "$all.in"

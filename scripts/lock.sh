#!/usr/bin/env sh
# Resolve everything that `make setup` installs, for every platform and for Python 3.11 to 3.13, and write it with the
# hashes of its files into requirements.lock: sh scripts/lock.sh. To be run after a change of pyproject.toml or
# constraints.txt; needs `uv` (pip install uv).
#
# Then the environments of their own for packages of others (Linux, Python 3.11): requirements-ecosystem.txt, on top of the
# lock, and requirements-verifiers.txt, which needs no torch.
#
# torch is not in any, nor what only its CUDA builds bring: which build is right depends on the machine, and each has a
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
others() { # FILE SENTENCE OPTIONS; the packages on stdin
  file=$1 sentence=$2
  shift 2
  cat > "$all.in"
  compiled() { uv pip compile "$all.in" --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links "$@"; }
  compiled "$@" -o "$all"
  {
    echo "# $sentence Written by scripts/lock.sh; do not edit."
    # shellcheck disable=SC2046
    compiled "$@" $(torch_only "$all")
  } > "$file"
  rm -f "$all.in"
}
printf '%s\n' gymnasium==1.4.0 openenv-core==0.3.0 trl==1.16.0 |
  others requirements-ecosystem.txt "Packages whose protocols we speak, with all that they need, for tests_ecosystem (make test-ecosystem)." \
    -c constraints.txt -c requirements.lock
# Without what its users have: an environment of ours needs no torch. uv itself is what verifiers starts its programs with.
printf '%s\n' verifiers==0.4.0 openenv==0.4.1 httpx2 jinja2 numpy pytest pyyaml rapidfuzz regex rich setuptools starlette tyro uv uvicorn websockets wheel |
  others requirements-verifiers.txt "verifiers with all that it and environments of ours need, for tests_verifiers (make test-verifiers)."

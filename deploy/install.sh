#!/usr/bin/env bash
# Installs headcount into a virtual environment, every package at the version of constraints.txt.
#
# usage: deploy/install.sh PYTHON TARGET...     e.g. deploy/install.sh .venv/bin/python -e '.[dev,tracing]'
#
# TORCH_INDEX: address of a wheel index to take PyTorch's build from (CPU, CUDA or ROCm). Without it: on Linux without an
# NVIDIA GPU the CPU build, where one is on offer; else the default build, which on Linux brings CUDA (gigabytes).
set -euo pipefail

python=$1
shift
cd "$(dirname "$0")/.."
torch=$(grep '^torch==' constraints.txt)

install() { "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@"; }
has_gpu() { [ -e /dev/nvidia0 ] || command -v nvidia-smi >/dev/null; }

if [ -n "${TORCH_INDEX:-}" ]; then
  echo "Installing $torch from $TORCH_INDEX ..."
  # A build from there carries a tag (2.13.0+cu130) that sorts above the plain version.
  install --extra-index-url "$TORCH_INDEX" "$torch" setuptools
elif [ "$(uname)" != Linux ] || has_gpu; then
  echo "Installing $torch ..."
  install "$torch" setuptools
else
  echo "Installing $torch, the CPU build ..."
  if ! install "$torch+cpu" setuptools 2>/dev/null; then
    echo "No CPU build is on offer: installing the default one, which takes gigabytes. TORCH_INDEX can name another."
    install "$torch" setuptools
  fi
fi

echo "Installing headcount and what it needs ..."
# setuptools is installed and pinned above: a build environment of its own would take the newest one.
install --no-build-isolation "$@"

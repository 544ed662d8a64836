#!/usr/bin/env bash
# make_torch_environment.sh FOLDER: a fresh virtual environment with PyTorch and transformers, for benchmarks and test-transformers.
# No `pip check`: requirements-torch.txt leaves out what PyTorch's metadata asks for and only a GPU would use. Importing it is the check.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

if ! command -v "${CXX:-g++}" >/dev/null; then
    echo "torch.compile needs a C++ compiler, and ${CXX:-g++} was not found: install one (your system's g++), or name one with CXX." >&2
    exit 1
fi
scripts/new_environment.sh "$folder" requirements-torch.txt "2.8 GB to download, 4.3 GB on disk, once"
"$folder/bin/python" -c 'import torch, transformers; print(f"torch {torch.__version__}, transformers {transformers.__version__}")'
touch "$folder/complete"

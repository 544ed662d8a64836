#!/usr/bin/env bash
# make_torch_environment.sh FOLDER: a fresh virtual environment with PyTorch alone, for benchmarks. FOLDER/complete is written last.
# No `pip check`: requirements-torch.txt leaves out what PyTorch's metadata asks for and only a GPU would use. Importing it is the check.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

if ! command -v "${CXX:-g++}" >/dev/null; then
    echo "torch.compile needs a C++ compiler, and ${CXX:-g++} was not found: install one (your system's g++), or name one with CXX." >&2
    exit 1
fi
python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)): 2.8 GB to download, 4.3 GB on disk, once."
"$python" -m venv --clear "$folder"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-torch.txt; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi
"$folder/bin/python" -c 'import torch; print(f"torch {torch.__version__}")'
touch "$folder/complete"

#!/usr/bin/env bash
# make_gpu_environment.sh FOLDER: a fresh virtual environment with requirements-gpu.txt, which compiles for GPUs and needs none.
# FOLDER/complete is written last: without it an environment was interrupted and is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)), 1.5 GB; this takes a minute or two, once."
"$python" -m venv --clear "$folder"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-gpu.txt; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

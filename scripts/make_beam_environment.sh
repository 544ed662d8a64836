#!/usr/bin/env bash
# make_beam_environment.sh FOLDER: a fresh virtual environment with Apache Beam and what data_pipelines needs, without jax. FOLDER/complete is
# written last.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)); this takes a minute, once."
"$python" -m venv --clear "$folder"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-beam.txt; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

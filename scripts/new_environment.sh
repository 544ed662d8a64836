#!/usr/bin/env bash
# new_environment.sh FOLDER REQUIREMENTS NOTE: a fresh virtual environment with the packages of a file, all of them pinned. What the environment is
# for writes FOLDER/complete, last: without it an environment was interrupted and is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)): $3."
"$python" -m venv --clear "$folder"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$2"; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi

#!/usr/bin/env bash
# make_environment.sh FOLDER [JAX_VERSION]: a fresh virtual environment with the pinned requirements, and with another jax where one is named.
# FOLDER/complete is written last: without it an environment was interrupted and is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
jax=${2:-}

python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)); this takes a minute or two, once."
"$python" -m venv --clear "$folder"

requirements=$folder/requirements.txt
if [ -n "$jax" ]; then
    sed -E "s/^(jax|jaxlib)==.*/\1==$jax/" requirements.txt requirements-dev.txt >"$requirements"
else
    cat requirements.txt requirements-dev.txt >"$requirements"
fi
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

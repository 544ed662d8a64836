#!/usr/bin/env bash
# make_environment.sh FOLDER [JAX_VERSION [REQUIREMENTS]]: a fresh virtual environment with the pinned requirements, those of tests and object stores
# among them, with another jax where one is named, and with a further file of requirements. FOLDER/complete is written last: without it an
# environment was interrupted and is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
jax=${2:-}
further=${3:-}

python=$(scripts/find_python.sh)
echo "Making $folder with $python ($("$python" --version)); this takes a minute or two, once."
"$python" -m venv --clear "$folder"

requirements=$folder/requirements.txt
cat requirements.txt requirements-dev.txt requirements-cloud.txt ${further:+"$further"} >"$requirements"
if [ -n "$jax" ]; then
    sed -i.as_pinned -E "s/^(jax|jaxlib)==.*/\1==$jax/" "$requirements"
fi
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"; then
    echo "The packages could not be installed; pip says why above. They come from the index that pip is set to: is it reachable?" >&2
    exit 1
fi
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

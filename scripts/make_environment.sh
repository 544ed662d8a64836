#!/usr/bin/env bash
# make_environment.sh FOLDER [JAX_VERSION [REQUIREMENTS]]: a fresh virtual environment with the pinned requirements, those of tests and object stores
# among them, with another jax where one is named, and with a further file of requirements. FOLDER/complete is written last: without it an
# environment was interrupted and is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
jax=${2:-}
further=${3:-}

requirements=$(mktemp)
trap 'rm -f "$requirements" "$requirements.as_pinned"' EXIT
cat requirements.txt requirements-dev.txt requirements-cloud.txt ${further:+"$further"} >"$requirements"
if [ -n "$jax" ]; then
    sed -i.as_pinned -E "s/^(jax|jaxlib)==.*/\1==$jax/" "$requirements"
fi
scripts/new_environment.sh "$folder" "$requirements" "this takes a minute or two, once"
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

#!/usr/bin/env bash
# make_beam_environment.sh FOLDER: a fresh virtual environment with Apache Beam and what data_pipelines needs, without jax.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1

scripts/new_environment.sh "$folder" requirements-beam.txt "this takes a minute, once"
"$folder/bin/python" -m pip --disable-pip-version-check check
touch "$folder/complete"

#!/usr/bin/env bash
# Prints a Python 3.12 to 3.14 that runs and can make environments: $PYTHON where it is set, else the first that is found.
set -u

suits() {
    "$1" -c 'import ensurepip, ssl, sys, venv; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    if suits "$PYTHON"; then
        command -v "$PYTHON"
        exit 0
    fi
    echo "PYTHON=$PYTHON does not run, is not Python 3.12 to 3.14, or lacks venv: name another one." >&2
    exit 1
fi

candidates() {
    local version
    for version in 3.13 3.12 3.14; do
        command -v "python$version"
    done
    command -v python3
    command -v python
    for version in 3.13 3.12 3.14; do  # the commands that pyenv puts on PATH run chosen versions only
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python 2>/dev/null
    done
    command -v uv >/dev/null && uv python find --no-project '>=3.12,<3.15' 2>/dev/null
}

while read -r candidate; do
    if suits "$candidate"; then
        echo "$candidate"
        exit 0
    fi
done < <(candidates)

echo "No Python 3.12, 3.13 or 3.14 was found: not on PATH, not in pyenv, not in uv. Install one (uv python install 3.13, pyenv install 3.13," >&2
echo "or your system's python3.13 with python3.13-venv), or name one: make PYTHON=/path/to/python3.13 demo" >&2
exit 1

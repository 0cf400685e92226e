#!/bin/sh
# Make a virtual environment with cellwright and its tested dependencies. Usage: bootstrap.sh FOLDER
set -eu
venv=${1:-.venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "cellwright needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON=/path/to/python3.x" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if command -v uv >/dev/null 2>&1; then
    # uv does not read pip's settings
    uv pip install --quiet --python "$venv/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
        -c constraints.txt -e . --group test --group lint
else
    # --group needs pip 25.1
    "$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
    "$venv/bin/python" -m pip install --quiet -c constraints.txt -e . --group test --group lint
fi
touch "$venv/.installed"

#!/bin/sh
# Makes the virtual environment of bench-peers, bench-servers and bench-json: install.sh DIRECTORY
#
# About 8 GB from PyPI: the torch wheel brings its CUDA libraries along and does not load without.
# Of tf-models-official one file is used, of nvidia-pytriton the tritonserver inside, so both come
# without their dependencies. wrk is a Debian package.
set -eu
venv=$1
here=$(cd "$(dirname "$0")" && pwd)
command -v wrk >/dev/null || echo "wrk is missing (apt-get install wrk): bench-servers needs it" >&2
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    tf-models-official==2.20.0 nvidia-pytriton==0.7.0
touch "$venv/.installed"

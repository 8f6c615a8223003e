#!/bin/sh
# Makes the virtual environment that holds the real layer, for the golden tensors and for the tests
# beside it in tests/conformance: install.sh DIRECTORY
#
# About 1.5 GB from PyPI. tf_keras and tf-models-official come without their dependencies: the first
# wants the build of TensorFlow for GPUs, the second 4 GB for datasets, pictures and speech, of
# which its attention layers import two packages.
set -eu
venv=$1
here=$(cd "$(dirname "$0")" && pwd)
stamp=$venv/.installed
if [ -e "$stamp" ] && [ "$stamp" -nt "$here/requirements.txt" ] && [ "$stamp" -nt "$0" ]; then
    exit 0
fi
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    tf_keras==2.21.0 tf-models-official==2.20.0
touch "$stamp"

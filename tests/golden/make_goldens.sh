#!/bin/sh
# make_goldens.sh BUILD - makes golden tensors again with the real layer, into BUILD/golden, and
# compares them with those beside this file. TensorFlow comes from PyPI into BUILD/venv-goldens;
# of tf-models-official one file is used, so it comes without its dependencies.
set -eu
build=$1
here=$(cd "$(dirname "$0")" && pwd)
venv=$build/venv-goldens
if [ ! -e "$venv/.installed" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        tensorflow_cpu==2.21.0 tf_keras==2.21.0 numpy
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps tf-models-official==2.20.0
    touch "$venv/.installed"
fi
exec "$venv/bin/python" "$here/make_goldens.py" "$here" "$build/golden"

#!/bin/sh
# install.sh VENV - a virtual environment with the real layer. TensorFlow comes from PyPI; of
# tf-models-official one file is used, so it comes without its dependencies.
set -eu
venv=$1
[ ! -e "$venv/.installed" ] || exit 0
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow_cpu==2.21.0 tf_keras==2.21.0 numpy
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps tf-models-official==2.20.0
touch "$venv/.installed"

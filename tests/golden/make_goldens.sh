#!/bin/sh
# make_goldens.sh BUILD - makes golden tensors again with the real layer, into BUILD/golden, and
# compares them with those beside this file.
set -eu
build=$1
here=$(cd "$(dirname "$0")" && pwd)
"$here/install.sh" "$build/venv-goldens"
exec "$build/venv-goldens/bin/python" "$here/make_goldens.py" "$here" "$build/golden"

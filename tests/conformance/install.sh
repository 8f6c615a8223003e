#!/bin/sh
# Makes the virtual environment of `make conformance`: install.sh DIRECTORY
#
# Everything comes from PyPI, but for libb64 (Debian), which perf_analyzer links. NVIDIA ships
# perf_analyzer only inside old wheels of tritonclient; 2.44.0 is the last that runs on glibc 2.36.
# Where it cannot be had the rest is installed all the same and its test says that it was skipped.
set -eu
venv=$1
here=$(cd "$(dirname "$0")" && pwd)
stamp=$venv/.installed
if [ -e "$stamp" ] && [ "$stamp" -nt "$here/requirements.txt" ] && [ "$stamp" -nt "$0" ]; then
    exit 0
fi
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"

perf_analyzer() {
    tmp=$(mktemp -d)
    "$venv/bin/pip" download --quiet --no-deps -d "$tmp" tritonclient==2.44.0 \
        nvidia-cuda-runtime-cu12==12.9.79 || return 1
    (cd "$tmp" && apt-get download -qq libb64-0d && dpkg -x libb64-0d_*.deb "$tmp/deb") || return 1
    mkdir -p "$venv/perf_analyzer"
    python3 - "$tmp" "$venv/perf_analyzer" <<'PY' || return 1
import glob, os, sys, zipfile
source, target = sys.argv[1:]
for wheel in glob.glob(source + "/*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if os.path.basename(name) in ("perf_analyzer", "libcudart.so.12"):
                path = os.path.join(target, os.path.basename(name))
                with open(path, "wb") as file:
                    file.write(archive.read(name))
                os.chmod(path, 0o755)
PY
    cp "$tmp"/deb/usr/lib/*/libb64.so.0d "$venv/perf_analyzer/" || return 1
    rm -rf "$tmp"
    LD_LIBRARY_PATH=$venv/perf_analyzer "$venv/perf_analyzer/perf_analyzer" --version
}
perf_analyzer || echo "perf_analyzer cannot be had on this machine" >&2
touch "$stamp"

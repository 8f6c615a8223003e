#!/bin/sh
# install_packages.sh PACKAGE... - installs the Debian packages that are missing, asking nothing.
# Does nothing, quickly, when all are there. Does not touch systems without dpkg: there it names
# what is needed and lets the build find out.
set -eu

if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system; these Debian packages, or what they hold, are needed: $*" >&2
    exit 0
fi

missing=
for package in "$@"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "these packages are missing; install them as root:$missing" >&2
        exit 1
    }
    root=sudo
fi

echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # words on purpose
{
    $root apt-get update -qq
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
} >/tmp/attnd-packages.$$ 2>&1 || {
    cat /tmp/attnd-packages.$$ >&2
    rm -f /tmp/attnd-packages.$$
    exit 1
}
rm -f /tmp/attnd-packages.$$

#!/bin/sh
# check_layers.sh - proves what README.md says of the layers, from the text and from the objects:
#
#   1. includes go server -> api -> engine, never back;
#   2. each outside library has its home;
#   3. the engine neither logs nor exits nor reads the environment;
#   4. every global symbol carries its folder's and its file's name, or stands in one of the
#      headers that are an interface as a whole.
#
# BUILD (default build) holds the objects for 4; without objects that part is skipped, loudly.
# Prints what is wrong, a line a finding, and exits 1 if there is any.
set -eu
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT

# complain TEXT: standard input holds lines that should not be there.
complain() {
    while read -r line; do echo "$1: $line"; done >>"$findings"
}

# 1. A folder includes only itself and what lies below it.
grep -rnE '#include "(api|server)/' engine | complain "engine includes what is above it" || true
grep -rnE '#include "server/' api | complain "api includes what is above it" || true
grep -rnE '#include "(tests|build)/' engine api server | complain "production includes tests" || true

# 2. header, and an expression that matches the files which may include it.
home() {
    grep -rlE "#include [<\"]$1[>\"]" engine api server | grep -vE "$2" |
        complain "$1 is included outside its home" || true
}
home 'dnnl[_a-z]*\.h(pp)?' '^engine/onednn\.c$'
home 'microhttpd\.h' '^server/(listener|connection|reply|request)\.[ch]$'
home 'curl/.*\.h' '^(server/fetch|api/client/[a-z_]+)\.[ch]$'
home 'jansson\.h' '^(api/|engine/formats/)'
home 'zlib\.h' '^(api/compression|engine/formats/[a-z_]+)\.[ch]$'
home '(sys/socket|netinet/.*|arpa/inet|netdb|sys/un)\.h' '^(server/|api/client/)'

# 3. The engine is a library: its caller decides what is printed and when the process ends.
grep -rnE '\b(exit|_exit|abort|getenv|perror|printf|fprintf|vfprintf|puts|syslog) *\(' \
    --include='*.c' --include='*.cc' engine |
    grep -v 'getenv("ONEDNN_MAX_CPU_ISA")' | # oneDNN's own cap holds for our kernels as well
    complain "the engine prints, exits or reads the environment" || true
grep -rnE '\b(alloca|gets|strcat|vsprintf|strtok|system|popen) *\(' \
    --include='*.c' --include='*.cc' engine api server |
    complain "a function that has no bound" || true

# 4. Names.
interfaces="engine/engine.h engine/instance.h engine/kernel.h api/infer_message.h api/protocol.h
            api/compression.h api/documents.h api/model_files.h api/client/client.h"
declared=$(mktemp)
trap 'rm -f "$findings" "$declared"' EXIT
for header in $interfaces; do
    [ ! -f "$header" ] || grep -oE '\b(engine|api)_[a-z0-9_]+ *\(' "$header" | tr -d ' ('
done | sort -u >"$declared"

objects=$(find "$BUILD/engine" "$BUILD/api" "$BUILD/server" -name '*.o' 2>/dev/null || true)
[ -n "$objects" ] || echo "check_layers.sh: no objects in $BUILD; symbols' names are not checked" >&2
for object in $objects; do
    file=${object#"$BUILD"/}
    file=${file%.o}
    [ -f "$file.c" ] || [ -f "$file.cc" ] || continue # of a file that is gone
    folder=${file%%/*}
    prefix=${folder}_${file##*/}
    nm -g --defined-only "$object" | awk '$2 != "W" && $2 != "V" && $2 != "u" {print $3}' |
        grep -vE '^main$' |
        while read -r symbol; do
            case $symbol in
            "$prefix" | "$prefix"_*) continue ;;
            "$folder"_*) grep -qx "$symbol" "$declared" && continue ;;
            esac
            echo "$file: $symbol"
        done
done | complain "a global symbol does not carry its file's name"

cat "$findings"
[ ! -s "$findings" ] || exit 1
echo "layers: as they should be"

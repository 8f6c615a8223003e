#!/bin/sh
# lint.sh - layers and names, static analysis, format. Every part runs; the exit status is 1 if
# any of them found something. The tools are Debian packages and are installed when missing.
set -eu
cd "$(dirname "$0")/.."
tests/install_packages.sh clang-format cppcheck

status=0
tests/check_layers.sh || status=1

# cppcheck: what it cannot know (macros of headers that it does not read, symbols that only
# tests use) is switched off here; a false alarm at a line is marked at the line.
cppcheck --quiet --std=c11 --language=c --inline-suppr --error-exitcode=1 \
    --enable=warning,performance,portability \
    --suppress=missingIncludeSystem --suppress=pointerSize \
    --suppress=normalCheckLevelMaxBranches -D_GNU_SOURCE -D__x86_64__ -I. \
    engine api server -i api/number_text.cc -i server/exceptions.cc || status=1

# The format is defined by one version of clang-format: others disagree with it in places.
version=$(clang-format --version | sed 's/.*version \([0-9]*\).*/\1/')
if [ "$version" = 14 ]; then
    git ls-files '*.c' '*.h' '*.cc' | xargs clang-format --dry-run --Werror || status=1
else
    echo "lint.sh: clang-format is version $version, the format is version 14's: not checked" >&2
fi

[ "$status" = 0 ] && echo "lint: clean"
exit "$status"

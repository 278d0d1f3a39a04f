#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/install/run.sh STATIC_BUILD WORK
# Installs the finished static build STATIC_BUILD and a shared build made in
# WORK, moves both prefixes away from where they were installed, and uses them
# from a foreign project.  One line "ok - NAME" or "not ok - NAME" per check.
set -euo pipefail

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$source_dir/tests/install
static_build=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
n_failed=0

# check NAME COMMAND...: runs the command, shows its output when it fails.
check()
{
    local name=$1
    shift
    if "$@" </dev/null >"$work/log" 2>&1; then
        echo "ok - install: $name"
    else
        cat "$work/log" >&2
        echo "not ok - install: $name"
        n_failed=$((n_failed + 1))
    fi
}

# Leaves the installed tree in $work/moved-<kind>.
install_and_move()
{
    local build=$1 kind=$2
    rm -rf "$work/first-$kind" "$work/moved-$kind"
    cmake --install "$build" --prefix "$work/first-$kind" &&
        mv "$work/first-$kind" "$work/moved-$kind"
}

build_shared()
{
    cmake -S "$source_dir" -B "$work/shared" -G Ninja \
        -DCMAKE_BUILD_TYPE=Debug -DBUILD_SHARED_LIBS=ON -DQMOE_TESTS=OFF \
        -DQMOE_CUDA=OFF &&
        cmake --build "$work/shared"
}

library_dir()
{
    dirname "$(find "$work/moved-$1" -name 'libqmoe.*' -print -quit)"
}

with_cmake()
{
    rm -rf "$work/consumer-$1"
    cmake -S "$here" -B "$work/consumer-$1" -G Ninja \
        -DCMAKE_PREFIX_PATH="$work/moved-$1" &&
        cmake --build "$work/consumer-$1" && "$work/consumer-$1/consumer"
}

with_pkg_config()
{
    local kind=$1 flags
    shift
    flags=$(PKG_CONFIG_PATH="$(library_dir "$kind")/pkgconfig" \
        pkg-config --cflags --libs "$@" qmoe) || return 1
    # shellcheck disable=SC2086
    cc -std=c11 "$here/consumer.c" -o "$work/pc-$kind" $flags &&
        LD_LIBRARY_PATH=$(library_dir "$kind") "$work/pc-$kind"
}

installed_tool()
{
    "$work/moved-$1/bin/qmoe" devices
}

# A module that was installed is found, whether or not its driver is here.
finds_modules()
{
    local module name listed
    listed=$("$work/moved-$1/bin/qmoe" devices) || return 1
    for module in "$(library_dir "$1")"/qmoe/qmoe-*.so; do
        [ -e "$module" ] || continue
        name=${module##*/qmoe-}
        name=${name%.so}
        if grep "^$name " <<<"$listed" | grep "so is not beside"; then
            return 1
        fi
    done
}

# The prefix is nowhere in what a consumer reads.
names_no_prefix()
{
    ! grep -rn -e "$work/first-$1" -e /usr/local "$(library_dir "$1")/cmake" \
        "$(library_dir "$1")/pkgconfig" "$work/moved-$1/include"
}

declared_functions()
{
    cat "$work/moved-shared"/include/qmoe/*.h | tr '\n' ' ' |
        grep -oE 'QMOE_API [^;{]*' | grep -oE 'qmoe_[a-z0-9_]+ *\(' |
        tr -d ' (' | sort -u
}

# Exported symbols are the functions the headers declare, no more, no less.
exported_symbols()
{
    diff <(declared_functions) \
        <(nm -D --defined-only --extern-only \
            "$(library_dir shared)/libqmoe.so" |
            awk '$2 != "A" { print $3 }' | sort -u)
}

# unloads KIND: libqmoe.so by a program that is not linked with it, threads from
# KIND.
unloads()
{
    cc -std=gnu11 -I"$work/moved-shared/include" "$here/unload.c" \
        -o "$work/unload" -ldl &&
        QMOE_THREADS=$1 "$work/unload" "$(library_dir shared)/libqmoe.so" \
            "$source_dir/models/switch-mini"
}

header_alone()
{
    local include=$work/moved-static/include flags="-Wall -Wextra -Werror"
    # shellcheck disable=SC2086
    printf '#include <qmoe/%s>\n#include <qmoe/%s>\n' "$1" "$1" |
        "$2" $flags -pedantic-errors "-std=$3" -I"$include" -x "$4" \
            -fsyntax-only -
}

check "static build installs" install_and_move "$static_build" static
check "shared library builds" build_shared
check "shared build installs" install_and_move "$work/shared" shared
check "find_package, static, moved prefix" with_cmake static
check "find_package, shared, moved prefix" with_cmake shared
check "pkg-config, static, moved prefix" with_pkg_config static --static
check "pkg-config, shared, moved prefix" with_pkg_config shared
check "tool of the static build runs when moved" installed_tool static
check "tool of the shared build runs when moved" installed_tool shared
check "static build finds its modules when moved" finds_modules static
check "shared build finds its modules when moved" finds_modules shared
check "static package names no prefix" names_no_prefix static
check "shared package names no prefix" names_no_prefix shared
check "exported symbols are the declared ones" exported_symbols
check "shared library unloads after work of its threads" unloads pool
if ldd "$(library_dir shared)/libqmoe.so" | grep -q 'lib[gi]*omp'; then
    check "shared library unloads after work of OpenMP's threads" unloads openmp
fi
for header in "$source_dir"/include/qmoe/*.h; do
    name=${header##*/}
    check "$name compiles alone as C11" header_alone "$name" cc c11 c
    check "$name compiles alone as C++17" header_alone "$name" c++ c++17 c++
done
exit $((n_failed != 0))

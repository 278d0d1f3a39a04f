#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# symbols.sh LIBRARY: every global C symbol of the static library carries one of
# the prefixes of docs/architecture.md, so that a program can link it beside
# anything else.
set -euo pipefail

if [[ $1 != *.a ]]; then
    echo "a shared library: qmoe.map lists its symbols"
    exit 77
fi
symbols=$(nm -g --defined-only "$1")
if ! grep -qE ' T qmoe_model_open$' <<<"$symbols"; then
    echo "$1 is not libqmoe.a: it has no qmoe_model_open"
    exit 1
fi
# Weak ones are instances of C++ templates, under mangled names.  The address
# sanitizer marks each variable with another symbol.
others=$(awk 'NF == 3 && $2 !~ /[WVu]/ { print $3 }' <<<"$symbols" |
    grep -vE '^(__odr_asan\.)?(qmoe|qmi|qcpu)_' | sort -u || true)
if [ -n "$others" ]; then
    echo "without a prefix of this project:" $others
    exit 1
fi

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compile.sh OBJECT SOURCE: one file, as tests/neon/run.sh sets it.
# shellcheck disable=SC2086,SC2154
exec $compiler $flags -c "$2" -o "$1"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/fuzz/run.sh MINUTES [READER...]
# Fuzzes each reader for MINUTES, one after the other, under address and
# undefined-behaviour sanitizers (needs clang and its libFuzzer).  Starts from
# tests/fuzz/corpus; new inputs go to build-fuzz/corpus/READER and what fails to
# build-fuzz/crashes.  Exit status 0 iff nothing failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! [[ ${1-} =~ ^[0-9]+$ ]]; then
    echo "usage: tests/fuzz/run.sh MINUTES [READER...]" >&2
    exit 2
fi
seconds=$((60 * $1))
shift
readers=("$@")
[ ${#readers[@]} -ne 0 ] ||
    readers=(torch safetensors json config spiece tokenizer gguf container jinja)

mkdir -p build-fuzz/crashes
if ! { CC=clang CXX=clang++ cmake -S . -B build-fuzz -G Ninja -DQMOE_FUZZ=ON \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DQMOE_OPENCL=OFF -DQMOE_CUDA=OFF &&
    cmake --build build-fuzz --target "${readers[@]/#/fuzz_}"; } \
    >build-fuzz/build.log 2>&1; then
    tail -n 20 build-fuzz/build.log >&2
    exit 1
fi
n_failed=0
for reader in "${readers[@]}"; do
    mkdir -p "build-fuzz/corpus/$reader"
    log=build-fuzz/$reader.log
    # One input may take 20 s (of a loaded machine) and 512 MiB.
    if ! nice -n 19 "build-fuzz/fuzz/fuzz_$reader" -max_total_time=$seconds \
        -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=512 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="build-fuzz/crashes/$reader-" \
        "build-fuzz/corpus/$reader" "tests/fuzz/corpus/$reader" \
        >"$log" 2>&1; then
        n_failed=$((n_failed + 1))
        grep -m 5 -E 'ERROR|SUMMARY|runtime error' "$log" || true
    fi
    printf '%s: %s\n' "$reader" "$(sed -n \
        's/^Done \(.*\)$/\1/p; s/^stat::number_of_executed_units: */runs /p' \
        "$log" | tr '\n' ' ')"
done
exit $((n_failed != 0))

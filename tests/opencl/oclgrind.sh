#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every kernel of the OpenCL backend, specialised for processors and for
# GPUs, on small cases of qmoe-check under oclgrind: reads and writes outside
# buffers and data races are failures, wrong results too.
#   oclgrind.sh QMOE_CHECK [SCRATCH]
# Exit status: 0 clean, 1 reports or failures, 77 no oclgrind.
set -euo pipefail

check=$1
scratch=${2:-$(mktemp -d)}
icd=
for folder in /usr/lib/oclgrind /usr/local/lib/oclgrind /usr/local/lib; do
    [[ -e $folder/liboclgrind-rt-icd.so ]] && icd=$folder/liboclgrind-rt-icd.so
done
if [[ -z $icd ]]; then
    echo "skipped: oclgrind is not installed"
    exit 77
fi
mkdir -p "$scratch"
export OCL_ICD_VENDORS=$icd OCL_ICD_FILENAMES=$icd XDG_CACHE_HOME=$scratch
export OCLGRIND_DATA_RACES=1 OCLGRIND_LOG=$scratch/oclgrind.log
n_passed=0 n_bad=0 n_reports=0

# One selection of cases.
run()
{
    local last
    rm -f "$OCLGRIND_LOG"
    last=$("$check" --backend opencl "$@" 2>&1 | tee "$scratch/check.log" |
        tail -n 1) || true
    if [[ ! $last =~ ^([0-9]+)\ passed,\ 0\ failed ]] ||
        ((BASH_REMATCH[1] == 0)); then
        echo "FAIL $style $*: $last"
        grep FAIL "$scratch/check.log" | head -n 5 || true
        n_bad=$((n_bad + 1))
    else
        n_passed=$((n_passed + BASH_REMATCH[1]))
    fi
    local reports
    reports=$(grep -c -E '^(Invalid|Write-write|Read-write|Work-item|Uninit|OCLGRIND|Error|Unaligned)' \
        "$OCLGRIND_LOG" 2>/dev/null) || true
    if [[ -s $OCLGRIND_LOG ]]; then
        echo "REPORT $style $*: ${reports:-0}"
        head -n 12 "$OCLGRIND_LOG"
        n_reports=$((n_reports + ${reports:-1} + 1))
    fi
}

# oclgrind must see what it is there for: a kernel that writes elsewhere.
if QMOE_OPENCL_BREAK='base|rows[rows_at + t]|rows[rows_at + t] + 100000' \
    "$check" --backend opencl --op kv-store >"$scratch/check.log" 2>&1 ||
    ! grep -q 'Invalid write' "$OCLGRIND_LOG"; then
    echo "FAIL a kernel broken on purpose is not reported"
    n_bad=$((n_bad + 1))
fi

for style in cpu gpu; do
    export QMOE_OPENCL_LIMITS=style=$style,group=128,local=32768,chunk=131072
    run --op rmsnorm --case 17
    run --op attention --case step/h5x7/t2
    run --op attention --case encoder/h2x17/t2
    run --op attention --case decoder/h3x15/t33
    run --op route --case /t7
    run --op kv-store
    run --op top-logits --case v33/t1/
    run --op top-logits --case v2049/t3/top2/
    run --op embed --case 31x61/t2
    for format in bf16 f16 f32 ternary-dict pvq pvq8 q2; do
        run --op linear --case "$format/17x17/t2"
        run --op linear --case "$format/2x1031/t1/"
        run --op linear --case "$format/2x1031/t7"
        run --op expert-ffn --case "$format/e5x61x15/t2"
        run --op decode --case "$format/33x33"
    done
done
echo "$n_passed cases passed, $n_bad runs failed, $n_reports reports"
((n_bad == 0 && n_reports == 0))

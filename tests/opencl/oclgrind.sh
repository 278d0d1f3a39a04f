#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs kernels of the OpenCL backend on small cases of qmoe-check under
# oclgrind: reads and writes outside buffers and data races are failures, wrong
# results too, and so is a kernel that never ran.  Private variables and work
# space hold NaN and absurd integers before they are written.
#   oclgrind.sh QMOE_CHECK SCRATCH PORTION
# Portions: planted (faults that must be found), cpu and gpu (the defaults for
# processors and others), 1, 2, ... (lines of tunings.txt), clblast,
# uninitialised (oclgrind's own plugin, which knows local memory too).
# Exit status: 0 clean, 1 reports or failures, 77 no oclgrind.
set -euo pipefail

check=$1
scratch=$2/$3
portion=$3
here=$(dirname "$(readlink -f "$0")")
backend=$here/../../backends/opencl
icd=
for folder in /usr/lib/oclgrind /usr/local/lib/oclgrind /usr/local/lib; do
    [[ -e $folder/liboclgrind-rt-icd.so ]] && icd=$folder/liboclgrind-rt-icd.so
done
if [[ -z $icd ]]; then
    echo "skipped: oclgrind is not installed"
    exit 77
fi
mkdir -p "$scratch"
# The build of the module that tests can put at fault.
QMOE_BACKEND_PATH=$(dirname "$check")/breakable-backends
export QMOE_BACKEND_PATH
# Programs made with other options must not come from a cache.
export QMOE_OPENCL_CACHE=off QMOE_OPENCL_POISON=1
export OCL_ICD_VENDORS=$icd OCL_ICD_FILENAMES=$icd
# Not OCLGRIND_INST_COUNTS: that plugin of oclgrind 21.10 damages its own heap.
export QMOE_OPENCL_LAUNCHES=1 OCLGRIND_LOG=$scratch/oclgrind.log
export OCLGRIND_BUILD_OPTIONS=-ftrivial-auto-var-init=pattern
excused=none # kernel whose reports do not count
n_bad=0

bad()
{
    echo "FAIL $portion: $*"
    n_bad=$((n_bad + 1))
}

# check_cases ARGUMENT...: clean, with results.
check_cases()
{
    local last reports
    rm -f "$OCLGRIND_LOG"
    "$check" --backend opencl "$@" >"$scratch/check.log" 2>&1 || true
    last=$(tail -n 1 "$scratch/check.log")
    echo "$portion: $last"
    if [[ ! $last =~ ^([0-9]+)\ passed,\ 0\ failed ]] ||
        ((BASH_REMATCH[1] == 0)); then
        bad "$last"
        grep -a FAIL "$scratch/check.log" | head -n 5 || true
    fi
    # Paragraphs of the log; no log, no reports.
    reports=$(awk -v RS= -v excused="Kernel: $excused\n" \
        'index($0, excused) == 0' "$OCLGRIND_LOG" 2>/dev/null) || true
    [[ -z $reports ]] || bad "oclgrind reports: $(head -n 12 <<<"$reports")"
}

# Names of the kernels in a source file: what follows __kernel, perhaps an
# attribute in parentheses, and void.
kernels_of()
{
    tr '\n' ' ' <"$1" | grep -oE '__kernel [^)]*(\)\)\) +)?void +[a-z_]+' |
        grep -oE '[a-z_]+$'
}

# must_have_run KERNEL...
must_have_run()
{
    local kernel
    for kernel in "$@"; do
        grep -aqxF "launched kernel '$kernel'" "$scratch/check.log" ||
            bad "kernel $kernel never ran"
    done
}

# planted TEXT FAULT CASE: what the fault does to a program is found, with TEXT in
# oclgrind's report or in that of a wrong result.
planted()
{
    local found
    rm -f "$OCLGRIND_LOG"
    QMOE_OPENCL_BREAK=$2 "$check" --backend opencl --case "$3" \
        >"$scratch/check.log" 2>&1 || true
    if found=$(grep -ahE -m 1 "$1" "$OCLGRIND_LOG" "$scratch/check.log" |
        head -n 1) &&
        [[ -n $found ]]; then
        echo "found: $2: ${found:0:120}"
    else
        bad "not found: $2 ($1)"
    fi
}

# Every candidate of `qmoe bench tune` is part of a tuning here.
check_tunings()
{
    local candidate one tuning found
    for candidate in $(grep -oE '"[a-z_]+=[a-z_0-9=,]+"' "$backend/tune.c" |
        tr -d '"'); do
        found=false
        while read -r tuning; do
            for one in ${candidate//,/ }; do
                [[ ,$tuning, == *,$one,* ]] || continue 2
            done
            found=true
        done <"$here/tunings.txt"
        $found || bad "tunings.txt lacks $candidate"
    done
}

# Few and small cases of every operation and format.
cases=()
for name in /c17/ route/e17/ route/e36/ route/e160/ attention/step/h5x7/t2 \
    attention/encoder/h2x17/t2 attention/decoder/h3x15/t33 \
    attention/step/h4x20/ attention/step/h3x7/ rope/h3x15/r10/t2 \
    top-logits/v33/t1/ top-logits/v2049/t3/top2/ /17x17/t2 /2x1031/t1/ \
    /31x61/t2 /33x33/ tlut-1.5/127x61/t1/ tlut-1.5/7x29/t7/ tlut-1.5/e4x33x31/t2/; do
    cases+=(--case "$name")
done
# The longest, half of the time with all formats: under a tuning, one format of
# each family of kernels.
formats=("")
[[ ! $portion =~ ^[0-9]+$ ]] || formats=(/pvq8 /ternary-dict /q2 /bf16 /tlut-2)
for format in "${formats[@]}"; do
    cases+=(--case "$format/2x1031/t7" --case "$format/e5x61x15/t2")
done
# One rate of tlut: the others have other macros.
for name in 0. 1/ 2 3 4; do
    cases+=(--except "/tlut-$name")
done

case $portion in
planted)
    check_tunings
    export OCLGRIND_DATA_RACES=1 QMOE_OPENCL_LIMITS=style=gpu,group=128,local=32K
    planted 'Invalid write' \
        'base|rows[rows_at + t]|rows[rows_at + t] + 100000' kv-store/c1/
    planted 'data race' 'base|        WAIT;|        ;' kv-store/c1/
    # Read before it is written: a variable, work space, local memory.
    planted 'attention .*nan instead' \
        'base|total = has_sinks ? 1.0f : 0.0f;|total;' kv-store/c1/
    planted 'format pvq .*nan instead' \
        'pvq|packed[PLACE(c, i)] = x;|if (c < n_cols) packed[PLACE(c, i)] = x;' \
        linear/pvq/17x17/t2
    export OCLGRIND_UNINITIALIZED=1
    planted 'Uninitialized value' 'base|sums[lane] = |if (lane < 9) sums[lane] = ' \
        kv-store/c1/
    ;;
clblast)
    export OCLGRIND_DATA_RACES=1 QMOE_OPENCL_LIMITS=clblast=1,chunk=128K
    check_cases --op linear --variant clblast "${cases[@]}"
    # shellcheck disable=SC2046 # names
    must_have_run $(kernels_of "$backend/kernels/gemm.cl")
    ;;
uninitialised)
    # The plugin spoils what pvq and q2 compute and crashes in attention for
    # processors: these have the poison alone.  Of the vector that group_fill
    # stores, and whose elements it stores then, it minds the first.
    excused=group_fill
    export OCLGRIND_UNINITIALIZED=1 QMOE_OPENCL_LIMITS=style=gpu,group=128,local=32K
    check_cases --case /c17/ --case attention/encoder/h2x17/t2 \
        --case attention/decoder/h3x15/t33 --case top-logits/v33/t1/ \
        --case top-logits/v2049/t3/top2/ --case route/e5/ \
        --case linear/bf16/2x1031/t --case linear/f32/17x17/t2 \
        --case linear/ternary-dict/17x17/t2
    ;;
*)
    export OCLGRIND_DATA_RACES=1
    style=style=$portion,group=128,local=32K
    if [[ $portion =~ ^[0-9]+$ ]]; then
        QMOE_OPENCL_TUNING=$(sed -n "${portion}p" "$here/tunings.txt")
        export QMOE_OPENCL_TUNING
        style=style=gpu
        [[ ,$QMOE_OPENCL_TUNING, == *,lanes=1,* ]] && style=style=cpu
    fi
    export QMOE_OPENCL_LIMITS=$style,chunk=128K
    check_cases "${cases[@]}"
    for file in "$backend"/kernels/*.cl; do
        for kernel in $(kernels_of "$file"); do
            # For processors alone.
            [[ $kernel == top_scan && $style != style=cpu* ]] ||
                [[ $file == */gemm.cl ]] || must_have_run "$kernel"
        done
    done
    ;;
esac
((n_bad == 0)) || exit 1

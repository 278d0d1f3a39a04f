# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Where threads come from: QMOE_THREADS.

build=$(dirname "$qmoe")

# needs KIND: skips where the build has it not.
needs() {
    export QMOE_THREADS=$1
    expect 0 "$qmoe" devices
    grep -q "^cpu .*threads: $1, " out || skip "this build has no $1"
}

case_threads_pool() {
    needs pool
}

case_threads_unknown() {
    export QMOE_THREADS=omp
    for line in "generate $pvq -p x" "verify $pvq" \
        "compress $mini -o made --method rtn"; do
        # shellcheck disable=SC2086 # a line of arguments
        expect_error 2 "QMOE_THREADS: 'omp' is neither pool nor openmp" \
            $line
    done
    nothing_left made
    expect 2 "$build/qmoe-check" --backend cpu --op attention
    has err QMOE_THREADS
}

case_threads_not_built() {
    export QMOE_THREADS=openmp
    expect 0 "$qmoe" devices
    ! grep -q '^cpu .*threads: openmp, ' out || skip "this build has openmp"
    expect_error 2 "this build has no 'openmp' (CMake option QMOE_OPENMP)" \
        verify "$pvq"
}

# The same bytes and texts, whatever does the work; with sanitizers, three
# threads of each kind alone.
case_threads_agree() {
    needs openmp
    local numbers="1 3" kind n
    ! is_too_long || numbers=3
    head -c 3000 "$source_dir/README.md" >text
    for kind in pool openmp; do
        for n in $numbers; do
            export QMOE_THREADS=$kind
            expect 0 "$qmoe" compress "$mini" -o $kind-$n --calib text \
                --samples 2 --rounds 1 --threads $n
            expect 0 "$qmoe" verify $kind-$n --threads $n
            expect 0 "$qmoe" generate "$pvq" -p "$(cat text)" --threads $n \
                --max-new-tokens 8 --backend cpu
            cp out $kind-$n.text
        done
    done
    for kind in pool openmp; do
        for n in $numbers; do
            for file in pool-3/*.safetensors; do
                same "$file" "$kind-$n/$(basename "$file")"
            done
            same pool-3.text $kind-$n.text
        done
    done
}

# OpenMP is told how many threads by a variable of its own; the option stands
# above it.
case_threads_default_number() {
    needs openmp
    local bench="bench model $pvq --repeat 1 --tokens 1 --prompt-tokens 4 --json"
    # shellcheck disable=SC2086 # a line of arguments
    expect 0 env OMP_NUM_THREADS=3 "$qmoe" $bench
    [ "$(json threads out)" = 3 ]
    # shellcheck disable=SC2086 # a line of arguments
    expect 0 env OMP_NUM_THREADS=3 "$qmoe" $bench -t 1
    [ "$(json threads out)" = 1 ]
}

# OpenMP would end the process; it is asked for no thread that is refused.
case_threads_refused() {
    needs openmp
    LD_PRELOAD="$build/tests/no_threads.so" "$qmoe" --version >log 2>&1 ||
        skip "the tool does not start with a library preloaded"
    export LD_PRELOAD=$build/tests/no_threads.so QMOE_TEST_THREADS=1
    export QMOE_BACKEND_PATH=/nowhere
    head -c 3000 "$source_dir/README.md" >text
    expect 0 "$qmoe" verify "$pvq" --threads 4
    expect 0 "$qmoe" generate "$pvq" -p x --threads 4
    expect 0 "$qmoe" compress "$mini" -o made --calib text --samples 2 \
        --rounds 1 --threads 4
}

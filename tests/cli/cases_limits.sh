# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# What the system refuses: address space, threads, OpenBLAS.  Every verb ends
# soon, with its result or one error line.

build=$(dirname "$qmoe")

# Each verb with little work, as one line of arguments.
verbs() {
    head -c 3000 "$source_dir/README.md" >text
    [ -d published ] || "$qmoe" export "$m" -o published --layout qmoe >log
    cat <<END
compress $mini -o made --calib text --samples 2 --rounds 1 --threads 2 --force
compress $mini -o made --method rtn --force
verify $m
inspect $m
plan $mini
plan $m
devices
generate $m -p x --max-new-tokens 2
eval $m --text text --samples 2
export $m -o made --dequantize --force
import published -o made --force
import $source_dir/tests/fuzz/corpus/gguf/model -o made --force
END
}

# ends_soon COMMAND...: with success or one error line, as tool and library say
# it, within seconds.
ends_soon() {
    local code=0
    timeout -k 1 60 "$@" >out.txt 2>err </dev/null || code=$?
    case $code in
    0) ;;
    1 | 5 | 6)
        grep -vE '^qmoe: (backend auto|encoder|decoder|progress)' err >left || true
        [ "$(grep -c '^qmoe: error: ' left)" = 1 ] && [ "$(wc -l <left)" = 1 ] ||
            fail "not one error line: $*: $(cat err)"
        ;;
    *) fail "exit code $code: $*: $(cat err)" ;;
    esac
}

# The tool does not start in so little memory, or with such a preload, when it
# was built with a sanitizer.
starts() {
    "$@" "$qmoe" --version >log 2>&1 || skip "the tool does not start: $*"
}

case_little_address_space() {
    starts prlimit --as=60000000
    verbs >lines
    for mib in 60 100 140 180 220 260 320 400 600; do
        while read -r line; do
            # shellcheck disable=SC2086 # a line of arguments
            ends_soon prlimit --as=$((mib << 20)) "$qmoe" $line
        done <lines
    done
    # What needs no OpenBLAS runs in the least of them.
    for verb in "verify $m" "inspect $m" "generate $m -p x -b cpu" devices; do
        # shellcheck disable=SC2086 # a line of arguments
        expect 0 prlimit --as=$((60 << 20)) "$qmoe" $verb
    done
    # The start-up code of modules' libraries does not survive that.
    expect 0 prlimit --as=$((60 << 20)) "$qmoe" devices
    [ ! -e "$build/qmoe-backends/qmoe-opencl.so" ] ||
        grep -q '^opencl .*qmoe-opencl.so: no memory to load it' out ||
        fail "$(cat out)"
    expect 1 prlimit --as=$((120 << 20)) "$qmoe" compress "$mini" -o made2 \
        --calib text --samples 2 --threads 1
    one_error "OpenBLAS needs 193 MiB of address space for 1 thread"
    nothing_left made2
}

case_no_threads() {
    starts env LD_PRELOAD="$build/tests/no_threads.so"
    verbs >lines
    # The drivers of OpenCL end the process when one of theirs is refused.
    export QMOE_BACKEND_PATH=/nowhere
    for first in 1 2 3; do
        while read -r line; do
            # shellcheck disable=SC2086 # a line of arguments
            expect 0 timeout -k 1 60 env QMOE_TEST_THREADS=$first \
                LD_PRELOAD="$build/tests/no_threads.so" "$qmoe" $line
        done <lines
    done
    unset QMOE_BACKEND_PATH
    expect 0 env LD_PRELOAD="$build/tests/no_threads.so" QMOE_TEST_THREADS=1 \
        "$qmoe" devices
    ! grep '^opencl *0' out || fail "the driver was started: $(cat out)"
}

# The system's own limit, which root is not held to.
case_two_processes() {
    [ "$(id -u)" = 0 ] || skip "only root can become a user without processes"
    mkdir -m 777 theirs
    cp -r "$m" theirs/m
    cp -r "$mini" theirs/mini
    head -c 3000 "$source_dir/README.md" >theirs/text
    chmod -R a+rX "$work"
    local as="setpriv --reuid=54321 --clear-groups prlimit --nproc=2"
    # shellcheck disable=SC2086 # a command
    starts $as
    for line in "verify m" "inspect m" devices "generate m -p x" \
        "compress $mini -o made --calib $source_dir/README.md --samples 2 --rounds 1"; do
        # shellcheck disable=SC2086 # commands
        (cd theirs && ends_soon $as "$qmoe" $line 2>../err >../log) || exit 1
    done
}

case_without_openblas() {
    ! ldd "$qmoe" | grep -i blas || fail "the tool links against OpenBLAS"
    export QMOE_OPENBLAS=/nowhere/libopenblas.so.0
    verbs >lines
    grep -v calib lines | while read -r line; do
        # shellcheck disable=SC2086 # a line of arguments
        expect 0 "$qmoe" $line
    done
    expect_error 5 "libopenblas0" compress "$mini" -o made2 --calib text
    has err "/nowhere/libopenblas.so.0" "QMOE_OPENBLAS"
    nothing_left made2
    # Whatever else is there is not taken for it.
    cp "$build/tests/no_threads.so" . && export QMOE_OPENBLAS=./no_threads.so
    expect_error 5 "OpenBLAS has no function cblas_saxpy" compress "$mini" \
        -o made2 --calib text
}

# An OpenBLAS that takes every processor for the oldest one, and that refuses to
# be loaded for more than one thread.
case_old_openblas_is_corrected() {
    grep -q ' avx2 ' /proc/cpuinfo || skip "no processor that needs correcting"
    local bench="bench kernels --shape 16x16 --batch 1 --format f32 --repeat 1
        --sample-ms 1 --cache hot --json"
    export QMOE_OPENBLAS=$build/tests/fake_openblas.so
    unset OPENBLAS_CORETYPE
    # shellcheck disable=SC2086 # a line of arguments
    expect 0 "$qmoe" $bench
    has out '"openblas_core":'
    grep -qE '"openblas_core":[[:space:]]"(Haswell|SkylakeX)"' out ||
        fail "not corrected: $(grep core out)"
    # A user's choice is left alone.
    # shellcheck disable=SC2086 # a line of arguments
    expect 0 env OPENBLAS_CORETYPE=Nehalem "$qmoe" $bench
    has out '"Nehalem"'
}

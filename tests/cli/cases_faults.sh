# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Outputs on a file system that is slow, fails or lacks features, and processes
# that die between two changes of names (tests/tools/file_faults.c).

faults=$(dirname "$qmoe")/tests/file_faults.so

# faulty VARIABLE=VALUE... COMMAND...
faulty() {
    env LD_PRELOAD="$faults" ASAN_OPTIONS="verify_asan_link_order=0:$ASAN_OPTIONS" "$@"
}

need_faults() {
    [ -e "$faults" ] || skip "no $faults"
}

no_leftovers() {
    [ -z "$(find . -maxdepth 1 -name '*.partial' -o -maxdepth 1 -name '*.old')" ] ||
        fail "left behind: $(ls -A)"
}

# The second of two runs begins while the first removes what it replaced.
case_two_forced_runs_on_a_slow_disk() {
    need_faults
    source_of compress
    accepted compress src new
    arguments compress src out-m --force
    for pause in 0 0.2 0.7; do
        rm -rf out-m
        cp -r "$tiny" out-m
        faulty QMOE_FAULT_DELAY_MS=500 "$qmoe" "${line[@]}" >out-1 2>err-1 </dev/null &
        first=$!
        until cmp -s new/config.json out-m/config.json || ! kill -0 $first 2>/dev/null; do
            :
        done
        sleep $pause
        code_1=0 code_2=0
        "$qmoe" "${line[@]}" >out-2 2>err-2 </dev/null || code_2=$?
        wait $first || code_1=$?
        case "$code_1 $code_2" in
        "0 0" | "0 3") ;;
        *) fail "exit codes $code_1, $code_2: $(cat err-1 err-2)" ;;
        esac
        diff -r new out-m || fail "the output is not whole"
        no_leftovers
    done
}

case_file_system_without_exchange() {
    need_faults
    source_of export
    accepted export src new
    cp -r "$tiny" out-m
    arguments export src out-m
    expect 3 faulty QMOE_FAULT_NO_FLAGS=1 "$qmoe" "${line[@]}"
    arguments export src out-m --force
    expect 0 faulty QMOE_FAULT_NO_FLAGS=1 "$qmoe" "${line[@]}"
    diff -r new out-m || fail "the output was not replaced"
    arguments export src fresh
    expect 0 faulty QMOE_FAULT_NO_FLAGS=1 "$qmoe" "${line[@]}"
    diff -r new fresh || fail "the output is not there"
    no_leftovers
}

# What cannot be removed at the end is an error; the result is whole.
case_removal_fails() {
    need_faults
    for verb in compress export import; do
        source_of $verb
        accepted $verb src new
        arguments $verb src out-m
        expect 3 faulty QMOE_FAULT_UNLINK=journal "$qmoe" "${line[@]}"
        one_error "out-m is complete, but out-m/journal cannot be removed: Operation not permitted"
        diff -r -x journal new out-m || fail "the output is not whole"
        accepted $verb src out-m --force
        diff -r new out-m || fail "the output is not whole"
        rm -r out-m
        cp -r "$tiny" out-m
        arguments $verb src out-m --force
        expect 3 faulty QMOE_FAULT_UNLINK=config.json "$qmoe" "${line[@]}"
        one_error "out-m is complete, but the replaced directory could not be removed: .out-m."
        diff -r new out-m || fail "the output is not whole"
        [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
        # The next run gets rid of it.
        accepted $verb src out-m --force
        no_leftovers
        rm -r src new out-m
    done
}

# killed_at_each_change FAULT VERB: before every change of names in turn.
killed_at_each_change() {
    local fault=$1 verb=$2 n code
    source_of "$verb"
    accepted "$verb" src new
    "$qmoe" export "$tiny" -o old --dequantize --dtype f32 >out
    mkdir .out-m.7.old
    echo text >.out-m.7.old/thesis.txt
    arguments "$verb" src out-m --force
    for n in $(seq 200); do
        cp -r old out-m
        code=0
        faulty "$fault" QMOE_FAULT_KILL_AT="$n" "$qmoe" "${line[@]}" >out 2>err </dev/null ||
            code=$?
        [ $code != 0 ] || break
        [ $code = 137 ] || fail "exit code $code: $(cat err)"
        whole_after_kill "$n"
        expect 0 "$qmoe" "${line[@]}"
        diff -r new out-m || fail "kill $n: the next run did not write"
        rm -r out-m
        [ "$(find . -maxdepth 1 -name '*.partial' -o -maxdepth 1 -name '*.old')" = ./.out-m.7.old ] ||
            fail "kill $n: left behind: $(ls -A)"
    done
    is_true "$n > 12 && $n < 200"
    has .out-m.7.old/thesis.txt text
    rm -r src new old out-m .out-m.7.old
}

# The old or the new result has its name; or, without an exchange, neither has
# and both are whole.
whole_after_kill() {
    if [ -e out-m ]; then
        diff -rq -x journal old out-m >difference || diff -rq -x journal new out-m >difference ||
            fail "kill $1: the output is no whole result: $(ls -l out-m)"
    else
        [ "$fault" = QMOE_FAULT_NO_FLAGS=1 ] || fail "kill $1: there is no output"
        diff -r -x journal new out-m.partial || fail "kill $1: the new result is lost"
        diff -r -x journal old "$(echo .out-m.[0-9][0-9]*.old)" || fail "kill $1: the old result is lost"
    fi
}

case_killed_at_each_change_of_names() {
    costly
    need_faults
    for verb in compress export import; do
        killed_at_each_change QMOE_FAULT_NO=1 $verb
    done
}

case_killed_at_each_change_without_exchange() {
    costly
    need_faults
    killed_at_each_change QMOE_FAULT_NO_FLAGS=1 export
}

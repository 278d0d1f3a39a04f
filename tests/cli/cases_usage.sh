# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# Help, the command line's errors, and the standard streams.

verbs="compress generate eval inspect verify plan import export devices bench selftest"

case_help() {
    expect 0 "$qmoe" --help
    is_empty err
    has out "Usage: qmoe" "Exit codes:" 130
    expect 0 "$qmoe" -h
    for verb in $verbs; do
        has out "  $verb "
    done
    for verb in $verbs; do
        expect 0 "$qmoe" "$verb" --help
        is_empty err
        has out "Usage: qmoe $verb" Options: Example --json "Exit codes"
        awk 'length > 80' out >long
        is_empty long
    done
}

case_version() {
    expect 0 "$qmoe" --version
    expected=$(sed -n 's/^#define QMOE_VERSION_[A-Z]* //p' \
        "$source_dir/include/qmoe/qmoe.h" | paste -sd.)
    echo "qmoe $expected" >expected
    same out expected
}

case_unknown_verb() {
    expect_error 2 "no command"
    expect_error 2 "did you mean 'compress'" comprss
    expect_error 2 "did you mean 'generate'" gen
    expect_error 2 "qmoe --help" frobnicate
    expect_error 2 "unknown command ''" ""
    expect_error 2 "unexpected argument 'x'" --version x
}

case_positional_arguments() {
    expect_error 2 "CHECKPOINT is missing" compress -o out-m
    for verb in inspect verify; do
        expect_error 2 "MODEL is missing" $verb
        expect_error 2 "unexpected argument 'again'" $verb "$m" again
    done
    expect_error 2 "MODEL is missing" generate -p x
    expect_error 2 "MODEL is missing" verify ""
    expect_error 2 "unexpected argument 'b'" compress a b -o out-m
    expect_error 2 "unexpected argument 'cpu'" devices cpu
    nothing_left out-m
}

case_missing_options() {
    expect_error 2 "-o OUT" compress --method rtn "$mini"
    expect_error 2 "--text" eval "$m"
    expect_error 2 "no prompt" generate "$m"
    expect_error 2 "'--output' needs a value" compress --method rtn "$mini" --output
    expect_error 2 "'-p' needs a value" generate "$m" -p
    expect_error 2 "exclude each other" inspect "$m" --stats --no-stats
}

case_unknown_options() {
    expect_error 2 "did you mean --json" verify "$m" --jsn
    expect_error 2 "unknown option '--qqqq'" verify "$m" --qqqq
    expect_error 2 "unknown option '-z'" verify "$m" -z
    expect_error 2 "'--json' takes no value" verify "$m" --json=yes
}

case_numbers() {
    for bad in 0 -1 2x x "" 1.5 0x2 " 2" 1e-1 1e4 99999999999999999999; do
        expect_error 2 "'$bad' is not a whole number from 1 to 1024" \
            generate "$m" -p x --threads "$bad"
    done
    for bad in -0.5 1.5 nan inf 0.5x "" 0x1 1001; do
        expect_error 2 "is not a number from 0 to 1" \
            generate "$m" -p x --top-p "$bad"
    done
    expect_error 2 "from 0 to 1000" generate "$m" -p x --temperature 1001
    expect_error 2 "from 1 to 1048576" generate "$m" -p x --max-new-tokens 0
    expect_error 2 "from 0 to 4294967295" eval "$m" --text x --seed 4294967296
    expect_error 2 "from 0 to 18446744073709551615" \
        generate "$m" -p x --seed 18446744073709551616
}

case_output_that_cannot_be_written() {
    [ -c /dev/full ] || skip "no /dev/full"
    for command in "--help" "devices" "devices --json" "verify $m" \
        "generate $m -t 1 -p x --max-new-tokens 4"; do
        code=0
        # shellcheck disable=SC2086 # words of a command
        "$qmoe" $command >/dev/full 2>err || code=$?
        [ $code = 3 ] || fail "exit code $code with a full disk: $command"
        one_error "standard output: No space left on device"
        code=0
        # shellcheck disable=SC2086
        "$qmoe" $command >&- 2>err || code=$?
        [ $code = 3 ] || fail "exit code $code with closed output: $command"
    done
}

case_reader_that_leaves() {
    {
        sleep 0.3 # the reader is gone before the first byte is written
        code=0
        "$qmoe" inspect "$m" --json 2>err || code=$?
        echo $code >code
    } | true
    has code 3
    one_error "standard output: Broken pipe"
}

case_names_cannot_drive_a_terminal() {
    name=$(printf 'no\033[31m\nsuch')
    expect_error 3 "no?[31m?such" verify "$name"
    name=$(printf 'caf\351')
    cp -r "$tiny" "$name"
    expect 0 "$qmoe" inspect "$name" --json
    valid_json out
}

case_progress_needs_a_terminal() {
    expect 0 "$qmoe" verify "$m"
    is_empty err
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m
    is_empty err
}

case_progress_on_a_terminal() {
    command -v script >/dev/null || skip "no script(1)"
    # Enough for the line to be drawn more than once.
    local copies=5
    ! sanitized || copies=1
    for _ in $(seq $copies); do text; done >text
    printf '%s' "exec $qmoe eval $m --text text --backend reference -t 1" >job
    TERM=xterm timeout 600 script -qec "sh job" /dev/null \
        </dev/null >screen 2>&1 || fail "script: $(cat screen)"
    has screen evaluate samples/s loss
    # The line is taken away before the result.
    tail -n 4 screen | grep -q 'evaluate.*samples/s' &&
        ! tail -n 4 screen | grep -qF "$(printf '\r\033[Kloss')" &&
        fail "progress is left on the screen"
    TERM=dumb timeout 600 script -qec "sh job" /dev/null \
        </dev/null >screen 2>&1 || fail "script: $(cat screen)"
    ! grep -qF "$(printf '\033[K')" screen || fail "control codes on a dumb terminal"
    # What takes long says so in whole lines.
    ! grep -v '^qmoe: progress: ' screen | grep -q samples/s ||
        fail "a progress bar on a dumb terminal"
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# SIGINT and SIGTERM in the middle of one long operation of each verb, and the
# progress of long ones.  The time to exit is measured in processor time, which
# a busy machine does not stretch.

# Processor time of a running process with its threads, in ticks of 10 ms.
ticks_of() {
    awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat" 2>/dev/null ||
        echo gone
}

# has_ended JOB WHEN: the failure of a job that should still run.
has_ended() {
    local code=0
    wait "$1" || code=$?
    fail "ended $2: exit code $code: $(cat out err)"
}

# Waits until a job has set its handlers for SIGINT and SIGTERM.
handles_signals() {
    local caught
    for _ in $(seq 3000); do
        kill -0 "$1" 2>/dev/null || has_ended "$1" "before it caught signals"
        caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) || continue
        if ((16#0$caught & 0x2 && 16#0$caught & 0x4000)); then
            return
        fi
        sleep 0.01
    done
    kill -KILL "$1"
    fail "it catches no signals: $(cat out err)"
}

# signal_to JOB SIGNAL
signal_to() {
    kill -s "$2" "$1" 2>/dev/null || has_ended "$1" "before the signal"
}

# Sanitizers are slow, and look for leaks at the end.
most_ticks=100
! sanitized || most_ticks=1000

# interrupted SIGNAL TICKS ARGUMENT...: runs the tool, sends the signal when it
# has computed for that long (0: when it has run for a second), and expects exit
# code 130 within a second.
interrupted() {
    local signal=$1 after=$2 code=0 at now last job
    shift 2
    # Job control: otherwise the shell lets background jobs ignore SIGINT.
    set -m
    "$qmoe" "$@" >out 2>err </dev/null &
    job=$!
    set +m
    handles_signals $job
    [ "$after" != 0 ] || sleep 1
    for _ in $(seq 6000); do
        now=$(ticks_of $job)
        if [ "$now" = gone ] || [ "$now" -ge "$after" ]; then break; fi
        sleep 0.01
    done
    [ "$now" != gone ] || has_ended $job "before the signal: $*"
    signal_to $job "$signal"
    at=$now last=$now
    for _ in $(seq 12000); do
        if [ "$now" = gone ] || [ "$now" -gt $((at + most_ticks)) ]; then break; fi
        sleep 0.01
        last=$now
        now=$(ticks_of $job)
    done
    if kill -KILL $job 2>/dev/null; then
        fail "$((now - at)) ticks after the signal, and on: $*"
    fi
    wait $job || code=$?
    [ "$code" = 130 ] || fail "exit code $code: $*: $(cat err)"
    one_error interrupted
    echo "# $((last - at)) ticks: $*" >&3
}

# A checkpoint without a disk: random experts of the largest published shapes.
largest="synth:c-2048?experts=1&encoder_blocks=2&decoder_blocks=1&tokenizer=$mini"

long_prompt() {
    yes "And the LORD said unto him" | head -n "$1" | tr '\n' ' '
}

documents() {
    for i in $(seq 1 "$1"); do
        echo "And it came to pass in day $i, that the word was with the people," \
            "and they went up from the city unto the land which I gave them."
    done
}

case_interrupted_prompt() {
    long_prompt 12000 >prompt
    for backend in cpu reference; do
        interrupted INT 150 generate "$mini" --prompt-file prompt -t 1 -b $backend
        is_empty out
    done
    interrupted TERM 150 generate "$mini" --prompt-file prompt -t 2 -b cpu
}

case_interrupted_prompt_opencl() {
    expect 0 "$qmoe" devices
    ! grep -E '^opencl' out | grep -q ' - ' || skip "no OpenCL device"
    long_prompt 12000 >prompt
    # Programs are built for a device first, which nothing can interrupt.
    expect 0 "$qmoe" generate "$mini" -p "$prompt" -b opencl --max-new-tokens 1
    interrupted INT 300 generate "$mini" --prompt-file prompt -t 1 -b opencl
}

case_interrupted_decoding() {
    interrupted INT 50 generate "$mini" -p x -t 1 -b reference \
        --ignore-eos --max-new-tokens 100000
}

case_interrupted_evaluation() {
    documents 20000 >text
    interrupted TERM 100 eval "$mini" --text text -t 1 -b cpu
    interrupted INT 100 eval "$mini" --text text -t 1 -b reference
    is_empty out
}

case_interrupted_calibration_text() {
    documents 200000 >calib.txt
    interrupted INT 60 compress "$mini" -o out-m --calib calib.txt -t 1
    nothing_left out-m
}

# One block's attention, with all tokens.
case_interrupted_dense_part() {
    costly
    documents 3000 >calib.txt
    interrupted TERM 500 compress -o out-m --calib calib.txt -t 1 \
        "synth:base-8?experts=1&encoder_blocks=2&decoder_blocks=1&tokenizer=$mini"
    nothing_left out-m
}

# Matrices of 6144 columns: moments, factor, sweep, descent, and both formats
# of a trial.
case_interrupted_matrix() {
    costly
    documents 8 >calib.txt
    interrupted INT 600 compress -o out-m --calib calib.txt -t 1 "$largest"
    nothing_left out-m
    interrupted INT 900 compress -o out-m --calib calib.txt -t 1 --bits 0.7 "$largest"
    nothing_left out-m
    interrupted TERM 500 compress -o out-m --calib calib.txt -t 1 "$largest" \
        --format ternary-dict --levels fit
    nothing_left out-m
    interrupted TERM 250 compress -o out-m --method rtn -t 1 "$largest"
    nothing_left out-m
}

# The structure of a large model, most of whose bytes are holes of its files.
case_interrupted_reading() {
    costly
    make=$(dirname "$qmoe")/tests/make_hollow_model
    [ -x "$make" ] || skip "no make_hollow_model beside the tool"
    expect 0 "$make" "synth:c-2048?encoder_blocks=2&decoder_blocks=2&tokenizer=$mini" \
        large 1
    interrupted INT 20 verify large -t 1
    interrupted TERM 100 inspect large --stats
    is_empty out
    interrupted INT 100 export large -o out-m --dequantize -t 1
    nothing_left out-m
}

case_interrupted_import() {
    expect 0 "$qmoe" compress -o small --method rtn --format ternary-dict \
        "synth:base-8?encoder_blocks=2&decoder_blocks=2&tokenizer=$mini"
    expect 0 "$qmoe" export small -o published --layout qmoe
    interrupted INT 150 import published -o out-m --format pvq
    nothing_left out-m
}

case_interrupted_measurements() {
    interrupted INT 100 bench kernels
    interrupted INT 100 bench attention --queries 16384 --keys 16384
    interrupted TERM 100 bench model "$mini" -t 1 --tokens 4096 --repeat 50
    interrupted INT 0 selftest -b cpu
}

case_interrupted_plan() {
    interrupted INT 30 plan synth:c-2048 -t 1
    is_empty out
}

# A driver that takes long to start.
case_interrupted_devices() {
    need_opencl_module
    expect 0 "$qmoe" devices
    ! grep -q 'no OpenCL loader' out || skip "no OpenCL loader"
    mkdir vendors
    mkfifo vendors/slow.icd
    set -m
    OCL_ICD_VENDORS=$PWD/vendors "$qmoe" devices >out 2>err </dev/null &
    job=$!
    set +m
    handles_signals $job
    sleep 0.5 # now the loader waits for the pipe, unless the machine is slow
    signal_to $job INT
    : >vendors/slow.icd &
    writer=$!
    code=0
    wait $job || code=$?
    kill $writer 2>/dev/null || true
    [ "$code" = 130 ] || fail "exit code $code: $(cat err)"
    one_error interrupted
    is_empty out
}

# The first signal cannot end a wait for a file that nobody writes; the second
# one, also of the other kind, does.
case_second_signal() {
    mkfifo pipe
    set -m
    "$qmoe" compress "$mini" -o out-m --calib pipe -t 1 >out 2>err </dev/null &
    job=$!
    set +m
    handles_signals $job
    sleep 0.5 # now it waits for the pipe
    signal_to $job INT
    sleep 0.5
    kill -0 $job 2>/dev/null || skip "the first signal ended it"
    kill -TERM $job
    code=0
    for _ in $(seq 500); do
        kill -0 $job 2>/dev/null || break
        sleep 0.01
    done
    if kill -KILL $job 2>/dev/null; then fail "runs on"; fi
    wait $job || code=$?
    [ "$code" = 143 ] || fail "exit code $code: $(cat err)"
}

# ---- progress ----

# One group, whose experts take seconds each.
slow_group() {
    documents 200 >calib.txt
    printf '%s' "exec $qmoe compress -o out-m --calib calib.txt -t 1 \
        'synth:base-8?experts=4&encoder_blocks=2&decoder_blocks=1&tokenizer=$mini'"
}

case_progress_within_a_group() {
    costly
    command -v script >/dev/null || skip "no script(1)"
    slow_group >job
    TERM=xterm COLUMNS=200 timeout 600 script -qec "stty cols 200; sh job" \
        /dev/null </dev/null >screen 2>&1 || fail "script: $(tail -c 500 screen)"
    tr '\r' '\n' <screen | grep '^quantize' >lines || fail "no progress"
    # Counters that move while the only group of the block is worked on.
    for what in 'expert [0-9]*/4' '[0-9]* tokens' 'error [0-9.]*' '[0-9.]* [kMG]*weights/s' \
        'ETA [0-9:]*' '^quantize *[0-9]*%'; do
        n=$(grep -oE "$what" lines | sort -u | wc -l)
        [ "$n" -ge 3 ] || fail "'$what' takes $n values: $(sort -u lines | head -40)"
    done
    for e in 1 2 3; do
        has lines "encoder block 1, expert $e/4"
    done
}

case_progress_of_a_long_prompt() {
    costly
    command -v script >/dev/null || skip "no script(1)"
    long_prompt 150 >prompt
    printf '%s' "exec $qmoe generate $mini --prompt-file prompt -b reference \
        --max-new-tokens 1 -t 1" >job
    TERM=xterm timeout 600 script -qec "sh job" /dev/null \
        </dev/null >screen 2>&1 || fail "script: $(tail -c 500 screen)"
    has screen "encode" "block 1 of 2" "block 2 of 2" ETA
}

# Into a file goes a line every ten seconds.
case_progress_without_a_terminal() {
    costly
    set -m
    "$qmoe" compress -o out-m --calib <(documents 8) -t 1 "$largest" \
        >out 2>err </dev/null &
    job=$!
    set +m
    for _ in $(seq 600); do
        [ "$(grep -c '^qmoe: progress: quantize ' err)" -lt 2 ] || break
        kill -0 $job 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL $job 2>/dev/null
    wait $job || true
    [ "$(grep -c '^qmoe: progress: quantize ' err)" = 2 ] || fail "$(cat err)"
    rm -rf out-m.partial
}

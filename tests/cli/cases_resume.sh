# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Calibrated compression: plan, interruption, continuation.

# Documents to calibrate with.
calibration() {
    for i in $(seq 1 40); do
        echo "And it came to pass in day $i, that the word was with the people," \
            "and they went up from the city unto the land which I gave them."
    done >calib.txt
}

calibrated() {
    "$qmoe" compress "$mini" --calib calib.txt --rounds 2 --group-size 2 -t 1 "$@"
}

case_compress_calibrated() {
    calibration
    expect 0 calibrated -o gptq-m --json
    valid_json out
    is_true "$(json input_error out) < 0.5"
    expect 0 "$qmoe" verify gptq-m
    expect 0 "$qmoe" generate gptq-m -p "$prompt" --max-new-tokens 4
    expect 0 "$qmoe" compress "$mini" --calib calib.txt -o rtn-m --method rtn --json
    [ -e gptq-m/qmoe_report.json ] || fail "no per-expert report"
}

case_compress_needs_data_or_rtn() {
    expect_error 2 --calib compress "$mini" -o out-m
    nothing_left out-m
    expect_error 2 --calib compress "$mini" -o out-m --method gptq
    nothing_left out-m
    expect_error 3 missing.txt compress "$mini" -o out-m --calib missing.txt
    nothing_left out-m
    : >empty.txt
    expect_error 4 empty.txt compress "$mini" -o out-m --calib empty.txt
    nothing_left out-m
}

case_compress_dry_run() {
    calibration
    expect 0 calibrated -o out-m --dry-run
    has out memory time
    expect 0 calibrated -o out-m --dry-run --json
    valid_json out
    is_true "$(json memory_bytes out) > 0"
    nothing_left out-m
}

case_compress_memory_limit() {
    calibration
    expect_error 2 "the limit" compress "$mini" --calib calib.txt -o out-m --memory-limit 2M
    nothing_left out-m
}

# Killed five times at random moments, a run ends with the same bytes.
case_compress_killed_and_resumed() {
    costly
    killed_and_resumed
}

# The same while formats are tried, and after.
case_compress_bits_killed_and_resumed() {
    costly
    killed_and_resumed --bits 0.75
}

killed_and_resumed() {
    local n_done=0 job
    calibration
    expect 0 calibrated -o whole "$@"
    for _ in 1 2 3 4 5; do
        # Not the function: the signal is for the tool, not for a subshell.
        "$qmoe" compress "$mini" --calib calib.txt --rounds 2 --group-size 2 -t 1 \
            -o out-m --resume --json "$@" >out 2>err </dev/null &
        job=$!
        sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
        kill -9 $job 2>/dev/null || true
        wait $job 2>/dev/null || true
        [ ! -e out-m ] || break
        n_done=$(finished_experts)
    done
    [ -e out-m ] || expect 0 calibrated -o out-m --resume --json "$@"
    diff -r whole out-m || fail "the resumed run differs"
    # Killed after the rename it may have said nothing.
    [ ! -s out ] || [ "$(json resumed_experts out)" = "$n_done" ] ||
        fail "$(json resumed_experts out) experts were kept, not $n_done"
    [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
}

# In the journal of out-m.
finished_experts() {
    cat out-m.partial/journal 2>/dev/null | grep -c '^expert ' || true
}

# Leaves a run of `$1` killed after some experts in out-m.partial.
killed_among_experts() {
    local job
    "$qmoe" compress "$1" --calib calib.txt --rounds 2 --group-size 2 -t 1 \
        -o out-m >out 2>err </dev/null &
    job=$!
    while [ "$(finished_experts)" -lt 6 ] && kill -0 $job 2>/dev/null; do
        sleep 0.01
    done
    kill -9 $job 2>/dev/null || true
    wait $job 2>/dev/null || true
    [ -e out-m.partial/journal ] || fail "the run ended before it was killed"
}

# Work is kept; damaged work is not; and another source is no continuation.
case_compress_resume_believes_what_it_checked() {
    costly
    local n_done i shard
    calibration
    cp -r "$mini" source
    expect 0 calibrated -o whole
    killed_among_experts source
    n_done=$(finished_experts)
    cp -r out-m.partial saved
    expect 0 "$qmoe" compress source --calib calib.txt --rounds 2 --group-size 2 \
        -o out-m --resume
    diff -r whole out-m || fail "the resumed run differs"
    has out "resumed  $n_done of 32 experts were done"
    rm -r out-m

    cp -r saved out-m.partial
    shard=out-m.partial/model-00002-of-00005.safetensors
    for i in $(seq 64); do
        flip $shard $((i * $(stat -c %s $shard) / 65))
    done
    expect 0 calibrated -o out-m --resume --json
    diff -r whole out-m || fail "damage of the shards is in the result"
    has err "model-00002-of-00005.safetensors: expert" "compressed again"
    is_true "$(json resumed_experts out) < $n_done"
    rm -r out-m

    cp -r saved out-m.partial
    sed -i 's/"layer_norm_epsilon": [^,]*/"layer_norm_epsilon": 0.001/' source/config.json
    expect_error 2 "config.json is" compress source --calib calib.txt --rounds 2 \
        -o out-m --resume
    cp "$mini/config.json" source
    cp calib.txt other.txt
    expect_error 2 "record of the calibration files is" compress source --calib other.txt \
        --rounds 2 -o out-m --resume
    # 393,216 weights.
    head -c 786432 /dev/urandom |
        dd of=source/model.safetensors bs=4096 seek=2000 conv=notrunc status=none
    expect_error 2 "model.safetensors is" compress source --calib calib.txt --rounds 2 \
        -o out-m --resume
    [ "$(finished_experts)" = "$n_done" ] || fail "the interrupted run was touched"
}

case_compress_resume_refusals() {
    calibration
    mkdir out-m.partial
    printf 'qmoe-journal 1 0123456789abcdef\n' >out-m.partial/journal
    expect_error 3 --resume compress "$mini" --calib calib.txt -o out-m
    expect_error 2 "another version" compress "$mini" --calib calib.txt \
        -o out-m --resume
    printf 'qmoe-journal 3\nrubbish\nrubbish\n' >out-m.partial/journal
    expect_error 4 journal compress "$mini" --calib calib.txt -o out-m --resume
    [ -e out-m.partial/journal ] || fail "the interrupted run was removed"
    expect 0 "$qmoe" compress "$mini" --calib calib.txt --rounds 2 -o out-m --force
}

# A full disk in the middle: an error, then --resume on a larger one.
case_compress_full_disk_then_resume() {
    calibration
    mkdir disk
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare -m bash -c '
        set -e
        mount -t tmpfs -o size=5500k tmpfs disk || exit 77
        code=0
        "$1" compress "$2" --calib calib.txt --rounds 2 --group-size 2 -t 1 -o disk/m \
            >out 2>err || code=$?
        [ $code = 3 ] || exit 1
        [ ! -e disk/m ] || exit 1
        mount -o remount,size=64m disk
        "$1" compress "$2" --calib calib.txt --rounds 2 --group-size 2 -t 1 -o disk/m \
            --resume >>out 2>>err
        "$1" verify disk/m >>out 2>>err' bash "$qmoe" "$mini" 2>unshare.err ||
        code=$?
    [ "${code:-0}" != 77 ] || skip "no tmpfs can be mounted"
    ! grep -q 'unshare' unshare.err || skip "no mount namespace"
    [ "${code:-0}" = 0 ] || fail "$(cat err unshare.err)"
    has err "disk/m"
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2016,SC2094
# Broken input, failing disks, interruption: one clear error, nothing left.

# A copy of a model directory that may be broken.
copy() {
    rm -rf "$2"
    cp -r "$1" "$2"
    chmod -R u+w "$2"
}

# Makes a model one that was written before there were digests.
undigested() {
    command -v python3 >/dev/null || skip "no python3"
    python3 - "$1/config.json" <<'END' || fail "no config.json in $1"
import json, sys
config = json.load(open(sys.argv[1]))
q = config["quantization_config"]
del q["config_xxh3"]
q["files"] = {n: f for n, f in q["files"].items() if "header_xxh3" in f}
json.dump(config, open(sys.argv[1], "w"), indent=1)
END
}

# compress must fail on SOURCE with CODE and TEXT, and leave nothing.
compress_fails() {
    local code=$1 text=$2 source=$3
    shift 3
    expect_error "$code" "$text" compress --method rtn "$source" -o out-m "$@"
    nothing_left out-m
}

case_truncated_checkpoint() {
    copy "$mini" bad
    truncate -s -1 bad/model.safetensors
    compress_fails 4 bad/model.safetensors bad
    expect_error 4 bad/model.safetensors generate bad -p x
    truncate -s 100 bad/model.safetensors
    compress_fails 4 bad/model.safetensors bad
    truncate -s 4 bad/model.safetensors
    compress_fails 4 bad/model.safetensors bad
    : >bad/model.safetensors
    compress_fails 4 bad/model.safetensors bad
    copy "$mini" bad
    echo >>bad/model.safetensors
    compress_fails 4 bad/model.safetensors bad
}

case_truncated_shard() {
    copy "$m" bad
    for shard in "$m"/*.safetensors; do
        name=${shard##*/}
        truncate -s -1 "bad/$name"
        expect_fault 4 "bad/$name" bad
        for command in "inspect bad" "generate bad -p x"; do
            # shellcheck disable=SC2086 # words of a command
            expect_error 4 "bad/$name" $command
        done
        cp "$shard" "bad/$name"
    done
}

case_missing_shard() {
    copy "$m" bad
    for shard in "$m"/*.safetensors; do
        name=${shard##*/}
        rm "bad/$name"
        expect_fault 4 "bad/$name: missing" bad
        cp "$shard" "bad/$name"
    done
}

# Every seventh tensor with sanitizers.
case_flipped_byte_in_every_tensor() {
    flip_every_tensor "$m"
    flip_every_tensor "$pvq"
}

flip_every_tensor() {
    local step=1
    ! is_too_long || step=7
    n=0
    copy "$1" bad
    for shard in bad/*.safetensors; do
        tensors "$shard" >list
        [ -s list ] || fail "no tensors found in $shard"
        while read -r name begin end; do
            n=$((n + 1))
            [ $((n % step)) = 0 ] || continue
            flip "$shard" $(((begin + end) / 2))
            expect_fault 4 "'$name'" bad
            flip "$shard" $(((begin + end) / 2))
        done <list
    done
    expect 0 "$qmoe" verify bad --json
    [ "$(json tensors out)" = $n ] || fail "$n tensors tried, not all"
}

case_flipped_first_and_last_byte() {
    copy "$tiny" bad
    shard=$(find bad -name '*.safetensors' | sort | tail -n 1)
    tensors "$shard" >list
    while read -r name begin end; do
        for at in "$begin" $((end - 1)); do
            flip "$shard" "$at"
            expect_fault 4 "'$name'" bad
            flip "$shard" "$at"
        done
    done <list
}

case_flipped_byte_in_headers() {
    copy "$tiny" bad
    for shard in bad/*.safetensors; do
        header=$(od -An -tu8 -N8 "$shard" | tr -d ' ')
        at=0
        while [ $at -lt $((header + 8)) ]; do
            flip "$shard" $at
            expect 4 "$qmoe" verify bad
            one_error "${shard##*/}"
            flip "$shard" $at
            at=$((at + 499))
        done
    done
}

case_config_of_another_model() {
    copy "$mini" bad
    sed -i 's/switch_transformers/t5/' bad/config.json
    compress_fails 5 "model_type 't5'" bad
    expect_error 5 "model_type 't5'" generate bad -p x
    sed -i '/model_type/d' bad/config.json
    compress_fails 4 "model_type" bad
    echo '{' >bad/config.json
    compress_fails 4 bad/config.json bad
    rm bad/config.json
    compress_fails 3 config.json bad
    copy "$mini" bad
    sed -i 's/"d_ff": [0-9]*/"d_ff": 513/' bad/config.json
    compress_fails 4 "" bad
}

case_format_of_another_version() {
    copy "$tiny" bad
    undigested bad
    sed -i 's/"version":[[:space:]]*[0-9]*/"version": 999/' bad/config.json
    expect_error 5 999 inspect bad
    copy "$tiny" bad
    undigested bad
    sed -i 's/ternary-dict/quaternary/' bad/config.json
    expect_error 5 quaternary inspect bad
}

case_missing_tokenizer() {
    copy "$mini" bad
    rm bad/spiece.model
    compress_fails 3 spiece.model bad
    expect_error 3 spiece.model generate bad -p x
    expect 0 "$qmoe" compress --method rtn bad -o out-m --no-tokenizer
    expect 0 "$qmoe" verify out-m
    text >text
    expect_error 3 spiece.model eval out-m --text text
    copy "$mini" bad
    truncate -s 1000 bad/spiece.model
    rm -r out-m
    compress_fails 4 spiece.model bad
}

case_missing_model() {
    compress_fails 3 missing missing
    for verb in inspect verify; do
        expect_error 3 missing $verb missing
        expect_error 3 config.json $verb .
    done
    : >file
    expect 3 "$qmoe" verify file
    one_error file
}

case_unsupported_requests() {
    compress_fails 5 "already compressed" "$pvq"
    compress_fails 5 "already compressed" "$m"
    compress_fails 5 "'quaternary'" "$mini" --format quaternary
    expect_error 5 "'guess'" compress "$mini" -o out-m --method guess
    nothing_left out-m
}

# ---- outputs that cannot be written ----

case_output_in_no_directory() {
    expect_error 3 "No such file or directory" compress --method rtn "$mini" -o none/out-m
    nothing_left none/out-m
    : >file
    expect_error 3 "Not a directory" compress --method rtn "$mini" -o file/out-m
}

# in_namespace COMMAND...: with the right to mount, unseen by other processes.
in_namespace() {
    if [ "$(id -u)" = 0 ]; then
        unshare -m "$@"
    else
        unshare -rm "$@"
    fi
}

need_tmpfs() {
    command -v unshare >/dev/null || skip "no unshare(1)"
    mkdir disk
    in_namespace mount -t tmpfs tmpfs disk 2>/dev/null ||
        skip "no right to mount a tmpfs"
}

case_unwritable_output() {
    mkdir locked
    chmod a-w locked
    if [ "$(id -u)" != 0 ]; then
        expect_error 3 "Permission denied" compress --method rtn "$mini" -o locked/out-m
        nothing_left locked/out-m
        return
    fi
    need_tmpfs # root writes in spite of modes, but not to a read-only disk
    expect 3 in_namespace sh -c \
        'mount -t tmpfs -o ro tmpfs disk && exec "$1" compress --method rtn "$2" -o disk/m' \
        sh "$qmoe" "$mini"
    one_error "Read-only file system"
}

case_full_disk() {
    need_tmpfs
    n_bytes=$(du -sk --apparent-size "$m" | cut -f 1)
    for size in 8 300 $((n_bytes / 2)) $((n_bytes - 300)); do
        expect 3 in_namespace sh -c 'mount -t tmpfs -o size=$3k tmpfs disk &&
            { "$1" compress --method rtn --format ternary-dict "$2" -o disk/m
              code=$?; ls -A disk; exit $code; }' \
            sh "$qmoe" "$mini" "$size"
        one_error disk/m
        grep -qE 'No space left on device|are free' err ||
            fail "the error does not name the full disk: $(cat err)"
        # A run with finished experts stays for --resume, nothing else.
        [ ! -s out ] || [ "$(cat out)" = m.partial ] || fail "left: $(cat out)"
    done
}

# Writing fails in another way, without a right to mount.
case_file_size_limit() {
    for blocks in 1 600 4000; do
        code=0
        (
            ulimit -f $blocks
            exec "$qmoe" compress --method rtn "$mini" -o out-m
        ) >out 2>err || code=$?
        [ $code = 3 ] || fail "exit code $code: $(cat err)"
        one_error "File too large"
        nothing_left out-m
    done
}

# ---- interruption ----

# interrupt SIGNAL COMMAND...: sends the signal when compress has begun to
# write, others after half a second; prints the exit code.
interrupt() {
    local signal=$1 code=0 job
    shift
    # Job control: otherwise the shell lets background jobs ignore SIGINT.
    set -m
    "$@" >out 2>err </dev/null &
    job=$!
    set +m
    if [ "$2" = compress ]; then
        for _ in $(seq 500); do
            [ ! -e out-m.partial ] || break
            sleep 0.01
        done
    else
        sleep 0.5
    fi
    kill -s "$signal" "$job" 2>/dev/null || true
    wait "$job" || code=$?
    echo $code
}

case_interrupted_compress() {
    for signal in INT TERM; do
        code=$(interrupt $signal "$qmoe" compress --method rtn "$mini" -o out-m -t 1)
        [ "$code" != 0 ] || skip "compress was done before the signal"
        [ "$code" = 130 ] || fail "exit code $code: $(cat err)"
        one_error interrupted
        nothing_left out-m
        is_empty out
    done
    cp -r "$m" out-m
    code=$(interrupt INT "$qmoe" compress --method rtn "$mini" -o out-m -t 1 --force)
    [ "$code" = 130 ] || fail "exit code $code: $(cat err)"
    diff -r "$m" out-m || fail "the old output was touched"
    rm -r out-m
    nothing_left out-m
}

# What a killed run left does not disturb the next.
case_killed_compress() {
    code=$(interrupt KILL "$qmoe" compress --method rtn "$mini" -o out-m -t 1)
    [ "$code" != 0 ] || skip "compress was done before the signal"
    [ ! -e out-m ] || fail "out-m exists"
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --force
    [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
    expect 0 "$qmoe" verify out-m
}

# Weights are used through a memory map: a file cut short under a running
# session is an error like any other.
case_weights_cut_short_while_in_use() {
    copy "$mini" bad
    code=0
    "$qmoe" generate bad -b cpu -p x --ignore-eos --max-new-tokens 100000 \
        >out 2>err </dev/null &
    job=$!
    for _ in $(seq 500); do
        [ ! -s out ] || break
        sleep 0.01
    done
    truncate -s 4096 bad/model.safetensors
    wait "$job" || code=$?
    [ "$code" = 3 ] || fail "exit code $code: $(cat err)"
    one_error bad/model.safetensors
}

# The second of two writers of one output gives up.
case_two_writers() {
    mkdir out-m.partial
    exec 9<out-m.partial
    flock -n 9 || skip "no flock(1)"
    expect_error 3 "another process" compress --method rtn "$mini" -o out-m
    exec 9<&-
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m
}

case_interrupted_generate() {
    code=$(interrupt INT "$qmoe" generate "$m" -p "$prompt" -t 1 \
        --backend reference --ignore-eos --max-new-tokens 100000)
    [ "$code" = 130 ] || fail "exit code $code: $(cat err)"
    one_error interrupted
}

case_interrupted_eval() {
    text | awk '{ for (i = 0; i < 300; i++) print }' >text
    code=$(interrupt INT "$qmoe" eval "$m" --text text -t 1)
    [ "$code" = 130 ] || fail "exit code $code: $(cat err)"
    one_error interrupted
    is_empty out
}

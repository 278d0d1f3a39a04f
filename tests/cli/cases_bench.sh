# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# Measuring: that results are complete and well-formed, not how fast.

rounds="--sample-ms 1 --repeat 3"
quick="--shape 33x70 --cold-bytes 1M $rounds"

case_bench_kernels() {
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench kernels $quick --batch 1,3 --json
    is_empty err
    valid_json out
    has out '"commit"' '"cpu"' '"openblas_core"' '"version"'
    is_true "$(json read_gbytes_per_s out) > 0"
    for format in pvq pvq8 ternary-dict q2 bf16 f32; do
        [ "$(grep -c "\"format\":[[:space:]]*\"$format\"" out)" = 4 ] ||
            fail "$format: not 2 batches, hot and cold"
    done
    is_true "$(json cold_bytes out) == 1048576"
    for key in variant rows cols batch threads cache gweights_per_s \
        gbytes_per_s p10 p90 bandwidth_share ratio_bf16; do
        [ "$(grep -c "^[[:space:]]*\"$key\":" out)" -ge 24 ] || fail "no $key"
    done
    [ "$(json cache out)" = '"hot"' ] || fail "hot comes first"
    is_true "$(json p10 out) <= $(json gweights_per_s out)"
    is_true "$(json gweights_per_s out) <= $(json p90 out)"
}

case_bench_kernels_lists() {
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench kernels $rounds --cold-bytes 1M --shape 16x16,8x40 \
        --batch 2 --threads 1,2 --format pvq,bf16 --cache cold --csv
    has out "format,variant,rows,cols,batch,threads,cache,gweights_per_s"
    has out "bandwidth_share,ratio_bf16,ratio_cublas,ratio_paper"
    [ "$(wc -l <out)" = 9 ] || fail "not 8 results: $(cat out)"
    [ "$(grep -c ',2,2,cold,' out)" = 4 ] || fail "threads: $(cat out)"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench kernels $rounds --shape 33x70 --format pvq \
        --batch 1 --all-variants --cache hot
    has out "memory read by 1 thread" "33x70"
    [ "$(grep -c '^pvq ' out)" -ge 2 ] || fail "one variant: $(cat out)"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench kernels $quick --backend reference --batch 1 \
        --format pvq8,q2 --thread-time
    has out "reference device 0"
}

# The CUDA backend on the emulator, where that was built.
emulated() {
    local modules
    modules=$(dirname "$qmoe")/emulated-backends
    [ -e "$modules/qmoe-cuda.so" ] || skip "no emulated CUDA module"
    QMOE_BACKEND_PATH=$modules "$@"
}

case_bench_kernels_gpu() {
    small="--backend cuda --shape 24x40 --cold-bytes 4K --sample-ms 1"
    # shellcheck disable=SC2086 # a list of options
    emulated expect 0 "$qmoe" bench kernels $small --repeat 3 --batch 1,100 \
        --format pvq,ternary-dict,bf16 --cache cold --all-variants --json
    is_empty err
    valid_json out
    # Batch 1: pvq, ternary-dict twice, bf16 twice; 100: bf16 three times.
    [ "$(grep -c '"variant":' out)" = 11 ] || fail "$(cat out)"
    [ "$(grep -c '"variant":.*"cublas-bf16"' out)" = 2 ] || fail "$(cat out)"
    [ "$(grep -c '"variant":.*"cublas"' out)" = 1 ] || fail "$(cat out)"
    for key in bandwidth_share ratio_bf16 ratio_cublas ratio_paper; do
        [ "$(grep -c "^[[:space:]]*\"$key\":" out)" = 11 ] || fail "no $key"
    done
    is_true "$(json copy_gbytes_per_s out) > 0"
    is_true "$(json l2_bytes out) == 1024"
    has out '"compute_capability"' '"multiprocessors"' '"driver"' '"core_mhz"'
    if command -v python3 >/dev/null; then
        cp out results.json
        expect 0 python3 "$source_dir/bench/kernels_table.py" results.json
        has out "x cuBLAS | x paper" "| bf16, cublas-bf16 |" "% of memory"
    fi
    # Named only: neither by default nor without the library.
    # shellcheck disable=SC2086 # a list of options
    emulated expect 0 "$qmoe" bench kernels $small --repeat 3 --batch 1 \
        --format bf16 --cache cold --csv
    [ "$(wc -l <out)" = 2 ] || fail "$(cat out)"
    grep -q '^bf16,cuda,' out || fail "$(cat out)"
    # shellcheck disable=SC2086 # a list of options
    QMOE_CUBLAS=off emulated expect_error 5 "no variant 'cublas-bf16'" \
        bench kernels $small --batch 1 --format bf16 --variant cublas-bf16
    emulated expect_error 2 "are not cold" bench kernels --backend cuda \
        --cold-bytes 4000
    emulated expect 0 "$qmoe" devices
    has out "cuBLAS"
    QMOE_CUBLAS=off emulated expect 0 "$qmoe" devices
    has out "no cuBLAS"
}

case_bench_kernels_refuses() {
    expect_error 2 "what to measure is missing" bench
    expect_error 2 "did you mean 'kernels'" bench kernel
    expect_error 2 "'12' is not a valid list" bench kernels --shape 12
    expect_error 2 "'0x4' is not a valid list" bench kernels --shape 0x4
    expect_error 2 "shape 1x9999999 is out of range" bench kernels --shape 1x9999999
    expect_error 2 "is not a valid list" bench kernels --batch 1,,2
    expect_error 2 "a batch of 5000 tokens" bench kernels --batch 5000
    expect_error 2 "unknown format 'pvq9'" bench kernels --format pvq9
    expect_error 2 "neither hot nor cold" bench kernels --cache warm
    expect_error 2 "exclude each other" bench kernels --json --csv
    expect_error 2 "one thread of the CPU" bench kernels --thread-time \
        --threads 2
    # shellcheck disable=SC2086 # a list of options
    expect_error 5 "has no variant 'none'" bench kernels $quick --variant none
    expect_error 6 "no device 9" bench kernels --device 9
    expect_error 5 "nothing to tune" bench tune --backend cpu
    expect_error 5 "nothing to tune" bench tune --backend cpu --json
    expect_error 6 "no device 9" bench tune --backend cpu --device 9 --json
}

case_bench_attention() {
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench attention $rounds --keys 3,70 --heads 2 --width 9 \
        --cold-bytes 100K --threads 1,2 --all-variants --json
    valid_json out
    has out '"commit"' '"cpu"' '"read_bandwidth"'
    n=$(grep -c '"variant":' out)
    is_true "$n >= 4 and $n % 4 == 0"
    for key in queries keys gmacs_per_s p10 p90 gbytes_per_s bandwidth_share; do
        [ "$(grep -c "^[[:space:]]*\"$key\":" out)" -ge "$n" ] || fail "no $key"
    done
    is_true "$(json p10 out) <= $(json gmacs_per_s out)"
    is_true "$(json gmacs_per_s out) <= $(json p90 out)"
    is_true "$(json gbytes_per_s out) > 0"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench attention $rounds --queries 65 --keys 70 --heads 1 \
        --cold-bytes 1K --thread-time
    has out "memory read by 1 thread" "1 heads of width 64, 1 of keys"
    [ "$(awk '$2 == 65 && $3 == 70' out | wc -l)" = 1 ] || fail "$(cat out)"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench attention $rounds --keys 70 --heads 6 --kv-heads 2 \
        --kv-type q8 --width 9 --cold-bytes 1K --json
    [ "$(json kv_heads out)" = 2 ] || fail "$(cat out)"
    has out '"q8"'
    expect_error 2 "6 heads cannot share 4 heads" \
        bench attention --heads 6 --kv-heads 4
    expect_error 2 "'1,' is not a valid list" bench attention --keys 1,
    expect_error 2 "2097152 keys are out of range" \
        bench attention --keys 2097152
}

short="--backend cpu --prompt-tokens 5 --tokens 3 --repeat 2"

# Every phase of both runs has every role.
model_is_complete() {
    valid_json "$1"
    has "$1" '"commit"' '"decode_ratio"' '"encode_ratio"' '"dense_ffn"'
    for role in attention router experts norm embedding head; do
        [ "$(grep -c "\"$role\":" "$1")" = 4 ] || fail "$role: $(cat "$1")"
    done
    is_true "$(json decode_ratio "$1") > 0"
    is_true "$(json p10 "$1") <= $(json p90 "$1")"
    is_true "$(json experts "$1") > 0"
}

case_bench_model() {
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench model "$m" $short --vs "$mini" --sequences 2 --json
    is_empty err
    model_is_complete out
    [ "$(json format out)" = '"ternary-dict"' ] || fail "$(cat out)"
    [ "$(json sequences out)" = 2 ] || fail "$(cat out)"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench model "$tiny" $short --routing uniform
    has out "ideal bf16" attention experts ratio
}

case_bench_model_made_up() {
    small="synth:base-8?experts=2&encoder_blocks=2&decoder_blocks=2"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench model "$small" $short --json
    model_is_complete out
    [ "$(json format out)" = '"pvq"' ] || fail "$(cat out)"
    # 2 blocks, 2 experts, wi and wo of 3072 x 768 weights
    is_true "$(json expert_bytes out) > 2 * 2 * 2 * 3072 * 768 * 9 / 128"
    is_true "$(json ideal_expert_bytes out) == 2 * 2 * 3072 * 768 * 2"
}

case_bench_model_decoder() {
    small="synth:qwen3-30b-a3b?experts=4&blocks=1"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench model "$small" $short --sequences 2 --json
    model_is_complete out
    # Random choices: most of 4 experts get some of 2 x 8 x 8 of them.
    is_true "$(json experts_encode out) > 2"
    # shellcheck disable=SC2086 # a list of options
    expect 0 "$qmoe" bench model "$small" $short --dense-format int8 --json
    model_is_complete out
    expect_error 2 "not a compressed format" bench model "$small" -b cpu \
        --dense-format f16
}

case_bench_model_refuses() {
    expect_error 2 "MODEL is missing" bench model
    expect_error 2 "neither model nor uniform" bench model "$m" --routing x
    expect_error 2 "only a synthetic model" bench model "$m" -b cpu --format pvq
    expect_error 2 "not a compressed format" bench model "synth:base-8" -b cpu \
        --format bf16
    expect_error 2 "no original" bench model "synth:base-8?experts=1" -b cpu \
        --vs "$mini"
    expect_error 2 "of the same shape" bench model "$m" -b cpu \
        --vs "$source_dir/tests/golden/tied"
    expect_error 3 "none" bench model none
}

case_generate_profile() {
    expect 0 "$qmoe" generate "$m" -p "And the <extra_id_0> said" \
        --max-new-tokens 3 --backend cpu --profile
    has err "us/token" attention router experts "dense_ffn" norm head
    expect 0 "$qmoe" generate "$m" -p "And the <extra_id_0> said" \
        --max-new-tokens 3 --backend cpu --profile --json
    is_empty err
    has out '"encode_roles"' '"decode_roles"'
    is_true "$(json experts out) > 0"
    # A prompt is no decoding, also without an encoder.
    expect 0 "$qmoe" generate "$source_dir/models/moe-mini" \
        -p "And it came to pass" --max-new-tokens 2 --backend cpu --profile
    awk '/experts/ { found = $3 > 0 && $4 > 0 } END { exit !found }' err ||
        fail "$(cat err)"
}

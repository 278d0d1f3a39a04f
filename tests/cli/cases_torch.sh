# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Checkpoints in PyTorch's format, with the quirks of the published ones.

make_torch() {
    command -v python3 >/dev/null || skip "no python3"
    python3 "$source_dir/tests/tools/make_torch_checkpoint.py" "$@" ||
        fail "make_torch_checkpoint.py $*"
}

# Both directories compute the same, before and after compression.
same_model() {
    local text
    text="The shepherd counted them when evening came, and not one was lost"
    for i in 1 2 3 4; do echo "$i $text to him or to the city."; done >text
    for model in "$1" "$2"; do
        expect 0 "$qmoe" eval "$model" --text text --json
        json loss out >"$model.loss"
        expect 0 "$qmoe" compress --method rtn "$model" -o "$model-m" --json
        expect 0 "$qmoe" verify "$model-m"
        expect 0 "$qmoe" eval "$model-m" --text text --json
        json loss out >>"$model.loss"
    done
    [ "$(wc -l <"$1.loss")" = 2 ] || fail "no losses"
    same "$1.loss" "$2.loss"
}

case_torch_base_8() {
    make_torch bin --like base-8 --writer python --plain plain
    same_model bin plain
}

case_torch_c_2048() {
    make_torch bin --like c-2048 --bare --writer python --plain plain
    expect 0 "$qmoe" inspect bin
    has err "says 2 decoder blocks, the weights have 3; using 3" \
        "decoder_sparse_step 0 contradicts the weights; using 1" \
        "decoder.lm_head.weight; using that"
    expect 0 "$qmoe" inspect plain
    is_empty err
    make_torch full --like c-2048 --writer python
    expect 0 "$qmoe" inspect full
    has err "says 2 decoder blocks, the weights have 3; using 3"
    if grep -q sparse_step err; then fail "$(cat err)"; fi
    same_model bin plain
}

case_torch_xxl_128_is_refused() {
    make_torch bin --like base-8 --writer python
    sed -i 's/"dense_act_fn": "relu"/"dense_act_fn": "gelu"/' bin/config.json
    expect_error 5 "only the plain relu feed-forward is supported, not 'gelu'" \
        inspect bin
    sed -i 's/"is_gated_act": false/"is_gated_act": true/' bin/config.json
    expect_error 5 "'gelu' (gated)" inspect bin
}

case_torch_truncated() {
    make_torch bin --like base-8 --writer python
    truncate -s -1 bin/pytorch_model.bin
    expect_error 4 "bin/pytorch_model.bin: the archive has no end record" \
        inspect bin
    rm bin/pytorch_model.bin
    expect_error 3 "neither model.safetensors nor pytorch_model.bin" inspect bin
}

# All blocks, experts and shards of the published checkpoints, at a small width:
# as many tensors as those have, counted with the copies of the embedding.
case_torch_published_structures() {
    while read -r like n_tensors n_files blocks; do
        rm -rf bin
        make_torch bin --like "$like" --full --writer python
        [ "$(find bin -name '*.bin' | wc -l)" = "$n_files" ] || fail "$like: not $n_files files"
        expect 0 "$qmoe" inspect bin --no-stats
        is_empty err
        has out "$blocks"
        expect 0 "$qmoe" verify bin
        has out "structure of $n_tensors tensors"
    done <<'END'
base-8 440 1 12 + 12 blocks, 12 sparse with 8 experts
base-16 632 1 12 + 12 blocks, 12 sparse with 16 experts
base-32 1016 1 12 + 12 blocks, 12 sparse with 32 experts
base-64 1784 2 12 + 12 blocks, 12 sparse with 64 experts
base-128 3320 3 12 + 12 blocks, 12 sparse with 128 experts
base-256 6392 6 12 + 12 blocks, 12 sparse with 256 experts
large-128 6632 6 24 + 24 blocks, 24 sparse with 128 experts
END
}

# float32 and bf16, in shards: the same model as in one safetensors file.
case_torch_shards_of_others() {
    for like in base-128 large-128; do
        make_torch "$like" --like "$like" --writer python --plain plain
        [ "$(find "$like" -name '*.bin' | wc -l)" -gt 2 ] || fail "$like: no shards"
        same_model "$like" plain
        rm -rf plain*
    done
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# plan, export and import.  Directories of every kind and broken ones are in
# tests/interop/test_published.py.

case_plan_of_everything() {
    for what in "$mini" "$mini/config.json" "$m" synth:c-2048; do
        rate="--rate 1000000"
        [ "$what" != "$m" ] || rate=
        # shellcheck disable=SC2086 # none or two words
        expect 0 "$qmoe" plan "$what" --memory 8G --memory-rate 10G $rate --json
        is_empty err
        valid_json out
        for key in total_bytes expert_bytes other_bytes; do
            is_true "$(json $key out) > 0"
        done
        is_true "$(json total_bytes out) == $(json expert_bytes out) + $(json other_bytes out)"
    done
    expect 0 "$qmoe" plan "$mini" --memory-rate 10G --rate 1000000
    has out "experts" "router" "pvq8" "fits:" "compression:" "recorded"
    expect 0 "$qmoe" inspect "$m" --no-stats --json
    bytes=$(json total_bytes out)
    expect 0 "$qmoe" plan "$m" --json
    is_true "$(json total_bytes out) == $bytes"
}

case_plan_of_c2048() {
    expect 0 "$qmoe" plan synth:c-2048 --format ternary-dict --gpu 4x48G --gpu-rate 700G \
        --rate 1000000 --json
    is_true "$(json expert_ratio out) > 21.10 && $(json expert_ratio out) < 21.12"
    is_true "$(json total_bytes out) > 150.6e9 && $(json total_bytes out) < 150.8e9"
    [ "$(json fits_gpus out)" = true ] || fail "does not fit four GPUs"
    expect 0 "$qmoe" plan synth:c-2048 --format pvq --memory 32G --memory-rate 20G \
        --disk-rate 3G --rate 1000000
    has out "not without the disk" "113.7 GB" "tokens/s"
    expect 0 "$qmoe" plan synth:c-2048 --format pvq --gpu 24G,24G --memory 8G --rate 1000000
    has out "speed     unknown"
}

# The budget that compress keeps to is what a plan says.
case_plan_of_bits() {
    expect 0 "$qmoe" plan "$mini" --bits 0.7 --memory-rate 10G --rate 1000000 --json
    is_true "$(json bits_per_expert_weight out) <= 0.7 && $(json bits_per_expert_weight out) > 0.6999"
    planned=$(json expert_bytes out)
    expect 0 "$qmoe" compress --method rtn "$mini" -o bits --bits 0.7 --json
    is_true "$(json expert_bytes out) <= $planned"
    expect 0 "$qmoe" plan "$mini" --bits 0.9 --format ternary-dict --rate 1000000 --json
    is_true "$(json bits_per_expert_weight out) > 0.899 && $(json bits_per_expert_weight out) <= 0.9"
    expect 0 "$qmoe" plan "$mini" --bits 0.7 --rate 1000000 --json
    [ "$(json sizes_are out)" = '"at most"' ] || fail "bytes of a budget are not called a bound"
    expect 0 "$qmoe" plan "$mini" --bits 0.7 --rate 1000000
    has out "as mixed: at most " ", at most 0.7"
    expect 0 "$qmoe" plan "$mini" --format pvq --rate 1000000 --json
    [ "$(json sizes_are out)" = '"exact"' ] || fail "sizes of pvq are not exact"
    expect 0 "$qmoe" plan "$mini" --format ternary-dict --rate 1000000 --json
    [ "$(json sizes_are out)" = '"about"' ] || fail "sizes of ternary-dict are no estimate"
}

# --device: memories of GPUs that are elsewhere, or a device of this machine.
case_plan_of_devices() {
    for option in --device --gpu; do
        expect 0 "$qmoe" plan synth:c-2048 --format pvq $option 2x48G,24G --rate 1000000 --json
        is_true "$(json gpu_usable_bytes out) == (2 * 48 + 24) * 2 ^ 30 - 3 * 2 ^ 29"
        [ "$(json fits_gpus out)" = true ] || fail "does not fit three GPUs"
    done
    expect 0 "$qmoe" plan "$mini" --device 24G,24G --device-memory 8G --rate 1000000 --json
    is_true "$(json gpu_usable_bytes out) == 15 * 2 ^ 30"
    expect 0 "$qmoe" plan "$mini" --backend cpu --rate 1000000 --json
    is_true "$(json gpu_usable_bytes out) == 0"
    [ "$(json backend out)" = '"cpu"' ] || fail "the device is not named"
    expect_error 2 "both list GPUs" plan "$mini" --gpu 24G --device 24G
    expect_error 2 "exclude each other" plan "$mini" --gpu 24G --device 0
    expect_error 2 "exclude each other" plan "$mini" --gpu 24G --backend cpu
    expect_error 2 "--device" plan "$mini" --device 0x48G
    expect_error 2 "nonsense" plan "$mini" --backend nonsense
    expect_error 6 "backend cpu has no device 7" plan "$mini" --backend cpu --device 7
}

is_near() {
    is_true "($1) / ($2) > 1 - 1e-6 && ($1) / ($2) < 1 + 1e-6"
}

# seconds_of ARGUMENT...: what a plan without --rate says of small experts.
seconds_of() {
    expect 0 "$qmoe" plan "synth:base-64?encoder_blocks=2&decoder_blocks=2&$1" \
        --format pvq --json "${@:2}"
    json seconds out
}

# The estimate follows from counted work and from rates measured each time, which
# other load and sanitizers change: what is compared differs by much more.
case_plan_of_compression_time() {
    costly
    base=$(seconds_of experts=2 --samples 100 --rounds 0 -t 1)
    is_true "$(json threads out) == 1 && $(json rounds out) == 0"
    is_true "$base > 10 * $(seconds_of experts=2 --samples 100 --rounds 0 -t 100)"
    is_true "$(seconds_of experts=2 --samples 100000 --rounds 0 -t 1) > 10 * $base"
    many=$(seconds_of experts=64 --samples 100 --rounds 0 -t 1)
    is_true "$many > 2 * $base"
    is_true "$(seconds_of experts=64 --samples 100 --rounds 256 -t 1) > 2 * $many"
    is_true "$(json rounds out) == 256"
    is_near "$(seconds_of experts=2 --rate 2000000) * 2e6" "$(json expert_weights out)"
}

# The configuration published with c-2048 contradicts its weights.
case_plan_says_what_is_assumed() {
    cat >c.json <<'END'
{"model_type": "switch_transformers", "d_model": 2080, "d_ff": 6144, "d_kv": 64,
 "num_heads": 30, "vocab_size": 32128, "num_experts": 2048, "num_layers": 15,
 "num_decoder_layers": 12, "encoder_sparse_step": 1, "decoder_sparse_step": 0}
END
    expect 0 "$qmoe" plan c.json --memory-rate 10G --rate 1000000
    has err "15 + 12 blocks, 15 sparse" "15 + 15, 30 sparse" "plan synth:c-2048"
    has out "no weights found"
    expect 0 "$qmoe" plan synth:c-2048 --rate 1000000 --json
    is_empty err
    is_true "$(json total_bytes out) > 113.6e9 && $(json total_bytes out) < 113.8e9"
    [ "$(json from_config out)" = false ] || fail "from_config is not false"
}

# A decoder alone, with experts and without.
case_plan_of_decoders() {
    expect 0 "$qmoe" plan synth:qwen3-30b-a3b --format pvq --rate 1000000 --memory-rate 10G
    has out ": qwen3_moe, 48 blocks, 48 sparse with 128 experts" "bits per expert weight"
    echo '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
           "vocab_size": 96, "intermediate_size": 48}' >config.json
    expect 0 "$qmoe" plan config.json --dense-bits 4 --samples 4 --memory-rate 10G
    has out ": llama, 3 blocks" "x overall" "compression: about"
    grep -v "0 B of experts" out >rest
    if grep -q expert rest; then fail "a model without experts has some"; fi
}

case_plan_errors() {
    expect_error 2 "CONFIG_OR_MODEL is missing" plan
    expect_error 2 "--gpu" plan "$mini" --gpu 0x48G
    expect_error 2 "--gpu" plan "$mini" --gpu -1x48G
    expect_error 2 "--gpu" plan "$mini" --gpu 4x
    expect_error 2 "--gpu" plan "$mini" --gpu 99999x1G
    expect_error 2 "--bits" plan "$mini" --bits 17
    expect_error 2 "are not possible" plan "$mini" --bits 0.5
    expect_error 2 "has a fixed size" plan "$mini" --bits 0.7 --format q2
    expect_error 3 "nowhere" plan nowhere
    expect_error 2 "synth:c-1" plan synth:c-1
    expect_error 5 "q9" plan "$mini" --format q9
    echo '{"model_type": "mamba"}' >other.json
    expect_error 5 "mamba" plan other.json
    echo '{' >broken.json
    expect_error 4 "broken.json" plan broken.json
}

case_export_plain() {
    expect 0 "$qmoe" export "$m" -o plain --dequantize --json
    valid_json out
    is_true "$(json matrices out) == 64"
    [ ! -e plain.partial ] || fail "plain.partial was left behind"
    same plain/spiece.model "$mini/spiece.model"
    if grep -q quantization_config plain/config.json; then
        fail "config.json still has quantization_config"
    fi
    for model in "$m" plain; do
        expect 0 "$qmoe" generate "$model" -p "In the beginning" --max-new-tokens 8 --json -b cpu
        ids out >>answers
    done
    [ "$(sort -u answers | wc -l)" = 1 ] || fail "other tokens: $(cat answers)"
    # One thread and small shards give the same weights.
    expect 0 "$qmoe" export "$m" -o one --dequantize -t 1
    same one/model-00001-of-00001.safetensors plain/model-00001-of-00001.safetensors
    # What is plain can be compressed again, to the same codes.
    expect 0 "$qmoe" compress --method rtn --format ternary-dict plain -o again
    same again/model-00002-of-00005.safetensors "$m/model-00002-of-00005.safetensors"
}

case_export_published_and_import() {
    expect 0 "$qmoe" export "$m" -o published --layout qmoe
    rm published/spiece.model
    expect 0 "$qmoe" import published -o back
    has out "no tokenizer"
    expect 0 "$qmoe" import published -o with --tokenizer "$mini" --json
    valid_json out
    is_true "$(json matrices out) == 64"
    for file in "$m"/*.safetensors; do
        same "with/${file##*/}" "$file"
    done
    expect 0 "$qmoe" verify with
    expect 0 "$qmoe" export with -o published2 --layout qmoe
    for file in published/*.pt; do
        same "$file" "published2/${file##*/}"
    done
}

case_export_errors() {
    expect_error 2 "-o OUT" export "$m" --dequantize
    expect_error 2 "give --dequantize" export "$m" -o out-x
    expect_error 2 "neither hf nor qmoe" export "$m" -o out-x --layout gguf
    expect_error 2 "keeps the codes" export "$m" -o out-x --layout qmoe --dequantize
    expect_error 2 "bf16 or f32" export "$m" -o out-x --dequantize --dtype f16
    expect_error 5 "is not compressed" export "$mini" -o out-x --dequantize
    expect_error 3 "nowhere" export nowhere -o out-x --dequantize
    mkdir out-y
    expect_error 3 "already exists" export "$m" -o out-y --dequantize
    expect 0 "$qmoe" compress --method rtn --format q2 "$mini" -o q2
    expect_error 5 "not q2" export q2 -o out-x --layout qmoe
    expect 0 "$qmoe" compress --method rtn --format ternary-dict --dict fit "$mini" -o fit
    expect_error 5 "another dictionary" export fit -o out-x --layout qmoe
    expect 0 "$qmoe" compress --method rtn --format ternary-dict --no-tokenizer \
        "$source_dir/tests/golden/decoders/qwen3-moe" -o gated
    expect_error 5 "have gates" export gated -o out-x --layout qmoe
    nothing_left out-x
}

# A GGUF file becomes a checkpoint; its content is tested elsewhere.
case_import_gguf() {
    local file=$source_dir/tests/fuzz/corpus/gguf/model name
    expect 0 "$qmoe" import "$file" -o made
    has out "11 tensors"
    for name in config.json generation_config.json tokenizer.json \
        tokenizer_config.json model.safetensors.index.json \
        model-00001-of-00001.safetensors; do
        [ -s made/$name ] || fail "$name is missing"
    done
    expect_error 3 "made: already exists" import "$file" -o made
    expect 0 "$qmoe" import "$file" -o again --dtype bf16 --json
    python3 - <<'END' || fail "the report is wrong"
import json
report = json.load(open("out"))
assert report["tensors"] == 11 and report["weights"] == 4 * 8 + 8 + 2 * 8 + 4 * 64 + 3 * 128
assert report["tokenizer"] is True and "matrices" not in report
assert json.load(open("again/config.json"))["torch_dtype"] == "bfloat16"
END
    expect 0 "$qmoe" import "$file" -o made --force --dtype bf16
    diff -r made again || fail "--force made another checkpoint"
    # What is read is not replaced, nor a directory that qmoe did not make.
    cp "$file" m.gguf
    expect_error 2 "which is read" import m.gguf -o m.gguf --force
    mkdir holds
    cp "$file" holds/m.gguf
    expect_error 2 "which is read" import holds/m.gguf -o holds --force
    cmp "$file" holds/m.gguf
    echo mine >made/mine
    expect_error 3 "was not written by qmoe" import "$file" -o made --force
    expect_error 3 "nowhere.gguf" import nowhere.gguf -o out-x
    nothing_left out-x
}

case_import_errors() {
    expect_error 2 "-o OUT" import "$m"
    expect_error 3 "nowhere" import nowhere -o out-x
    expect_error 3 "noexp.pt" import "$mini" -o out-x
    expect_error 5 "unknown format 'q9'" import "$mini" -o out-x --format q9
    nothing_left out-x
}

# Experts of three matrices: every command that reads a compressed model.
case_gated_experts() {
    local golden=$source_dir/tests/golden/decoders/qwen2-moe
    expect 0 "$qmoe" compress "$golden" -o gated --method rtn --no-tokenizer --json
    [ "$(json experts out)" = 6 ] || fail "$(cat out)"
    has out '"down_proj"' '"gate_proj"' '"up_proj"'
    expect 0 "$qmoe" verify gated
    expect 0 "$qmoe" inspect gated
    has out "model.layers.1.mlp.experts.gate_proj  6 x 24 x 48"
    expect 0 "$qmoe" plan gated
    expect 0 "$qmoe" plan "$golden/config.json"
    has out "compression: about"
    expect 0 "$qmoe" export gated -o plain --dequantize
    expect 0 "$qmoe" compress plain -o again --method rtn --no-tokenizer
    expect 0 "$qmoe" inspect again
    has out "model.layers.1.mlp.experts.down_proj  6 x 48 x 24"
}

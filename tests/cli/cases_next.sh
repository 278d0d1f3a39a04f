# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Models that predict the next token: loss, comparison, sampling.
speaker=$source_dir/models/moe-mini

# A text of a few hundred tokens, in lines.
write_text() {
    local i
    for i in 1 2 3 4 5 6 7 8; do
        echo "And the LORD spake unto Moses in the wilderness of Sinai, saying, $i"
        echo "Take ye the sum of all the congregation of the children of Israel"
    done >text
}

# number FILE NAME...: a number inside of a JSON document.
number() {
    python3 - "$@" <<'PY'
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value[int(key) if key.isdigit() else key]
print(value)
PY
}

case_next_token_loss() {
    write_text
    expect 0 "$qmoe" eval "$speaker" --text text --context 32 --json
    mv out loss
    [ "$(number loss convention)" = gptq ] || fail "convention"
    [ "$(number loss tokens)" = $(($(number loss windows) * 31)) ] ||
        fail "31 of 32 tokens are predicted"
    python3 -c 'import math, sys
loss, perplexity = map(float, sys.argv[1:])
assert 1 < loss < 6 and abs(math.exp(loss) / perplexity - 1) < 1e-9' \
        "$(number loss loss)" "$(number loss perplexity)" || fail "perplexity"
    # The same text as documents has an end token between its lines.
    expect 0 "$qmoe" eval "$speaker" --text text --context 32 --documents --json
    [ "$(number out loss)" != "$(number loss loss)" ] || fail "documents"
    # Whatever the number of threads.
    expect 0 "$qmoe" eval "$speaker" --text text --context 32 -t 1 --json
    [ "$(number out loss)" = "$(number loss loss)" ] || fail "threads"
}

case_next_token_conventions() {
    write_text
    expect 0 "$qmoe" eval "$speaker" --text text --context 64 \
        --convention llama.cpp --json
    [ "$(number out convention)" = llama.cpp ] || fail "convention"
    # 64 - 32 - 1, as llama.cpp counts.
    [ "$(number out tokens)" = $(($(number out windows) * 31)) ] ||
        fail "the second half is scored"
}

case_compares_models() {
    write_text
    expect 0 "$qmoe" eval "$speaker" --text text --context 64 -n 1 \
        --against "$speaker" --json
    for name in "kl mean" "kl largest" "blocks 0 residual_error"; do
        # shellcheck disable=SC2086 # words of a path
        python3 -c 'import sys; assert float(sys.argv[1]) == 0' \
            "$(number out $name)" || fail "$name of a model and itself"
    done
    [ "$(number out top_agreement)" = 1 ] || fail "top agreement"
    [ "$(number out blocks 3 router_agreement)" = 1 ] || fail "routers"
    # 8-bit keys and values change the second model only in the last digits.
    expect 0 "$qmoe" eval "$speaker" --text text --context 64 -n 1 \
        --against "$speaker"
    grep -q "top-1       1.0000" out || fail "text form"
    expect 0 "$qmoe" eval "$speaker" --text text --context 64 -n 1 \
        --against "$speaker" --depths 3 --json
    [ "$(number out depths 1 block)" = 1 ] && [ "$(number out depths 2 block)" = 3 ] &&
        is_true "$(number out depths 2 kl) < 1e-9" || fail "depths"
    expect_error 2 "are not the same model" eval "$speaker" --text text \
        --context 64 --against "$source_dir/tests/golden/decoders/qwen3-moe"
}

# T5 models are compared on the samples of their own loss.
case_compares_models_that_fill_gaps() {
    write_text
    expect 0 "$qmoe" eval "$m" --text text --json
    mv out alone
    expect 0 "$qmoe" eval "$m" --text text --against "$mini" --depths 4 --json
    mv out both
    expect 0 "$qmoe" eval "$mini" --text text --json
    python3 - both alone out <<'PY' || fail "ternary experts change something"
import json, sys
result, alone, base = (json.load(open(name)) for name in sys.argv[1:])
assert result["tokens"] == alone["tokens"] == base["tokens"]
# Up to rounding: the last token, which predicts nothing, goes along.
assert abs(result["loss"] - alone["token_loss"]) < 1e-5
assert abs(result["base"]["loss"] - base["token_loss"]) < 1e-5
assert 0 < result["kl"]["mean"] < 1 and 0 < result["top_agreement"] <= 1
# A block of the encoder before the first experts is the same.
assert result["blocks"][0]["residual_error"] == 0
sparse = [b for b in result["blocks"] if b["router_agreement"] is not None]
assert sparse and all(0.5 < b["router_agreement"] <= 1 for b in sparse)
assert result["blocks"][-1]["residual_error"] > 0
# Only experts are compressed: the first block changes nothing, and behind the
# last one, and behind the encoder, everything has changed.
depths = result["depths"]
assert [d["block"] for d in depths] == [0, 1, 2, 3]
assert depths[0]["kl"] < 1e-9 and depths[0]["top_agreement"] == 1
assert 0 < depths[1]["kl"] < depths[3]["kl"]
assert abs(depths[3]["kl"] / result["kl"]["mean"] - 1) < 1e-3
assert abs(depths[3]["top_agreement"] - result["top_agreement"]) < 0.03
PY
    # The masks follow the seed; windows are not for such models.
    expect 0 "$qmoe" eval "$m" --text text --against "$mini" --seed 1 -n 2
    grep -q "samples     2," out || fail "samples"
    expect_error 2 "--context has no effect" eval "$m" --text text \
        --against "$mini" --context 32
    : >nothing
    expect_error 4 "no document of 2" eval "$m" --text nothing \
        --against "$mini"
}

case_next_token_mistakes() {
    write_text
    expect_error 2 "--seed has no effect" eval "$speaker" --text text --seed 1
    expect_error 2 "--context has no effect" eval "$mini" --text text \
        --context 32
    expect_error 2 "is not gptq or llama.cpp" eval "$speaker" --text text \
        --convention wikitext
    expect_error 4 "tokens, but a window has 2048" eval "$speaker" --text text
    expect_error 3 "No such file" eval "$speaker" --text nowhere
    printf 'abc\xff' >broken
    expect_error 4 "not UTF-8 text from byte 3" eval "$speaker" --text broken
    expect_error 2 "f32, f16, q8" generate "$speaker" -p x --kv-type q3
}

# More than a portion of 512 tokens.
case_long_prompts() {
    write_text
    cat text text text text | tr '\n' ' ' >long
    expect 0 "$qmoe" generate "$speaker" --prompt-file long \
        --max-new-tokens 4 --json
    [ "$(number out generations 0 n_prompt_tokens)" -gt 1024 ] || fail "length"
    mv out long.json
    expect 0 "$qmoe" generate "$speaker" --prompt-file long \
        --max-new-tokens 4 --kv-type f16 --json
    [ "$(number out generations 0 ids)" = "$(number long.json generations 0 ids)" ] ||
        fail "f16 keys and values"
}

case_samples_with_min_p() {
    local prompt="In the beginning"
    expect 0 "$qmoe" generate "$speaker" -p "$prompt" --max-new-tokens 12
    mv out greedy
    # Nothing but the likeliest token is as likely as itself.
    expect 0 "$qmoe" generate "$speaker" -p "$prompt" --max-new-tokens 12 \
        --temperature 1 --min-p 1 --seed 5
    same greedy out
    expect 0 "$qmoe" generate "$speaker" -p "$prompt" --max-new-tokens 12 \
        --repetition-penalty 1.5
    ! cmp -s greedy out || fail "the penalty changes nothing"
    expect_error 2 "--min-p has no effect" generate "$speaker" -p x --min-p 0.1
}

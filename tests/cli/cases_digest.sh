# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# What config.json vouches for (docs/format.md, section 2.1): a changed byte of
# any file is found, by verify in every file, by what runs a model in those that
# decide its result.

# A value of each kind that config.json decides a result with, and its spelling.
case_digest_of_the_configuration() {
    while IFS='|' read -r from to; do
        copy "$pvq" bad
        sed -i "s/$from/$to/" bad/config.json
        ! cmp -s bad/config.json "$pvq/config.json" || fail "no '$from'"
        expect_fault 4 "bad/config.json: checksum" bad
        for command in "generate bad -p x" "eval bad --text text" "inspect bad" \
            "export bad -o out-m --dequantize"; do
            # shellcheck disable=SC2086 # words of a command
            expect_error 4 "bad/config.json: checksum" $command
        done
    done <<'END'
"rotation":\t64|"rotation":\t32
"rotation_seed":\t0|"rotation_seed":\t1
"layer_norm_epsilon":\t1e-06|"layer_norm_epsilon":\t1e-05
"created_by":\t"qmoe|"created_by":\t"other
"model_type":\t"switch|"model_type":\t"swatch
"rotation":\t64|"rotation": 64
"version":\t1,|"version":\t2,
END
    # Without the member that holds it, the model does not pass for an old one.
    copy "$pvq" bad
    sed -i 's/"config_xxh3"/"config_xxh4"/' bad/config.json
    expect_error 4 "bad/config.json: quantization_config.config_xxh3 is not" generate bad -p x
    sed -i 's/"quantization_config"/"quantization_confid"/' bad/config.json
    expect_error 4 "bad/config.json: quantization_config is missing" generate bad -p x
    nothing_left out-m
}

case_digest_of_every_file() {
    text >text
    copy "$pvq" bad
    for file in bad/*; do
        size=$(stat -c %s "$file")
        for at in 0 $((size / 3)) $((size / 2)) $((size - 1)); do
            flip "$file" "$at"
            expect_fault 4 "$file" bad
            case $file in
            *.safetensors | */qmoe_report.json) ;;
            *)
                expect_error 4 "$file" generate bad -p x
                expect_error 4 "$file" eval bad --text text
                ;;
            esac
            flip "$file" "$at"
        done
    done
    expect 0 "$qmoe" verify bad
}

# An import writes digests, too.
case_digest_of_an_import() {
    expect 0 "$qmoe" export "$m" -o published --layout qmoe
    expect 0 "$qmoe" import published -o bad
    expect 0 "$qmoe" verify bad --json
    [ "$(json digest out)" = true ] || fail "no digest"
    for file in config.json model.safetensors.index.json spiece.model; do
        flip bad/$file 100
        expect_fault 4 "bad/$file" bad
        expect_error 4 "bad/$file" generate bad -p x
        flip bad/$file 100
    done
}

# All that is broken, in the order of the files, in one document.
case_verify_lists_everything_broken() {
    copy "$pvq" bad
    flip bad/spiece.model 1000
    for shard in bad/model-00004-*.safetensors bad/model-00002-*.safetensors; do
        tensors "$shard" >list
        while read -r name begin end; do
            flip "$shard" $(((begin + end) / 2))
        done <list
    done
    expect 4 "$qmoe" verify bad --json
    one_error bad/spiece.model
    valid_json out
    [ "$(json ok out)" = false ] || fail "$(cat out)"
    grep '"file":\|"tensor":' out | tr -d '\t,' >found
    {
        printf '"file":"spiece.model"\n"tensor":null\n'
        for number in 2 4; do
            shard=$(basename bad/model-0000$number-*.safetensors)
            tensors "bad/$shard" | sort -n -k 2 | while read -r name _; do
                printf '"file":"%s"\n"tensor":"%s"\n' "$shard" "$name"
            done
        done
    } >wanted
    same found wanted
    mv out document
    expect 4 "$qmoe" verify bad
    [ "$(grep -c '^broken: ' out)" = "$(grep -c '"file":' wanted)" ] ||
        fail "$(cat out)"
    expect 4 "$qmoe" verify bad -t 1 --json
    same out document
}

# Files without a meaning are named, files that would be used are refused.
case_verify_files_put_there_later() {
    copy "$pvq" bad
    echo "# A model" >bad/README.md
    expect 0 "$qmoe" verify bad
    has err "bad/README.md: config.json does not record it; not checked"
    rm bad/README.md
    ln -s model-00001-of-00005.safetensors bad/model.safetensors
    expect_fault 4 "bad/model.safetensors: config.json does not record it" bad
    expect_error 4 "has no 'model.safetensors'" generate bad -p x
    copy "$tiny" bad
    cp "$mini/spiece.model" bad
    expect_fault 4 "bad/spiece.model: config.json does not record it" bad
    expect_error 4 "bad/spiece.model: config.json does not record it" generate bad -p x
}

case_verify_older_model() {
    copy "$pvq" old
    undigested old
    expect 0 "$qmoe" verify old
    has out "ok: " "no digest: configuration and tokenizer not checked"
    expect 0 "$qmoe" verify old --json
    [ "$(json digest out)" = false ] || fail "$(cat out)"
    expect 0 "$qmoe" generate old -p "$prompt" --max-new-tokens 1
    shard=$(echo old/model-00002-*)
    tensors "$shard" >list
    read -r name begin _ <list
    flip "$shard" "$begin"
    expect_fault 4 "'$name'" old
}

# Payloads are checked on loading when asked for.
case_run_verified() {
    text >text
    copy "$pvq" bad
    expect 0 "$qmoe" generate bad -p "$prompt" --max-new-tokens 1 --verify
    shard=$(echo bad/model-00001-*)
    tensors "$shard" >list
    read -r name begin end < <(grep shared list)
    flip "$shard" $((end - 1))
    expect 0 "$qmoe" generate bad -p "$prompt" --max-new-tokens 1
    expect_error 4 "'$name'" generate bad -p "$prompt" --verify
    expect_error 4 "'$name'" eval bad --text text --verify
    expect_error 2 "is not compressed" generate "$mini" -p "$prompt" --verify
    for verb in generate eval; do
        expect 0 "$qmoe" $verb --help
        has out "--verify" "checked, not the data"
    done
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Values that are not finite, and where token states are kept.

nan='\300\177'
huge='\177\177' # 3.39e38, the largest bf16

# broken_weights TENSOR VALUE COUNT: `bad` is the switch-mini with the first
# COUNT weights of a tensor replaced.
broken_weights() {
    local begin
    [ -e bad ] || cp -r "$mini" bad
    chmod -R u+w bad
    cp "$mini/model.safetensors" bad/
    begin=$(tensors bad/model.safetensors | awk -v name="$1" '$1 == name { print $2 }')
    [ -n "$begin" ] || fail "no tensor $1"
    for _ in $(seq "$3"); do
        # shellcheck disable=SC2059 # octal escapes
        printf "$2"
    done | dd of=bad/model.safetensors bs=65536 seek="$begin" oflag=seek_bytes \
        conv=notrunc status=none
}

not_finite_fails() {
    local text=$1
    echo "The LORD is my shepherd; I shall not want." >text
    expect_error 4 "$text" generate bad -b cpu -p "The LORD is" --max-new-tokens 2
    expect_error 4 "$text" generate bad -b cpu -p "The LORD is" --max-new-tokens 2 \
        --temperature 1
    expect_error 4 "$text" eval bad -b cpu --text text
    expect_error 4 "$text" compress bad -o out-m --calib text --rounds 0
    nothing_left out-m
}

# Every tensor that is not an expert's; every seventh with sanitizers.
case_not_finite_weights() {
    local step=1
    ! is_too_long || step=7
    tensors "$mini/model.safetensors" | awk '!/expert_/ { print $1 }' >names
    is_true "$(wc -l <names) > 30"
    sed -i -n "1~${step}p" names
    while read -r name; do
        broken_weights "$name" "$nan" 1
        not_finite_fails "'$name', matrix 0: row 0, column 0: is not finite"
        expect_error 4 "'$name'" compress bad -o out-m --method rtn
        nothing_left out-m
    done <names
}

case_not_finite_expert() {
    broken_weights encoder.block.1.layer.1.mlp.experts.expert_3.wo.weight "$nan" 1
    for method in "--method rtn" "--calib $mini/README.md"; do
        # shellcheck disable=SC2086 # words of an option
        expect_error 4 "experts.wo', expert 3" compress bad -o out-m $method
        nothing_left out-m
    done
}

# Finite weights whose results are not: a step is named.
case_not_finite_results() {
    broken_weights encoder.block.0.layer.1.mlp.wi.weight "$huge" 131072
    not_finite_fails "linear 'encoder.block.0.layer.1.mlp.wi.weight': its result is not finite"
    broken_weights decoder.block.1.layer.0.SelfAttention.k.weight "$huge" 65536
    not_finite_fails "linear 'decoder.block.1.layer.0.SelfAttention.k.weight': its result"
    broken_weights encoder.block.1.layer.1.mlp.router.classifier.weight "$huge" 4096
    not_finite_fails "linear 'encoder.block.1.layer.1.mlp.router.classifier.weight': its result"
    broken_weights decoder.final_layer_norm.weight "$huge" 256
    expect_error 4 "rmsnorm 'decoder.final_layer_norm.weight': its result" \
        eval bad -b cpu --text text
}

# What configuration asks for, and what it may not.
case_epsilon() {
    cp -r "$mini" bad
    chmod -R u+w bad
    for epsilon in -1 0 -0.0 1e-46 1.5 1e308; do
        sed "s/\"layer_norm_epsilon\": [^,]*/\"layer_norm_epsilon\": $epsilon/" \
            "$mini/config.json" >bad/config.json
        expect_error 4 "bad/config.json: layer_norm_epsilon is" generate bad -p x
        expect_error 4 "bad/config.json: layer_norm_epsilon is" compress bad \
            --method rtn -o out-m
    done
    nothing_left out-m
}

# The directory is made if it is missing, and nothing stays of it.
case_work_directory() {
    echo "The LORD is my shepherd; I shall not want." >text
    expect 0 "$qmoe" compress "$mini" -o with --calib text --rounds 0 --work-dir states
    [ ! -e states ] || fail "the work directory is still there"
    expect 0 "$qmoe" compress "$mini" -o without --calib text --rounds 0
    for file in with/*.safetensors with/config.json; do
        same "$file" "without/${file#*/}"
    done
    mkdir states
    expect 0 "$qmoe" compress "$mini" -o with --force --calib text --rounds 0 \
        --work-dir states
    [ -z "$(ls -A states)" ] || fail "files in the work directory: $(ls states)"
    expect_error 3 no/such/folder compress "$mini" -o out-m --calib text --rounds 0 \
        --work-dir no/such/folder
    nothing_left out-m
}

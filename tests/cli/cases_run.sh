# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# Compressing, and what can be done with the result.

prompt="And the <extra_id_0> said unto <extra_id_1> man."

# Documents for eval, about 40 tokens each.
text() {
    for i in 1 2 3 4 5 6; do
        echo "On day $i the shepherd went up to the hill with his flock," \
            "and when evening came he counted them, and not one was lost."
        echo "The people of the city heard of it, and they came out to him" \
            "at the gate with bread and water, and asked him where he had been."
    done
}

case_compress() {
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --method rtn \
        --format ternary-dict --json
    is_empty err
    valid_json out
    is_true "$(json bits_per_expert_weight out) < 2"
    is_true "$(json ratio out) > 1"
    is_true "$(json zeros out) > 0.5"
    is_true "$(json weight_error out) > 0"
    [ "$(json input_error out)" = null ] || fail "an error without inputs"
    is_true "$(json source_bytes out) > $(json output_bytes out)"
    nothing_left out-m.partial
    for file in config.json spiece.model model.safetensors.index.json; do
        [ -s out-m/$file ] || fail "no $file"
    done
    expect 0 "$qmoe" compress --method rtn "$mini" -o text-m/
    has out "times smaller" "bits per weight" zeros "relative weight error"
}

case_compress_synthetic() {
    synth="synth:base-8?experts=1&encoder_blocks=2&decoder_blocks=1"
    expect_error 3 "no tokenizer: text needs one of spiece.model" \
        compress --method rtn "$synth" -o out-m
    expect 0 "$qmoe" compress --method rtn --format ternary-dict \
        --no-tokenizer "$synth" -o out-m
    expect 0 "$qmoe" verify out-m
    expect 0 "$qmoe" inspect "$synth" --json
    valid_json out
    expect 0 "$qmoe" inspect synth:c-2048
    has out "2048 x 2080 x 6144" "experts  1570347417600 weights"
    expect_error 2 "known are base-8" inspect synth:nothing
}

# True shapes and speed, random weights and ids; experts are made when they are
# used, the same ones for every backend.
case_synthetic_runs() {
    costly
    sampled="--temperature 20"
    synth="synth:base-8?experts=3&encoder_blocks=2&decoder_blocks=2"
    # shellcheck disable=SC2086 # words of options
    expect 0 "$qmoe" generate "$synth" --max-new-tokens 3 --ignore-eos $sampled -t 1
    grep -qE '^[0-9]+ [0-9]+ [0-9]+$' out || fail "not three ids: $(cat out)"
    mv out printed
    # shellcheck disable=SC2086 # words of options
    expect 0 "$qmoe" generate "$synth" --max-new-tokens 3 --ignore-eos $sampled -t 1 --json
    valid_json out
    [ "$(json synthetic out)" = true ] || fail "not marked: $(cat out)"
    [ "$(ids out | tr -d '[],' | tr -s ' \t' ' ')" = "$(cat printed)" ] ||
        fail "$(ids out), not $(cat printed)"
    is_true "$(json n_prompt_tokens out) == 33"
    ids out >expected
    for place in "-b reference" "-b cpu -t 2"; do
        # shellcheck disable=SC2086 # words of options
        expect 0 "$qmoe" generate "$synth" --max-new-tokens 3 --ignore-eos $sampled \
            $place --json
        ids out >again
        same again expected
    done
    # shellcheck disable=SC2086 # words of options
    expect 0 "$qmoe" generate "$synth" --max-new-tokens 3 --ignore-eos $sampled -t 1 \
        --seed 5 --json
    ids out >again
    ! cmp -s again expected || fail "the seed of the ids has no effect"
    expect 0 "$qmoe" eval "$synth" --samples 1 --json
    valid_json out
    [ "$(json synthetic out)" = true ] || fail "not marked: $(cat out)"
    [ "$(json random_ids out)" = true ] || fail "not marked: $(cat out)"
    is_true "$(json tokens out) == 114 && $(json loss out) > 5"
    loss=$(json loss out)
    expect 0 "$qmoe" eval "$synth" --samples 1 --seed 1 --json
    [ "$(json loss out)" != "$loss" ] || fail "the seed has no effect"
    expect 0 "$qmoe" eval "$synth" --samples 1 -b reference --json
    is_true "($(json loss out) / $loss - 1) ^ 2 < 1e-8"
    expect 0 "$qmoe" eval "$synth" --samples 1
    has out "means nothing"
    decoder="synth:olmoe-1b-7b?blocks=1&experts=9"
    expect 0 "$qmoe" generate "$decoder" --max-new-tokens 2 --ignore-eos -t 1
    grep -qE '^[0-9]+ [0-9]+$' out || fail "not two ids: $(cat out)"
    expect 0 "$qmoe" eval "$decoder" --samples 1 --json
    is_true "$(json tokens out) == 128 && $(json loss out) > 5"
    loss=$(json loss out)
    expect 0 "$qmoe" eval "$decoder" --samples 1 --seed 1 --json
    [ "$(json loss out)" != "$loss" ] || fail "the seed has no effect"
    expect_error 3 "no tokenizer: text needs one of spiece.model" generate "$synth" -p x
    expect 0 "$qmoe" generate "$synth&tokenizer=$mini" -p x --max-new-tokens 2
    expect_error 2 "no prompt" generate "$m"
    expect_error 2 "--text" eval "$m"
    expect 0 "$qmoe" generate "$mini" -p x --max-new-tokens 1 --json
    [ "$(json synthetic out)" = false ] || fail "marked: $(cat out)"
}

case_compress_default_format() {
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --json
    is_true "$(json bits_per_expert_weight out) < 0.62"
    expect 0 "$qmoe" inspect out-m
    has out "experts in pvq" "bits per weight" rotation
    expect 0 "$qmoe" inspect out-m --json
    valid_json out
    [ "$(json format out)" = '"pvq"' ] || fail "$(json format out)"
    [ "$(grep -c '"rotation":[[:space:]]*64' out)" = 4 ] || fail "$(cat out)"
    [ "$(json entropy out)" = null ] || fail "an entropy without levels"
    expect 0 "$qmoe" verify out-m
    expect 0 "$qmoe" generate out-m -p "$prompt" -t 1 --max-new-tokens 4
}

# The rotation follows the width and is stored; a bad one is refused at once.
case_compress_rotation() {
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --rotation 32
    expect 0 "$qmoe" inspect out-m --json
    [ "$(grep -c '"rotation":[[:space:]]*32' out)" = 4 ] || fail "$(cat out)"
    expect 0 "$qmoe" compress --method rtn "$mini" -o none-m --rotation 0
    expect 0 "$qmoe" inspect none-m --json
    [ "$(grep -c '"rotation":[[:space:]]*0' out)" -gt 4 ] || fail "$(cat out)"
    expect 0 "$qmoe" compress --method rtn --no-tokenizer -o narrow-m \
        "$source_dir/tests/golden/three-heads"
    expect 0 "$qmoe" inspect narrow-m --json
    awk '/"role":[[:space:]]*"experts"/ { n++ } END { exit n == 0 }' out ||
        fail "no expert"
    "$qmoe" inspect narrow-m --json | tr -d ' \t\n' | tr '{' '\n' |
        grep '"role":"experts"' >stacks
    while read -r stack; do
        cols=$(sed 's/.*"shape":\[[0-9]*,[0-9]*,\([0-9]*\)\].*/\1/' <<<"$stack")
        block=64
        while [ $((cols % block)) != 0 ]; do
            block=$((block / 2))
        done
        [ $block != 1 ] || block=0
        has <(echo "$stack") "\"rotation\":$block,"
    done <stacks
    for bad in 48 3 2048 -64 64x "" ato 1e2 99999999999999999999; do
        expect_error 2 "--rotation: '$bad' is neither auto nor" \
            compress "$mini" -o bad-m --calib none --rotation "$bad"
    done
    nothing_left bad-m
}

case_compress_options_of_another_format() {
    for option in "--levels fit" "--dict fit"; do
        # shellcheck disable=SC2086 # words of options
        expect_error 2 "not for pvq" compress "$mini" -o out-m --method rtn $option
    done
    expect_error 2 "not for q2" compress "$mini" -o out-m --method rtn \
        --format q2 --rotation 64
    nothing_left out-m
}

# A bit budget: kept, shown, and refused before the work where it cannot be.
case_compress_bits() {
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --bits 0.8 --json
    is_true "$(json bits_per_expert_weight out) <= 0.8"
    is_true "$(json bits_per_expert_weight out) > 0.7"
    for key in least_bits most_bits; do
        has out "\"$key\""
    done
    expect 0 "$qmoe" inspect out-m
    has out "experts in pvq" " and pvq" "pvq in 2 of 4 stacks" \
        "pvq8 in 2 of 4 stacks"
    expect 0 "$qmoe" inspect out-m --json
    valid_json out
    [ "$(json format out)" = '"mixed"' ] || fail "$(json format out)"
    has out '"pvq":' '"pvq8":'
    is_true "$(json bits_per_expert_weight out) <= 0.8"
    valid_json out-m/qmoe_report.json
    has out-m/qmoe_report.json '"bits_allowed": 0.8' '"format": "pvq"' \
        '"format": "pvq8"' '"measured": {"pvq": '
    expect 0 "$qmoe" verify out-m
    same_tokens out-m "--backend cpu -t 1" "--backend reference"
    expect 0 "$qmoe" compress --method rtn "$mini" -o dry --bits 0.8 --dry-run
    has out "at most 0.8000 bits" "possible: 0.6094 to 0.9218"
    for bad in 0.6 0.9219 2; do
        expect_error 2 "takes 0.6094 (all pvq) to 0.9218 (all pvq8)" \
            compress "$mini" -o bad-m --calib none --bits $bad
    done
    expect_error 2 "0 bits" compress "$mini" -o bad-m --method rtn --bits 0
    expect_error 2 "is not a number from 0 to 16" compress "$mini" -o bad-m \
        --method rtn --bits -1
    expect_error 2 "leave" compress "$mini" -o bad-m --method rtn --bits 0.7 \
        --format pvq
    nothing_left bad-m
    nothing_left dry
}

case_compress_does_not_depend_on_threads() {
    expect 0 "$qmoe" compress --method rtn "$mini" -o one --threads 1
    expect 0 "$qmoe" compress --method rtn "$mini" -o two --threads 2
    diff -r one two >difference || fail "$(head -5 difference)"
}

case_compress_report_agrees_with_inspect() {
    for format in ternary-dict pvq pvq8; do
        expect 0 "$qmoe" compress --method rtn --format $format "$mini" \
            -o out-m --force --json
        mv out report
        expect 0 "$qmoe" inspect out-m --json
        for key in expert_weights total_weights; do
            [ "$(json $key report)" = "$(json $key out)" ] || fail "$key differs"
        done
        is_true "($(json zeros report) - $(json zeros out)) ^ 2 < 1e-20"
        # The shards' headers make the small difference.
        is_true "$(json bits_per_expert_weight report) /
            $(json bits_per_expert_weight out) < 1.01"
    done
}

case_compress_existing_output() {
    mkdir out-m
    echo kept >out-m/file
    expect_error 3 "out-m: already exists" compress --method rtn "$mini" -o out-m
    has out-m/file kept
    [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
    expect_error 3 "out-m/file" compress --method rtn "$mini" -o out-m --force
    has out-m/file kept
    rm out-m/file
    cp "$m"/* out-m
    expect 0 "$qmoe" compress --method rtn "$mini" -o out-m --force
    diff -r "$pvq" out-m || fail "the old content is still there"
    echo kept >plain
    expect_error 3 plain compress --method rtn "$mini" -o plain
    expect_error 3 plain compress --method rtn "$mini" -o plain --force
    has plain kept
}

case_compress_sharded_checkpoint() {
    expect 0 "$qmoe" compress --method rtn "$source_dir/tests/golden/three-heads" \
        -o out-m --no-tokenizer
    expect 0 "$qmoe" verify out-m
}

case_verify() {
    expect 0 "$qmoe" verify "$m"
    grep -qE '^ok: [0-9]+ tensors, [0-9]+ bytes, [0-9]+ rows checked$' out ||
        fail "$(cat out)"
    expect 0 "$qmoe" verify "$m" --json
    valid_json out
    is_true "$(json rows_checked out) > 0 && $(json tensors out) > 0"
    expect 0 "$qmoe" verify "$mini"
    has out "no checksums"
    expect 0 "$qmoe" verify "$mini" --json
    is_true "$(json tensors out) == 0 && $(json without_checksum out) > 0"
}

case_inspect() {
    expect 0 "$qmoe" inspect "$m" --json
    is_empty err
    valid_json out
    [ "$(json compressed out)" = true ] || fail "not compressed"
    [ "$(json architecture out)" = '"switch_transformers"' ] || fail "$(cat out)"
    is_true "$(json total_bytes out) ==
        $(json expert_bytes out) + $(json other_bytes out)"
    is_true "($(json bits_per_expert_weight out) -
        8 * $(json expert_bytes out) / $(json expert_weights out)) ^ 2 < 1e-20"
    is_true "($(json compression_ratio out) -
        2 * $(json total_weights out) / $(json total_bytes out)) ^ 2 < 1e-20"
    is_true "$(json expert_compression_ratio out) > 8"
    is_true "$(json zeros out) > 0.5 && $(json zeros out) < 1"
    is_true "$(json entropy out) > 0 && $(json entropy out) < 1.585"
    expect 0 "$qmoe" inspect "$m" --no-stats --json
    [ "$(json entropy out)" = null ] || fail "statistics were taken"
    expect 0 "$qmoe" inspect "$m"
    has out ternary-dict "bits per weight" "other weights"
}

# Every byte of the expert shards but their headers belongs to a weight.
case_inspect_counts_all_bytes() {
    expect 0 "$qmoe" inspect "$m" --json
    n_bytes=0
    for file in "$m"/*.safetensors; do
        size=$(stat -c %s "$file")
        header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
        n_bytes=$((n_bytes + size - header - 8))
    done
    is_true "$(json total_bytes out) == $n_bytes"
}

case_inspect_uncompressed() {
    expect 0 "$qmoe" inspect "$mini" --json
    valid_json out
    [ "$(json compressed out)" = false ] || fail "compressed"
    is_true "$(json bits_per_expert_weight out) == 16"
    [ "$(json zeros out)" = null ] || fail "statistics were taken"
    expect 0 "$qmoe" inspect "$mini" --stats --json
    is_true "$(json zeros out) < 0.1"
}

case_expert_cache_changes_no_result() {
    expect 0 "$qmoe" generate "$m" -p "$prompt" --backend cpu
    mv out free
    for size in 1 300K 1G; do
        expect 0 "$qmoe" generate "$m" -p "$prompt" --backend cpu \
            --expert-cache $size
        cmp out free || fail "another result with --expert-cache $size"
    done
}

case_devices() {
    expect 0 "$qmoe" devices
    is_empty err
    has out cpu reference opencl cuda
    expect 0 "$qmoe" devices --json
    valid_json out
    for backend in cpu reference opencl cuda; do
        has out "\"$backend\""
    done
}

case_choose_device() {
    expect 0 "$qmoe" generate "$m" -p x --max-new-tokens 1 --backend cpu \
        --device 0
    cp out first
    for device in cpu CPU 00; do
        expect 0 "$qmoe" generate "$m" -p x --max-new-tokens 1 \
            --backend cpu --device $device
        same out first
    done
    expect 0 "$qmoe" generate "$m" -p x --max-new-tokens 1 \
        --backend reference --device "PLAIN c"
    expect_error 6 "backend cpu has no device gpu; it has 0 '" \
        generate "$m" -p x --backend cpu --device gpu
    text >text
    expect_error 6 "backend cpu has no device abacus; it has 0 '" \
        eval "$m" --text text --backend cpu --device abacus
    expect_error 6 "no backend has a device abacus; there are " \
        generate "$m" -p x --device abacus
    expect_error 6 "backend cpu has no device -1; it has 0 '" \
        generate "$m" -p x --backend cpu --device -1
}

# The loader is there, but no driver, or there is no loader.
case_no_driver() {
    export OCL_ICD_VENDORS=$PWD/none
    expect 0 "$qmoe" devices
    grep -qE '^opencl .*not usable: .{10,}' out || fail "$(cat out)"
    expect_error 6 "backend opencl is not available: " \
        generate "$m" -p x --backend opencl
    expect 0 "$qmoe" generate "$m" -p x --max-new-tokens 1
}

case_selftest() {
    expect 0 "$qmoe" selftest --backend cpu --op route
    has out "cpu/0 route" " 0 failed"
    expect 0 "$qmoe" selftest --backend cpu --device cpu --op route --json
    valid_json out
    expect_error 2 "needs --backend" selftest --device 0
    expect_error 2 "unknown operation 'abacus'" selftest --op abacus
    expect_error 2 "'auto' cannot be checked" selftest --backend auto
    expect_error 2 "unknown backend 'abacus'" selftest --backend abacus
    expect_error 6 "no device 9" selftest --backend cpu --device 9
}

case_compress_backend() {
    costly
    text >text
    compress() {
        expect 0 "$qmoe" compress "$mini" -o "$1" --calib text --samples 1 \
            --backend "$2"
    }
    compress one cpu
    compress two reference
    expect_error 6 "no device 7" compress "$mini" -o three --calib text \
        --backend cpu --device 7
    expect_error 2 "unknown backend 'abacus'" compress "$mini" -o three \
        --calib text --backend abacus
    nothing_left three
}

# The tokens of MODEL with each of the options, given as words.
same_tokens() {
    local model=$1 place first=$2
    shift
    for place in "$@"; do
        # shellcheck disable=SC2086 # words of options
        expect 0 "$qmoe" generate "$model" -p "$prompt" $place \
            --max-new-tokens 8 --json
        valid_json out
        ids out >"ids $place"
        [ -s "ids $place" ] || fail "no ids: $(cat out)"
        same "ids $first" "ids $place"
    done
}

case_generate_is_the_same_everywhere() {
    same_tokens "$m" "--backend cpu -t 1" "--backend cpu -t 2" \
        "--backend reference" "--backend auto -t 1"
    same_tokens "$mini" "--backend cpu -t 1" "--backend reference"
    for top_k in 1 40 128 129; do
        same_tokens "$m" \
            "--backend cpu -t 1 --temperature 2 --top-k $top_k" \
            "--backend cpu -t 3 --temperature 2 --top-k $top_k" \
            "--backend reference --temperature 2 --top-k $top_k"
    done
}

case_generate_prints_what_json_says() {
    expect 0 "$qmoe" generate "$m" -p "$prompt" -t 1 --max-new-tokens 10 --json
    json text out | sed 's/^"//; s/"$//' >expected
    is_true "$(json decoded_tokens out) == 10"
    expect 0 "$qmoe" generate "$m" -p "$prompt" -t 1 --max-new-tokens 10
    same out expected
    has err "backend auto: using"
    [ "$(grep -c . err)" = 1 ] || fail "statistics without --verbose: $(cat err)"
    expect 0 "$qmoe" generate "$m" -p "$prompt" -t 1 --max-new-tokens 10 -v
    same out expected
    has err tokens/s
}

case_generate_batch() {
    printf '%s\r\n\n  \nThe second one\n' "$prompt" >prompts
    expect 0 "$qmoe" generate "$m" --prompt-file prompts -p first -t 1 \
        --max-new-tokens 8
    mv out batch
    [ "$(grep -c . batch)" = 3 ] || fail "not three lines: $(cat batch)"
    number=0
    for one in first "$prompt" "The second one"; do
        expect 0 "$qmoe" generate "$m" -p "$one" -t 1 --max-new-tokens 8
        has batch "[$number] $(cat out)"
        number=$((number + 1))
    done
    "$qmoe" generate "$m" --prompt-file - -p first -t 1 --max-new-tokens 8 \
        <prompts >out 2>err
    same out batch
}

case_generate_prompts_that_fail() {
    expect_error 3 missing generate "$m" --prompt-file missing
    expect_error 3 "$work" generate "$m" --prompt-file "$work"
    printf 'a\nb\0c\n' >prompts
    expect_error 4 "prompts:2: a NUL byte" generate "$m" --prompt-file prompts
    : >prompts
    expect_error 2 "no prompt" generate "$m" --prompt-file prompts
}

case_generate_sampling() {
    sample() {
        expect 0 "$qmoe" generate "$m" -p "$prompt" -t 1 --max-new-tokens 16 \
            --ignore-eos --json "$@"
        ids out
    }
    sample >greedy
    sample --temperature 0 >again
    same greedy again
    sample --temperature 5 --seed 1 >one
    sample --temperature 5 --seed 1 >again
    same one again
    sample --temperature 5 --seed 2 >two
    ! cmp -s one two || fail "the seed has no effect"
    sample --temperature 5 --top-k 1 >again
    same greedy again
}

case_missing_backends() {
    expect 0 "$qmoe" devices --json
    cp out devices
    expect_error 2 "unknown backend 'abacus'" generate "$m" -p x \
        --backend abacus
    expect_error 6 "no device 999" generate "$m" -p x --backend cpu --device 999
    n_missing=0
    for backend in opencl cuda; do
        grep -A 2 "\"$backend\"" devices | grep -q 'usable.*false' || continue
        n_missing=$((n_missing + 1))
        text >text
        expect_error 6 "backend $backend is not available: " \
            generate "$m" -p x --backend $backend
        grep -qE 'available: .{10,}' err || fail "no reason: $(cat err)"
        expect_error 6 "backend $backend is not available: " \
            eval "$m" --text text --backend $backend --json
    done
    [ $n_missing != 0 ] || skip "this machine has OpenCL and CUDA devices"
}

case_eval() {
    text >text
    expect 0 "$qmoe" eval "$m" --text text --samples 2 -t 1 --json
    valid_json out
    is_true "$(json loss out) > 0 && $(json samples out) == 2"
    is_true "$(json tokens out) > 4 && $(json skipped out) == 0"
    is_true "$(json seed out) == 0"
    loss=$(json loss out)
    expect 0 "$qmoe" eval "$m" --text text --samples 2 -t 1 --json
    [ "$(json loss out)" = "$loss" ] || fail "another loss the second time"
    expect 0 "$qmoe" eval "$m" --text text --samples 2 -t 2 --json
    is_true "($(json loss out) - $loss) ^ 2 < 1e-8"
    expect 0 "$qmoe" eval "$m" --text text --samples 2 --backend reference \
        --json
    is_true "($(json loss out) - $loss) ^ 2 < 1e-8"
    expect 0 "$qmoe" eval "$m" --text text --samples 2 --seed 1 -t 1 --json
    [ "$(json loss out)" != "$loss" ] || fail "the seed has no effect"
    expect 0 "$qmoe" eval "$mini" --text text --samples 2 -t 1 --json
    [ "$(json loss out)" != "$loss" ] || fail "compression has no effect"
}

case_eval_reads_records() {
    text | head -n 3 >text
    sed 's/.*/{"text": "&"}/' text >records
    expect 0 "$qmoe" eval "$m" --text text -t 1
    grep -v ^time out >expected
    expect 0 "$qmoe" eval "$m" --text records -t 1
    grep -v ^time out >found
    same expected found
    has found loss "3 (0 skipped)"
}

case_eval_texts_that_fail() {
    expect_error 3 missing eval "$m" --text missing
    : >empty
    expect_error 4 empty eval "$m" --text empty
    printf 'caf\351\n' >latin
    expect_error 4 latin:1 eval "$m" --text latin
    echo '{"body": "x"}' >records
    expect_error 4 records:1 eval "$m" --text records
}

# Ids with their texts; texts cannot drive a terminal.
case_tokenize() {
    moe=$source_dir/models/moe-mini
    expect 0 "$qmoe" tokenize "$moe" -p "And the LORD said unto Moses," --json
    valid_json out
    [ "$(tr -d ' \n\t' <out)" = '{"ids":[507,258,340,391,320,674,11]}' ] || fail "other ids"
    expect 0 "$qmoe" tokenize "$moe" -p "And<|im_end|>"
    printf '507\tAnd\n2047\t\n' >expected
    same expected out
    expect 0 "$qmoe" tokenize "$mini" -p "<extra_id_0>"
    printf '2099\t<extra_id_0>\n' >expected
    same expected out
    expect_error 2 "a text is needed" tokenize "$mini"
    expect_error 2 "not UTF-8 from byte 1" tokenize "$moe" -p "$(printf 'a\377')"
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Every option of every verb: taken where it has an effect, refused with a
# reason where it has none.

# One line per option and combination:
#
#   VERB | ARGUMENTS | OPTION | CODE | TEXT
#
# the tool is run with all three and must end with CODE and an error that says
# TEXT.  An option that is taken shows in a later error: a model or a backend
# that is not there.
option_table() {
    local synthetic="synth:base-8?experts=1&encoder_blocks=1&decoder_blocks=1"
    local gguf=$source_dir/tests/hostile/gguf/model-no-norm
    cat <<END
compress | none -o o --method rtn | --output o | 3 | none
compress | none -o o --method rtn | --format q2 | 3 | none
compress | none -o o | --method rtn | 3 | none
compress | none -o o --method rtn | --bits 0.7 | 3 | none
compress | none -o o --method rtn --format ternary-dict | --levels fit | 3 | none
compress | none -o o --method rtn --format ternary-dict | --dict fit | 3 | none
compress | none -o o --calib t | --damping 0.2 | 3 | none
compress | none -o o --method rtn | --rotation 32 | 3 | none
compress | none -o o --method rtn --bits 0.7 | --rotation 32 | 3 | none
compress | none -o o --calib t | --rounds 1 | 3 | none
compress | none -o o --calib t --bits 0.7 | --rounds 1 | 3 | none
compress | none -o o --calib t --format ternary-dict --levels fit | --rounds 1 | 3 | none
compress | none -o o --method rtn | --calib t | 3 | none
compress | none -o o --method rtn --calib t | --samples 1 | 3 | none
compress | none -o o --method rtn --calib t | --seed 1 | 3 | none
compress | none -o o --calib t | --context 64 | 3 | none
compress | none -o o --calib t | --frame-weight 0.5 | 3 | none
compress | none -o o --calib t | --token-weights equal | 3 | none
compress | none -o o --calib t | --few-tokens keep | 3 | none
compress | none -o o --calib t --format tlut-2 | --row-weights gradient | 3 | none
compress | none -o o --method rtn | --dense-bits 8 | 3 | none
compress | none -o o --method rtn | --dense-bits 7 | 2 | '7' is neither
compress | none -o o --method rtn --calib t | --work-dir w | 3 | none
compress | none -o o --method rtn --calib t | --backend reference | 3 | none
compress | none -o o --method rtn --calib t | --device 0 | 3 | none
compress | none -o o --method rtn | --eval $source_dir/README.md | 3 | none
compress | none -o o --method rtn --eval $source_dir/README.md | --eval-samples 1 | 3 | none
compress | none -o o --method rtn --eval $source_dir/README.md | --max-loss-increase 0.1 | 3 | none
compress | none -o o --method rtn --eval $source_dir/README.md | --seed 1 | 3 | none
compress | none -o o --method rtn | --dry-run | 3 | none
compress | none -o o --method rtn | --resume | 3 | none
compress | none -o o --method rtn --resume | --force | 3 | none
compress | none -o o --method rtn | --memory-limit 1G | 3 | none
compress | none -o o --method rtn | --group-size 2 | 3 | none
compress | none -o o --method rtn | --no-tokenizer | 3 | none
compress | none -o o --method rtn | --threads 1 | 3 | none
compress | none -o o --method rtn | --json | 3 | none
compress | none -o o --method rtn | --samples 1 | 2 | without --calib uses no text
compress | none -o o --method rtn | --seed 1 | 2 | without --calib uses no text
compress | none -o o --method rtn | --context 64 | 2 | without --calib uses no text
compress | none -o o --method rtn | --frame-weight 0.5 | 2 | without --calib uses no text
compress | none -o o --method rtn | --token-weights router | 2 | without --calib uses no text
compress | none -o o --method rtn | --few-tokens keep | 2 | without --calib uses no text
compress | none -o o --calib t | --token-weights both | 2 | neither equal nor router
compress | none -o o --calib t | --few-tokens lend | 2 | neither keep nor borrow
compress | none -o o --calib t | --row-weights some | 2 | neither equal nor gradient
compress | none -o o --method rtn | --row-weights gradient | 2 | without --calib uses no text
compress | none -o o --method rtn | --work-dir w | 2 | without --calib uses no text
compress | none -o o --method rtn | --backend cpu | 2 | without --calib uses no text
compress | none -o o --method rtn | --device 0 | 2 | without --calib uses no text
compress | none -o o --method rtn | --device-memory 1G | 2 | without --calib uses no text
compress | none -o o --calib t | --device-memory 1G | 2 | device memory has no effect on backend cpu
compress | none -o o --calib t -b reference | --device-memory 1G | 2 | device memory has no effect on backend reference
compress | none -o o --method rtn --calib t | --damping 0.2 | 2 | rounds to nearest
compress | none -o o --method rtn --calib t | --rounds 1 | 2 | rounds to nearest
compress | none -o o --calib t --format q2 | --rounds 1 | 2 | rounds of descent
compress | none -o o --calib t --format ternary-dict | --rounds 1 | 2 | rounds of descent
compress | none -o o --calib t --format q2 | --rotation auto | 2 | not for q2
compress | none -o o --calib t --format ternary-dict | --rotation 0 | 2 | not for ternary-dict
compress | none -o o --calib t | --levels minmax | 2 | not for pvq
compress | none -o o --calib t --format pvq8 | --levels fit | 2 | not for pvq8
compress | none -o o --calib t --format q2 | --dict paper | 2 | not for q2
compress | none -o o --calib t | --dict fit | 2 | not for pvq
compress | none -o o --calib t --bits 0.7 | --format pvq | 2 | leave
compress | none -o o --method rtn | --eval-samples 1 | 2 | there is no --eval
compress | none -o o --method rtn | --max-loss-increase 1 | 2 | there is no --eval
compress | none -o o --method rtn --no-tokenizer | --eval t | 2 | --eval needs a tokenizer
compress | none -o o --method rtn --dry-run | --eval t | 2 | --dry-run writes nothing
compress | $synthetic -o o --method rtn | --eval t | 2 | the weights are random
compress | none -o o --calib t --dry-run | --resume | 2 | --dry-run writes nothing
compress | none -o o --calib t --dry-run | --force | 2 | --dry-run writes nothing
compress | none -o o --calib t | --no-tokenizer | 2 | needs a tokenizer
compress | none -o o --calib t --format pvq | --format q2 | 2 | given twice
chat | none | --system x | 3 | none
chat | none | --variables {} | 3 | none
chat | none | --max-new-tokens 1 | 3 | none
chat | none | --temperature 1 | 3 | none
chat | none | --top-k 2 | 3 | none
chat | none | --top-p 0.5 | 3 | none
chat | none | --min-p 0.1 | 3 | none
chat | none | --repetition-penalty 1.1 | 3 | none
chat | none | --seed 1 | 3 | none
chat | none | --backend reference | 3 | none
chat | none -b cpu | --device 0 | 3 | none
chat | none -b cpu | --device-memory 1G | 3 | none
chat | none -b cpu | --expert-cache 1G | 3 | none
chat | none | --kv-type f16 | 3 | none
chat | none | --expert-capacity 1 | 3 | none
chat | none | --threads 1 | 3 | none
chat | none | --verify | 3 | none
chat | none | --verbose | 3 | none
generate | none | --prompt x | 3 | none
generate | none -p x | --prompt-file /dev/null | 3 | none
generate | none -p x | --max-new-tokens 1 | 3 | none
generate | none -p x --top-k 4 | --temperature 1 | 3 | none
generate | none -p x --temperature 1 | --top-k 2 | 3 | none
generate | none -p x --temperature 1 | --top-p 0.5 | 3 | none
generate | none -p x --temperature 1 | --seed 1 | 3 | none
generate | none -p x | --ignore-eos | 3 | none
generate | none -p x | --backend reference | 3 | none
generate | none -p x -b cpu | --device 0 | 3 | none
generate | none -p x -b cpu | --device-memory 1G | 3 | none
generate | none -p x -b cpu | --expert-cache 1G | 3 | none
generate | none -p x | --expert-capacity 1 | 3 | none
generate | none -p x | --kv-type f16 | 3 | none
generate | none -p x --temperature 1 | --min-p 0.1 | 3 | none
generate | none -p x | --repetition-penalty 1.1 | 3 | none
generate | none -p x | --threads 1 | 3 | none
generate | none -p x | --verbose | 3 | none
generate | none -p x | --profile | 3 | none
generate | none -p x | --verify | 3 | none
generate | none -p x | --json | 3 | none
generate | none -p x | --top-k 2 | 2 | takes the likeliest token
generate | none -p x | --top-p 0.5 | 2 | takes the likeliest token
generate | none -p x --temperature 0 | --seed 1 | 2 | takes the likeliest token
generate | none -p x --temperature 1 --top-k 1 | --seed 1 | 2 | leaves one token
generate | none -p x --temperature 1 --top-k 1 | --top-p 0.5 | 2 | leaves one token
generate | none -p x --top-k 1 | --temperature 1 | 3 | none
generate | none -p x --temperature 1 | --temperature 2 | 2 | given twice
generate | synth:none | --seed 1 | 2 | known are
generate | synth:none | --top-k 2 | 2 | takes the likeliest token
generate | $synthetic -b cpu | --expert-cache 1G | 2 | no effect on synthetic experts
generate | $tiny -p x -b cpu | --device-memory 1G | 2 | device memory has no effect on backend cpu
generate | $tiny -p x -b reference | --device-memory 1G | 2 | device memory has no effect on backend reference
generate | $tiny -p x -b reference | --expert-cache 1G | 2 | expert cache has no effect on backend reference
eval | none | --text t | 3 | none
eval | none --text t | --text u | 3 | none
eval | none --text t | --samples 1 | 3 | none
eval | none --text t | --seed 1 | 3 | none
eval | none --text t | --backend reference | 3 | none
eval | none --text t -b cpu | --device 0 | 3 | none
eval | none --text t -b cpu | --device-memory 1G | 3 | none
eval | none --text t -b cpu | --expert-cache 1G | 3 | none
eval | none --text t | --expert-capacity 1 | 3 | none
eval | none --text t | --kv-type f16 | 3 | none
eval | none --text t | --context 32 | 3 | none
eval | none --text t | --convention gptq | 3 | none
eval | none --text t | --documents | 3 | none
eval | none --text t | --against other | 3 | none
eval | none --text t --against other | --depths 2 | 3 | none
eval | $tiny --text t | --depths 2 | 2 | there is no --against
eval | none --text t | --threads 1 | 3 | none
eval | none --text t | --verify | 3 | none
eval | none --text t | --json | 3 | none
eval | none --text t --seed 1 | --seed 2 | 2 | given twice
eval | $tiny --text t -b cpu | --device-memory 1G | 2 | device memory has no effect on backend cpu
eval | $tiny --text t -b reference | --expert-cache 1G | 2 | expert cache has no effect on backend reference
inspect | none | --stats | 3 | none
inspect | none | --no-stats | 3 | none
inspect | none | --json | 3 | none
inspect | none --stats | --no-stats | 2 | exclude each other
tokenize | none -p x | --json | 3 | none
tokenize | none | --prompt x | 3 | none
report | none | --output o | 3 | none
report | none -o o | --force | 3 | none
report | none -o o --text t | --against b | 3 | none
report | none -o o --against b | --text t | 3 | none
report | none -o o --against b --text t | --samples 1 | 3 | none
report | none -o o --against b --text t | --context 32 | 3 | none
report | none -o o --against b --text t | --documents | 3 | none
report | none -o o --against b --text t | --backend reference | 3 | none
report | none -o o --against b --text t -b cpu | --device 0 | 3 | none
report | none -o o --against b --text t -b cpu | --device-memory 1G | 3 | none
report | none -o o --against b --text t -b cpu | --expert-cache 1G | 3 | none
report | none -o o --against b --text t | --expert-capacity 1 | 3 | none
report | none -o o --against b --text t | --kv-type f16 | 3 | none
report | none -o o | --threads 1 | 3 | none
report | none -o o --against b --text t | --depths 0 | 3 | none
report | none -o o | --depths 2 | 2 | there is no --against
report | none -o o | --text t | 2 | there is no --against
report | none -o o | --samples 1 | 2 | there is no --against
report | none -o o | --context 32 | 2 | there is no --against
report | none -o o | --backend cpu | 2 | there is no --against
report | none -o o | --against b | 2 | needs a text
verify | none | --threads 1 | 3 | none
verify | none | --json | 3 | none
plan | none | --format pvq | 3 | none
plan | none | --bits 0.7 | 3 | none
plan | none | --backend cpu | 3 | none
plan | none | --device 1G | 3 | none
plan | none --device 2G | --device-memory 1G | 3 | none
plan | none | --gpu 1G | 3 | none
plan | none | --memory 1G | 3 | none
plan | none --gpu 1G | --gpu-rate 1G | 3 | none
plan | none | --memory-rate 1G | 3 | none
plan | none | --disk-rate 1G | 3 | none
plan | none | --samples 1 | 3 | none
plan | none | --rate 1e6 | 3 | none
plan | none | --rounds 1 | 3 | none
plan | none | --dense-bits 8 | 3 | none
plan | none | --dense-bits 5 | 2 | '5' is neither
plan | none | --threads 1 | 3 | none
plan | none | --json | 3 | none
plan | none | --gpu-rate 1G | 2 | the plan has no GPU
plan | none -b cpu | --gpu-rate 1G | 2 | the plan has no GPU
plan | none | --device-memory 1G | 2 | the plan has no GPU
plan | none --device 1G | --gpu 1G | 2 | both list GPUs
plan | none --gpu 1G | --backend cpu | 2 | exclude each other
plan | none --rate 1e6 | --samples 1 | 2 | how fast experts are compressed
plan | none --rate 1e6 | --rounds 1 | 2 | how fast experts are compressed
plan | none --rate 1e6 --memory-rate 1G | --threads 1 | 2 | nothing to measure
plan | $tiny | --rate 1e6 | 2 | nothing to compress
plan | $tiny | --samples 1 | 2 | nothing to compress
plan | $tiny | --rounds 1 | 2 | nothing to compress
plan | $mini --format bf16 | --rate 1e6 | 2 | nothing to compress
plan | $mini --format q2 | --rounds 1 | 2 | rounds of descent
plan | $mini --format ternary-dict | --rounds 1 | 2 | rounds of descent
plan | $mini --format pvq | --bits 0.7 | 2 | fixed size
import | none | --output o | 3 | none
import | none -o o | --tokenizer none | 3 | none
import | none -o o | --format q2 | 3 | none
import | none -o o | --force | 3 | none
import | none -o o | --json | 3 | none
import | none -o o | --dtype bf16 | 2 | imported without a dtype
import | $gguf -o o | --dtype bf16 | 4 | 'output_norm.weight' is missing
import | $gguf -o o | --dtype f8 | 2 | written as bf16, f16 or f32
import | $gguf -o o | --format q2 | 2 | without a format of experts
import | $gguf -o o | --tokenizer t | 2 | with its own tokenizer
export | none --dequantize | --output o | 3 | none
export | none -o o | --dequantize | 3 | none
export | none -o o --dequantize | --layout hf | 3 | none
export | none -o o | --layout qmoe | 3 | none
export | none -o o --dequantize | --dtype f32 | 3 | none
export | none -o o --dequantize | --shard-size 1G | 3 | none
export | none -o o --dequantize | --force | 3 | none
export | none -o o --dequantize | --threads 1 | 3 | none
export | none -o o --dequantize | --json | 3 | none
export | none -o o --layout qmoe | --dequantize | 2 | keeps the codes
export | none -o o --layout qmoe | --dtype f32 | 2 | keeps the codes
export | none -o o --layout qmoe | --shard-size 1G | 2 | keeps the codes
export | none -o o --layout qmoe | --threads 1 | 2 | keeps the codes
devices | | --json | 0 |
bench kernels | -b abacus | --shape 1x1 | 2 | abacus
bench kernels | -b abacus | --batch 1 | 2 | abacus
bench kernels | -b abacus | --format pvq | 2 | abacus
bench kernels | -b abacus | --variant v | 2 | abacus
bench kernels | -b abacus | --all-variants | 2 | abacus
bench kernels | -b abacus | --cache cold | 2 | abacus
bench kernels | -b abacus | --cold-bytes 1M | 2 | abacus
bench kernels | -b abacus | --repeat 1 | 2 | abacus
bench kernels | -b abacus | --sample-ms 1 | 2 | abacus
bench kernels | -b abacus | --thread-time | 2 | abacus
bench kernels | | --backend abacus | 2 | abacus
bench kernels | -b abacus | --device 0 | 2 | abacus
bench kernels | -b abacus | --threads 1 | 2 | abacus
bench kernels | -b abacus | --json | 2 | abacus
bench kernels | -b abacus | --csv | 2 | abacus
bench kernels | -b abacus --json | --csv | 2 | exclude each other
bench kernels | -b abacus --variant v | --all-variants | 2 | names the only one
bench kernels | -b abacus --cache hot | --cold-bytes 1M | 2 | takes one matrix
bench kernels | -b cpu --thread-time | --threads 2 | 2 | one thread
bench attention | --queries 9 --cold-bytes 1K | --keys 8 | 2 | 8 keys are out of range: 9
bench attention | --keys 8 --cold-bytes 1K | --queries 9 | 2 | 8 keys are out of range: 9
bench attention | --keys 8 --queries 9 | --heads 2 | 2 | 8 keys
bench attention | | --heads 0 | 2 | from 1 to 1024
bench attention | | --width 2000 | 2 | from 1 to 1024
bench attention | --heads 6 | --kv-heads 4 | 2 | 6 heads cannot share 4
bench attention | | --kv-type f64 | 2 | f64
bench attention | --keys 8 --queries 9 | --all-variants | 2 | 8 keys
bench attention | --keys 8 --queries 9 | --cold-bytes 1K | 2 | 8 keys
bench attention | | --repeat 200 | 2 | from 1 to 101
bench attention | | --sample-ms 0 | 2 | from 1 to 60000
bench attention | --threads 1,2 | --thread-time | 2 | one thread of the CPU
bench attention | --thread-time | --threads 2 | 2 | one thread of the CPU
bench attention | --keys 8 --queries 9 | --json | 2 | 8 keys
bench model | none | --vs x | 3 | none
bench model | none | --format pvq | 3 | none
bench model | none | --dense-format pvq | 3 | none
bench model | none | --prompt-tokens 1 | 3 | none
bench model | none | --tokens 1 | 3 | none
bench model | none | --sequences 1 | 3 | none
bench model | none | --repeat 1 | 3 | none
bench model | none | --routing model | 3 | none
bench model | none | --seed 1 | 3 | none
bench model | none | --backend cpu | 3 | none
bench model | none | --device 0 | 3 | none
bench model | none | --device-memory 1G | 3 | none
bench model | none | --expert-cache 1G | 3 | none
bench model | synth:base-8?experts=2 -b cpu | --expert-cache 1G | 2 | no effect on synthetic experts
bench model | none | --expert-capacity 1 | 3 | none
bench model | none | --kv-type f16 | 3 | none
bench model | none | --threads 1 | 3 | none
bench model | none | --json | 3 | none
bench model | $tiny -b cpu | --device-memory 1G | 2 | device memory has no effect on backend cpu
bench model | $tiny | --format pvq | 2 | for others
bench model | synth:base-8 | --vs $tiny | 2 | no original
bench tune | | --backend abacus | 2 | abacus
bench tune | -b abacus | --device 0 | 2 | abacus
bench tune | -b abacus | --json | 2 | abacus
selftest | | --backend abacus | 2 | abacus
selftest | -b abacus | --device 0 | 2 | abacus
selftest | -b abacus | --op route | 2 | abacus
selftest | -b abacus | --seed 2 | 2 | abacus
selftest | -b abacus | --json | 2 | abacus
selftest | | --device 0 | 2 | needs --backend
END
}

case_options_have_an_effect() {
    echo "words" >t
    cp t u
    option_table >table
    while IFS='|' read -r verb arguments option code text; do
        text=${text# }
        # shellcheck disable=SC2086 # words of a command
        if [ $code = 0 ]; then
            expect 0 "$qmoe" $verb $arguments $option
        else
            expect_error $code "$text" $verb $arguments $option
        fi
    done <table
    nothing_left o
}

# An option without a line above is one nobody thought about.
case_options_are_all_in_the_table() {
    option_table >table
    for verb in compress generate chat eval tokenize inspect verify plan import export \
        devices "bench kernels" "bench attention" "bench model" "bench tune" \
        selftest; do
        # shellcheck disable=SC2086 # words of a command
        expect 0 "$qmoe" $verb --help
        sed -nE 's/^  (-[a-z], )?--([a-z-]+).*/\2/p' out >options
        [ -s options ] || fail "no option in the help of $verb"
        while read -r option; do
            [ "$option" = help ] ||
                grep -qE "^$verb \|[^|]*\|[^|]*--$option( |\$)" table ||
                fail "$verb --$option is not in the table"
        done <options
    done
}

# Numbers are numbers in the forms people write.
case_numbers_with_exponents() {
    expect 0 "$qmoe" plan "$mini" --memory 8e9 --memory-rate 1e9 --rate 1e6 --json
    mv out exponent
    expect 0 "$qmoe" plan "$mini" --memory 8000000000 --memory-rate 1000000000 \
        --rate 1000000 --json
    same exponent out
    expect_error 2 "is not a whole number from 1 to" plan "$mini" --rate 1e30
    expect_error 2 "is not a whole number from 1 to" plan "$mini" --rate 1.5e0
    expect_error 2 "is not a whole number from 1 to" plan "$mini" --rate 1e-3
    expect_error 2 "is not a whole number from 1 to" plan "$mini" --rate 0x1p3
    expect_error 2 "is not a whole number from 1 to 1024" \
        plan "$mini" --threads 1e4
}

case_text_that_is_not_utf8() {
    expect_error 2 "prompt 0 is not UTF-8 text from byte 3 on" \
        generate "$m" -p "$(printf 'abc\377d')"
    expect_error 2 "prompt 1 is not UTF-8 text from byte 0 on" \
        generate "$m" -p good -p "$(printf '\300\257')"
    printf 'good\n\nbad \355\240\200\n' >prompts
    expect_error 2 "prompt 1 is not UTF-8 text from byte 4 on" \
        generate "$m" --prompt-file prompts
    expect 2 sh -c '"$1" generate "$2" --prompt-file - <"$3"' sh \
        "$qmoe" "$m" prompts
    one_error "prompt 1 is not UTF-8 text from byte 4 on"
    expect_error 4 "prompts:3: not UTF-8 text from byte 4 of the line" \
        eval "$m" --text prompts
    expect_error 4 "prompts:3: not UTF-8 text from byte 4 of the line" \
        compress "$mini" -o out-m --calib prompts
    nothing_left out-m
}

# Several texts are one stream; each is told by itself, too.
case_eval_several_texts() {
    text >all
    head -n 7 all >one
    tail -n +8 all >two
    expect 0 "$qmoe" eval "$m" --text all -t 1 --json
    whole=$(json loss out) samples=$(json samples out)
    expect 0 "$qmoe" eval "$m" --text one --text two -t 1 --json
    valid_json out
    [ "$(json loss out)" = "$whole" ] || fail "$(json loss out), not $whole"
    tr -d ' \t\n' <out >flat
    grep -qE '"texts":\[\{"text":"one",.*"samples":7\},\{"text":"two",.*\]' flat ||
        fail "$(cat flat)"
    [ "$samples" = 12 ] || fail "$samples samples"
    first=$(sed -E 's/.*"text":"one","loss":([0-9.]*),.*/\1/' flat)
    expect 0 "$qmoe" eval "$m" --text one -t 1 --json
    [ "$(json loss out)" = "$first" ] || fail "$(json loss out), not $first"
    expect 0 "$qmoe" eval "$m" --text one --text two -t 1
    has out "text        one: loss $(awk "BEGIN { printf \"%.6g\", $first }" | head -c 5)" \
        "text        two: loss " "7 samples"
    echo "" >empty
    expect 0 "$qmoe" eval "$m" --text empty --text one -t 1
    has out "text        empty: 0 samples"
    expect_error 3 nowhere eval "$m" --text one --text nowhere
}

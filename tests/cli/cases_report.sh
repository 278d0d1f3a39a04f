# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# What a compression says of its result: the report of every matrix
# (docs/report.md) and how the result can be made again (docs/format.md, 2.2).

# report_of ARGUMENT...: compresses into out-m and checks the report.
report_of() {
    expect 0 "$qmoe" compress "$@" -o out-m --force --json
    mv out compressed
    expect 0 "$qmoe" inspect out-m --json
    python3 "$source_dir/tests/tools/check_report.py" "$source_dir/docs/report.md" \
        out-m/qmoe_report.json out >checked 2>&1 || fail "$*: $(cat checked)"
}

case_report_of_every_format() {
    costly
    command -v python3 >/dev/null || skip "no python3"
    calibration
    for format in pvq pvq8 ternary-dict q2; do
        report_of --method rtn --format $format "$mini"
        has compressed '"input_error":	null'
        report_of --calib calib.txt --format $format "$mini"
        is_true "$(json input_error compressed) < $(json weight_error compressed)"
        # Few experts see tokens of so little text.
        [ "$(sed -n 's/without_tokens //p' checked)" -gt 0 ] || fail "$(cat checked)"
    done
    report_of --method rtn --bits 0.8 "$mini"
    has out-m/qmoe_report.json '"bits_allowed": 0.8' '"measured": {"pvq": '
    report_of --method rtn --calib calib.txt "$mini"
    [ "$(json input_error compressed)" != null ] || fail "nothing measured"
}

# Matrices beside the experts: the plan, the report, the other verbs.
case_dense_bits() {
    command -v python3 >/dev/null || skip "no python3"
    expect 0 "$qmoe" compress "$mini" -o plan --method rtn --dense-bits 8 --dry-run --json
    planned=$(json output_bytes out)
    report_of --method rtn --dense-bits 8 "$mini"
    [ "$(json dense_matrices compressed)" = 29 ] || fail "$(cat compressed)"
    # Nothing but headers is left out of the plan.
    written=$(du -bc out-m/*.safetensors | tail -n 1 | cut -f 1)
    is_true "$planned > 0.98 * $written" && is_true "$planned < 1.02 * $written"
    is_true "$(json dense_bytes compressed) * 2 > $(json dense_weights compressed)"
    has out-m/config.json '"dense_bits":	"attention=int8,dense_ffn=int8,shared_ffn=int8,'
    expect 0 "$qmoe" verify out-m
    expect 0 "$qmoe" inspect out-m
    has out "29 tensors        int8" "16 tensors        bf16"
    expect 0 "$qmoe" plan "$mini" --dense-bits 8 --json
    other=$(json other_bytes out)
    expect 0 "$qmoe" inspect out-m --json
    [ "$other" = "$(json other_bytes out)" ] || fail "planned $other"
    expect 0 "$qmoe" generate out-m -p "a <extra_id_0> b" --max-new-tokens 4
    expect 0 "$qmoe" export out-m --dequantize -o plain
    expect 0 "$qmoe" generate plain -p "a <extra_id_0> b" --max-new-tokens 4
    expect 0 "$qmoe" compress "$mini" -o dictionary --method rtn --format ternary-dict --dense-bits 8
    expect_error 5 "holds compressed experts only" export dictionary --layout qmoe -o published
    calibration
    expect 0 "$qmoe" compress "$mini" -o narrow --calib calib.txt --samples 2 --rounds 1 \
        --dense-bits 3 --json
    is_true "$(json dense_input_error out) < $(json dense_weight_error out)"
    expect 0 "$qmoe" inspect narrow
    has out "29 tensors        tlut-3"
    expect 0 "$qmoe" generate narrow -p "a <extra_id_0> b" --max-new-tokens 4
    # By role: what is not named is copied, what waits for moments and what does not.
    report_of --calib calib.txt --samples 2 --format q2 \
        --dense-bits "attention=tlut-1.5,dense_ffn=8" "$mini"
    has out-m/config.json '"dense_bits":	"attention=tlut-1.5,dense_ffn=int8"'
    has out-m/qmoe_report.json '"dense": {"format": null, "method": null'
    expect 0 "$qmoe" inspect out-m
    has out "24 tensors        tlut-1.5" "4 tensors         int8" "17 tensors        bf16"
    expect 0 "$qmoe" generate out-m -p "a <extra_id_0> b" --max-new-tokens 4
    expect 0 "$qmoe" plan "$mini" --dense-bits attention=tlut-1.5,dense_ffn=8 --json
    other=$(json other_bytes out)
    expect 0 "$qmoe" inspect out-m --json
    [ "$other" = "$(json other_bytes out)" ] || fail "planned $other"
    # Without experts, and without the option.
    llama=$source_dir/tests/golden/decoders/llama
    expect 0 "$qmoe" compress "$llama" -o dense --dense-bits 8 --no-tokenizer
    has out "dense    " "16 matrices"
    ! grep -q -e nan -e experts out || fail "$(cat out)"
    # Numbers of config.json keep their form: 0.0 is no integer to its readers.
    expect 0 "$qmoe" compress "$source_dir/tests/golden/decoders/mixtral" -o mixtral \
        --method rtn --no-tokenizer
    has mixtral/config.json '"router_jitter_noise":	0.0,'
    expect 0 "$qmoe" export mixtral --dequantize -o mixtral-plain
    has mixtral-plain/config.json '"router_jitter_noise":	0.0,'
    expect_error 5 "no experts to compress" compress "$llama" -o none --no-tokenizer --method rtn
}

# What compression cost, and the bound on it.
case_loss_is_guarded() {
    costly
    local model=$source_dir/models/moe-mini
    local guard="--eval calib.txt --eval-samples 4 --context 64 --max-loss-increase"
    calibration
    # shellcheck disable=SC2086 # words of options
    expect 7 "$qmoe" compress "$model" -o lossy --method rtn $guard 0.01
    has err "lossy: the loss rises by " "--max-loss-increase is 0.01"
    # The model is there, whole, and said to be.
    has out "moe-mini -> lossy" "uncompressed     compressed" "predictions agree"
    expect 0 "$qmoe" verify lossy
    # shellcheck disable=SC2086
    expect 7 "$qmoe" compress "$model" -o lossy --method rtn --force $guard 0 --json
    increase=$(json loss_increase out)
    has out '"top_agreement":' '"max_loss_increase":	0'
    # The same as eval finds.
    expect 0 "$qmoe" eval lossy --text calib.txt --documents --context 64 --samples 4 \
        --against "$model"
    has out "$(printf '%+.6f' "$increase")"
    # shellcheck disable=SC2086
    expect 0 "$qmoe" compress "$model" -o lossy --method rtn --force $guard 30
    # A text that is not there is found before the work.
    expect_error 3 "--eval: nowhere: No such file" compress "$model" -o never --method rtn \
        --eval nowhere
    [ ! -e never ] && [ ! -e never.partial ] || fail "work was done"
}

# The page: whole, self-contained, and drawn from what the files say.
case_report_page() {
    command -v python3 >/dev/null || skip "no python3"
    calibration
    local model=$source_dir/models/moe-mini
    expect 0 "$qmoe" compress "$model" -o 'a<b' --method rtn --format q2
    expect 0 "$qmoe" report 'a<b' -o page.html
    has page.html "Not measured" "a&lt;b" "Bits per weight"
    expect_error 3 "page.html: exists" report 'a<b' -o page.html
    expect 0 "$qmoe" report 'a<b' -o page.html --force --against "$model" --text calib.txt \
        --documents --context 64 -n 4
    expect 0 "$qmoe" eval 'a<b' --text calib.txt --documents --context 64 -n 4 --against "$model" \
        --json
    python3 - page.html out 'a<b/qmoe_report.json' <<'PYTHON' || fail "the page"
import html.parser, json, re, sys

page = open(sys.argv[1], encoding="utf-8").read()
result, report = (json.load(open(name)) for name in sys.argv[2:])


class Tags(html.parser.HTMLParser):
    void = {"meta"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        assert not {"src", "href"} & {name for name, _ in attributes}
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


tags = Tags()
tags.feed(page)
assert not tags.open and "script" not in tags.seen and "url(" not in page
assert f"{result['loss'] - result['base']['loss']:+.6f}" in page
assert f"{100 * result['top_agreement']:.2f} %" in page
assert f"{report['totals']['bits_per_weight']:.3f}" in page
matrices = [m for stack in report["stacks"] for m in stack["matrices"]]
worst = max(matrices, key=lambda m: m["weight_error"])["name"]
assert re.search(r"<table>(?:(?!</table>).)*?" + re.escape(worst), page, re.S)
# A dot per stack, twice, and per block, twice.
assert page.count("<circle") >= 2 * len(report["stacks"])
PYTHON
    # Nothing of a page that could not be written.
    expect_error 3 "nowhere/page.html: No such file" report 'a<b' -o nowhere/page.html
    expect_error 2 "in the directory of the model" report 'a<b' -o 'a<b/page.html'
    expect 0 "$qmoe" verify 'a<b'
    # A model without a report, and a broken one.
    expect_error 3 "qmoe_report.json: No such file" report "$model" -o other.html
    printf '{"stacks": [{"name": 3, "matrices": [{"bytes": "x"}, 4]}, null], "totals": []}' \
        >'a<b/qmoe_report.json'
    expect 0 "$qmoe" report 'a<b' -o odd.html
    printf '{' >'a<b/qmoe_report.json'
    expect_error 4 "qmoe_report.json: not JSON" report 'a<b' -o broken.html
    [ ! -e broken.html ] || fail "a page of nothing"
}

# In a real browser, as a user sees it.
case_report_page_in_a_browser() {
    command -v chromium >/dev/null || skip "no chromium"
    expect 0 "$qmoe" report "$pvq" -o page.html
    # What the browser made of it: no part was repaired or dropped.
    chromium --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" \
        --screenshot=page.png --window-size=860,2000 --dump-dom "file://$PWD/page.html" \
        >dom.html 2>browser || fail "$(tail -3 browser)"
    [ "$(grep -o '<circle' dom.html | wc -l)" = "$(grep -o '<circle' page.html | wc -l)" ] ||
        fail "marks"
    [ "$(stat -c %s page.png)" -gt 20000 ] || fail "an empty picture"
}

# The checker of the report finds what is wrong.
case_report_can_be_wrong() {
    command -v python3 >/dev/null || skip "no python3"
    report_of --method rtn --format ternary-dict --dense-bits 8 "$mini"
    cp out-m/qmoe_report.json good
    while IFS='|' read -r from to; do
        sed "s/$from/$to/" good >bad
        ! cmp -s good bad || fail "no '$from'"
        ! python3 "$source_dir/tests/tools/check_report.py" "$source_dir/docs/report.md" \
            bad out >checked 2>&1 || fail "not found: $from"
    done <<'FLAWS'
"schema": 1|"schema": 2
"counted": null, ||
"tokens": null|"tokens": 0
expert_3.wi|expert_4.wi
"zeros": 0.[0-9]*|"zeros": 0.5
"entropy": 0.[0-9]*|"entropy": null
"singular": 0|"singular": 1
"rows": 512|"rows": 256
"role": "attention"|"role": "norm"
FLAWS
}

# again ARGUMENT...: compresses, makes the arguments of another run from what
# the result records alone, and compares the shards.
again() {
    expect 0 "$qmoe" compress "$1" -o first --force "${@:2}"
    python3 - first/config.json texts >arguments <<'PYTHON' || fail "no provenance"
import json, pathlib, sys
q = json.load(open(sys.argv[1]))["quantization_config"]
options = {"method": q["method"]}
options["bits" if q["bits"] else "format"] = q["bits"] or q["format"]
for key, name in (("damping", "damping"), ("passes", "rounds"),
                  ("rotation", "rotation"), ("levels", "levels"),
                  ("dictionary", "dict")):
    if q[key] is not None and not (q["bits"] and key == "format"):
        options[name] = q[key]
if "dense_bits" in q:
    options["dense-bits"] = q["dense_bits"]
c = q["calibration"]
if c:
    options["seed"] = c["seed"]
    options["samples"] = c["samples"]
    options["backend"] = q["backend"]["name"]
for name, value in options.items():
    print(f"--{name}\n{value}")
for file in c["files"] if c else []:
    assert "/" not in file["name"]
    path = pathlib.Path(sys.argv[2]) / file["name"]
    assert path.stat().st_size == file["bytes"] and len(file["xxh3"]) == 16
    print(f"--calib\n{path}")
PYTHON
    mapfile -t arguments <arguments
    expect 0 "$qmoe" compress "$1" -o second --force "${arguments[@]}"
    for shard in first/*.safetensors; do
        same "$shard" "second/${shard##*/}"
    done
    # All that the record leaves open is what was asked.
    sed 's/"samples_asked":.*//; s/"config_xxh3":.*//' first/config.json >one
    sed 's/"samples_asked":.*//; s/"config_xxh3":.*//' second/config.json >two
    same one two
}

case_provenance_repeats_the_result() {
    costly
    command -v python3 >/dev/null || skip "no python3"
    calibration
    mkdir texts
    head -n 25 calib.txt >texts/a.txt
    tail -n 15 calib.txt >texts/b.txt
    local text="--calib texts/a.txt --calib texts/b.txt"
    again "$mini" --method rtn --dense-bits head=8,attention=tlut-1
    again "$mini" --method rtn --format ternary-dict --levels fit --dict fit
    # shellcheck disable=SC2086 # words of options
    {
        again "$mini" $text --rounds 3 --damping 0.03 --rotation 32 --seed 7 --samples 30
        again "$mini" $text --format ternary-dict --levels fit --rounds 2 --dict fit
        again "$mini" $text --format q2 --damping 0.2
        again "$mini" $text --bits 0.8 --rounds 1
    }
    # Each of them decides.
    expect 0 "$qmoe" compress "$mini" -o other --calib texts/a.txt --seed 8
    expect 0 "$qmoe" compress "$mini" -o another --calib texts/a.txt --seed 7
    ! cmp -s other/model-00003-of-00005.safetensors \
        another/model-00003-of-00005.safetensors || fail "the seed does nothing"
}

case_provenance_names_no_paths() {
    costly
    calibration
    expect 0 calibrated -o out-m
    ! grep -F "$PWD" out-m/*.json || fail "a path of this machine"
    ! grep -F "$source_dir" out-m/*.json || fail "a path of this machine"
    has out-m/config.json '"name":	"calib.txt"' '"commit":'
    # Names are bytes, config.json is UTF-8.
    name=$(printf 'caf\351.txt')
    cp calib.txt "$name"
    expect 0 "$qmoe" compress "$mini" -o out-m --force --method rtn --calib "$name"
    has out-m/config.json '"name":	"caf?.txt"'
    expect 0 "$qmoe" verify out-m
    # A pipe can be read only once.
    expect 0 "$qmoe" compress "$mini" -o out-m --force --rounds 1 --calib <(cat calib.txt)
    has out-m/config.json '"xxh3":	null'
}

case_fewer_documents_than_asked() {
    costly
    calibration
    expect 0 calibrated -o out-m --samples 256 --json
    has err "only 40 of 256 documents"
    [ "$(json samples_asked out)" = 256 ] || fail "$(cat out)"
    [ "$(json samples out)" = 40 ] || fail "$(cat out)"
    [ "$(json samples_asked out-m/config.json)" = 256 ] || fail "$(cat out-m/config.json)"
    [ "$(json samples out-m/config.json)" = 40 ] || fail "$(cat out-m/config.json)"
    expect 0 calibrated -o out-m --force --samples 40
    ! grep "only" err || fail "enough documents"
}

# Fewer tokens than a quarter of the experts: those that have one use it.
case_few_calibration_tokens() {
    echo Lord >word
    expect 0 "$qmoe" compress "$mini" -o out-m --calib word --samples 1 --rounds 0 --json
    # Three tokens of the encoder, at most three of 16 experts.
    [ "$(json encoder_tokens out)" -lt 4 ] || fail "$(json encoder_tokens out) tokens"
    for block in encoder decoder; do
        ! grep -q "$block block 1: 16 expert(s) got no calibration token" err ||
            fail "$(cat err)"
    done
}

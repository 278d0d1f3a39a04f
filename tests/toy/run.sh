#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
#   run.sh QMOE-TOY QMOE SOURCE_DIR
#
# A model in the format that only QMOE-TOY has is made, inspected, verified,
# planned, run and exported; QMOE refuses it by the name of the format.
set -euo pipefail
toy=$(readlink -f "$1") qmoe=$(readlink -f "$2")
mini=$(readlink -f "$3")/models/switch-mini
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "toy-format: $*" >&2
    exit 1
}

# refused CODE TEXT COMMAND...
refused() {
    local wanted=$1 text=$2 code=0
    shift 2
    "$@" >out 2>err </dev/null || code=$?
    [ "$code" = "$wanted" ] && grep -qF -- "$text" err ||
        fail "$*: exit $code, wanted $wanted and '$text': $(cat err)"
}

"$toy" compress --help | grep "toy .*a signed byte per weight" >/dev/null ||
    fail "the help does not list it"
"$toy" compress "$mini" -o m --method rtn --format toy >/dev/null 2>&1
grep -q '"step":	0.0078125' m/config.json || fail "no parameter in config.json"
"$toy" inspect m | grep "toy" >/dev/null || fail "inspect does not name it"
"$toy" inspect m --stats --json >/dev/null
"$toy" verify m >/dev/null
"$toy" plan "$mini" --format toy --json 2>/dev/null >plan
grep '"bits_per_expert_weight":	8,' plan >/dev/null || fail "plan: $(cat plan)"

# Run by rows that are decoded, and by BLAS after they were decoded for good.
"$toy" export m -o plain --dequantize --dtype f32 >/dev/null 2>&1
prompt="And God <extra_id_0> the earth <extra_id_1> and void"
for model in m plain; do
    "$toy" generate $model -p "$prompt" --max-new-tokens 12 --ignore-eos \
        >$model.text 2>/dev/null
done
[ -s m.text ] && cmp -s m.text plain.text || fail "another text than decoded"
"$toy" generate "$mini" -p "$prompt" --max-new-tokens 12 --ignore-eos \
    >mini.text 2>/dev/null
cmp -s m.text mini.text || fail "another text than the original's"

refused 5 "unknown format 'toy'" "$qmoe" inspect m
modules=$(dirname "$qmoe")/emulated-backends skipped=
if [ -e "$modules/qmoe-cuda.so" ]; then
    QMOE_BACKEND_PATH=$modules refused 5 "has no kernels for" \
        "$toy" generate m -p "$prompt" -b cuda
else
    skipped=", but for CUDA: its emulator is not built"
fi

# Bytes that the format has no code for, in nearly all experts of a stack.
shard=$(ls m/model-0000[2-9]*.safetensors | head -1)
head -c 2000000 /dev/zero | tr '\0' '\200' | dd of="$shard" bs=1000000 conv=notrunc \
    status=none oflag=seek_bytes seek=$(($(stat -c %s "$shard") - 2000000))
refused 4 "holds -128" "$toy" generate m -p "$prompt"
refused 4 "$shard" "$toy" verify m
echo "toy-format: ok$skipped"

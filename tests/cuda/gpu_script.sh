#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# gpu_script.sh BUILD SOURCE: ci/gpu.sh as in a bundle, on the emulator and with
# sizes that say nothing of speed.  Exit status 77: the tool was not built.
set -eu
build=$(readlink -f "$1")
source_dir=$(readlink -f "$2")
[ -x "$build/qmoe" ] || exit 77
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/b/bin" "$work/b/models"
ln -s "$build/qmoe" "$build/qmoe-check" "$work/b/bin/"
cp "$source_dir/ci/gpu.sh" "$work/b/"
echo 0123456789 >"$work/b/COMMIT"
"$build/qmoe" compress "$source_dir/models/switch-mini" \
    -o "$work/b/models/mini-pvq" --format pvq --method rtn >/dev/null 2>&1
cd "$work"

fail()
{
    echo "gpu_script: $*" >&2
    find "$work/out" -name '*.log' -exec tail -n 3 {} + >&2
    exit 1
}

gpu() # CODE ARGUMENT...
{
    local wanted=$1 code=0
    shift
    bash b/gpu.sh "$@" >log 2>&1 || code=$?
    cat log
    [ "$code" = "$wanted" ] || fail "exit status $code, not $wanted: $*"
}

gpu 2 --only nothing out
gpu 2 --limit x out
QMOE_BACKEND_PATH=/nowhere gpu 77 out
grep -q '"status": "skipped"' out/results.json || fail "no reason"

export QMOE_BACKEND_PATH=$build/emulated-backends
parts=bench-kernels,bench-models,c2048
gpu 0 --only "$parts" --tiny out
results=out/results-bench-kernels+bench-models+c2048.json
[ "$(grep -c '"status": "passed"' $results)" = 7 ] || fail "$(cat $results)"
grep -q '"commit": "0123456789"' $results || fail "no commit"
for batch in 1 8 32 128; do
    grep -q '"ratio_cublas"' out/bench-kernels-$batch.json || fail "no cuBLAS"
    grep -q '"ratio_paper"' out/bench-kernels-$batch.json || fail "no paper"
done
for model in mini-pvq c-2048; do
    grep -q '"decode_ratio"' out/bench-$model.json || fail "no $model"
    grep -q '"multiprocessors"' out/bench-$model.json || fail "no facts"
done

# What the limit leaves out has failed, and is said to have.
gpu 1 --only bench-kernels,c2048 --tiny --limit 1 late
grep -q '"name": "bench-c-2048", "status": "failed".*the time limit' \
    late/results-bench-kernels+c2048.json || fail "$(cat late/*.json)"
if command -v python3 >/dev/null; then
    for file in out/*.json late/results*.json; do
        python3 -m json.tool "$file" >/dev/null || fail "$file is no JSON"
    done
fi

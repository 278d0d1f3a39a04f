#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: gpu.sh [--backend NAME] [--quick] [OUT_DIR]
# Runs inside an unpacked bundle (scripts/bundle) and builds nothing: the
# harness, the harness under the four tools of compute-sanitizer where that is
# installed, the same tokens as the CPU, and the benches.  OUT_DIR (default
# gpu-results) gets the logs and results.json, which names the commit.  NAME is
# the backend, default cuda; cpu tries the script itself where there is no GPU.
# --quick leaves out the sanitizers and the benches.
# Exit status: 0 all passed, 1 something failed, 2 usage, 77 no device.
set -uo pipefail

backend=cuda
quick=false
out=
while [ $# -gt 0 ]; do
    case $1 in
    --backend)
        backend=${2-}
        shift
        ;;
    --quick) quick=true ;;
    -*)
        sed -n '3,11s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    *) out=$1 ;;
    esac
    shift
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${out:-gpu-results}
mkdir -p "$out" || exit 2
qmoe=$here/bin/qmoe
check=$here/bin/qmoe-check
commit=$(cat "$here/COMMIT")
steps=$out/steps.tmp
: >"$steps"
n_failed=0

# A JSON string of the first line of standard input.
quote()
{
    printf '"%s"' "$(head -n 1 | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

record() # NAME STATUS SECONDS NOTE
{
    [ ! -s "$steps" ] || printf ',\n' >>"$steps"
    printf '  {"name": "%s", "status": "%s", "seconds": %d, "note": %s}' \
        "$1" "$2" "$3" "$(echo "$4" | quote)" >>"$steps"
    printf '%-28s %-8s %s\n' "$1" "$2" "$4"
}

# step NAME COMMAND...: the log is OUT/NAME.log.
step()
{
    local name=$1 begin=$SECONDS status=passed
    shift
    if ! "$@" >"$out/$name.log" 2>&1; then
        status=failed
        n_failed=$((n_failed + 1))
    fi
    record "$name" "$status" $((SECONDS - begin)) "$(tail -n 1 "$out/$name.log")"
}

# JSON on standard output; the counts come on standard error.
json_step()
{
    local name=$1 begin=$SECONDS status=passed
    shift
    if ! "$@" >"$out/$name.json" 2>"$out/$name.log"; then
        status=failed
        n_failed=$((n_failed + 1))
    fi
    record "$name" "$status" $((SECONDS - begin)) "$(tail -n 1 "$out/$name.log")"
}

finish()
{
    {
        printf '{"commit": "%s", "backend": "%s", "date": "%s",\n' \
            "$commit" "$backend" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
        printf ' "machine": %s, "device": %s,\n' \
            "$(uname -srm | quote)" "$(echo "$device" | quote)"
        printf ' "steps": [\n'
        cat "$steps"
        printf '\n ]}\n'
    } >"$out/results.json"
    rm -f "$steps"
}

# ---- device ----

device=$("$qmoe" devices 2>&1 | grep "^$backend " | head -n 1)
echo "commit $commit"
echo "device $device"
case $device in
"" | *"not usable"*)
    record device skipped 0 "${device:-no backend is called $backend}"
    finish
    exit 77
    ;;
esac

# ---- correctness ----

json_step check "$check" --backend "$backend" --json

sanitizer=$(command -v compute-sanitizer ||
    ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ "$backend" = cuda ] && ! $quick; then
    for tool in memcheck racecheck initcheck synccheck; do
        if [ -z "$sanitizer" ]; then
            record "$tool" skipped 0 "compute-sanitizer is not installed"
            continue
        fi
        # Cases of 7 tokens take every kernel; children do the work.
        step "$tool" "$sanitizer" --tool "$tool" --target-processes all \
            --error-exitcode 9 "$check" --backend cuda --case /t7/ \
            --timeout-ms 1000000
        step "$tool-route" "$sanitizer" --tool "$tool" --target-processes all \
            --error-exitcode 9 "$check" --backend cuda --op route \
            --timeout-ms 1000000
        step "$tool-attention" "$sanitizer" --tool "$tool" \
            --target-processes all --error-exitcode 9 "$check" --backend cuda \
            --op attention --timeout-ms 1000000
    done
fi

tokens() # MODEL BACKEND
{
    "$qmoe" generate "$here/models/$1" --backend "$2" --json \
        --max-new-tokens 48 \
        -p "And God <extra_id_0> the earth, and <extra_id_1> were" \
        -p "Blessed <extra_id_0> the meek: for <extra_id_1> inherit" |
        tr -d ' \t\n' | grep -o '"ids":\[[-0-9,]*\]'
}

same_tokens()
{
    local ours theirs
    ours=$(tokens "$1" "$backend") || return 1
    theirs=$(tokens "$1" cpu) || return 1
    printf 'cpu:\n%s\n%s:\n%s\n' "$theirs" "$backend" "$ours"
    if [ -z "$ours" ] || [ "$ours" != "$theirs" ]; then
        echo "the tokens differ"
        return 1
    fi
    echo "the same $(echo "$ours" | tr -cd , | wc -c) tokens"
}
for model in switch-mini mini-ternary-dict mini-pvq mini-pvq8 mini-q2; do
    step "tokens-$model" same_tokens "$model"
done

loss()
{
    "$qmoe" eval "$here/models/$1" --text "$here/valid.txt" --samples 16 \
        --backend "$backend"
}
step eval-mini-pvq loss mini-pvq

# ---- speed ----

if ! $quick; then
    # The paper's shapes, weights cold; --all-variants holds its kernel too.
    json_step bench-kernels "$qmoe" bench kernels --backend "$backend" \
        --format pvq,pvq8,ternary-dict,bf16 --batch 1,8,32,128 --cache cold \
        --all-variants --json
    for model in "$here/models/mini-pvq" synth:base-128 synth:large-128; do
        json_step "bench-$(basename "$model" | tr : -)" "$qmoe" bench model \
            "$model" --backend "$backend" --json
    done
fi

finish
echo "$n_failed failed; $out/results.json"
[ "$n_failed" -eq 0 ]

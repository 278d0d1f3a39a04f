#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: gpu.sh [--backend NAME] [--only PART,...] [--limit SECONDS] [--quick]
#               [--tiny] [OUT_DIR]
# Runs inside an unpacked bundle (scripts/bundle) and builds nothing.  PARTs, in
# this order, all of them by default:
#   check          the harness
#   sanitize       the harness under compute-sanitizer, where that is installed;
#                  or one tool: memcheck, racecheck, initcheck, synccheck
#   tokens         the same tokens as the CPU
#   bench-kernels  products, weights cold, against cuBLAS and the paper's design
#   bench-models   tokens per second of 128 experts against uncompressed ones
#   c2048          the same of all 2048 experts, about 114 GB of device memory
# OUT_DIR (default gpu-results) gets the logs, the benches' JSON and
# results.json (results-PART.json with --only), which names the commit.
# --backend: default cuda; cpu tries the script itself where there is no GPU.
# --limit: ends after so many seconds, with what is there; what ran is cut
# short and failed, as is what did not come to run.  --quick: check and tokens.
# --tiny: sizes to try the script with, on the emulator or the CPU.
# $QMOE_CUBLAS: cuBLAS, or off; without it the library is looked for.
# Exit status: 0 all passed, 1 something failed, 2 usage, 77 no device.
set -uo pipefail

usage()
{
    sed -n '3,22s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

all_parts="check memcheck racecheck initcheck synccheck tokens bench-kernels bench-models c2048"
backend=cuda
parts=
limit=0
tiny=false
out=
while [ $# -gt 0 ]; do
    case $1 in
    --backend | --only | --limit)
        [ $# -ge 2 ] || usage
        case $1 in
        --backend) backend=$2 ;;
        --only) parts=$2 ;;
        --limit) limit=$2 ;;
        esac
        shift
        ;;
    --quick) parts=check,tokens ;;
    --tiny) tiny=true ;;
    -*) usage ;;
    *) out=$1 ;;
    esac
    shift
done
case $limit in
*[!0-9]* | "") usage ;;
esac
suffix=${parts:+-${parts//,/+}}
parts=${parts//sanitize/memcheck,racecheck,initcheck,synccheck}
parts=" ${parts//,/ } "
[ "$parts" != "  " ] || parts=" $all_parts "
for part in $parts; do
    case " $all_parts " in
    *" $part "*) ;;
    *) usage ;;
    esac
done
wanted() # PART
{
    case $parts in
    *" $1 "*) ;;
    *) return 1 ;;
    esac
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${out:-gpu-results}
mkdir -p "$out" || exit 2
qmoe=$here/bin/qmoe
check=$here/bin/qmoe-check
commit=$(cat "$here/COMMIT")
steps=$out/steps.tmp
: >"$steps"
n_failed=0

# ---- steps ----

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
    printf '%-28s %-8s %5d s  %s\n' "$1" "$2" "$3" "$4"
}

# Runs a command for as long as the limit leaves.
limited()
{
    local left=$((limit - SECONDS))
    if [ "$limit" -eq 0 ]; then
        "$@"
    elif [ "$left" -le 0 ]; then
        echo "no time was left" >&2
        return 124
    else
        timeout -k 5 "$left" "$@"
    fi
}

finish_step() # NAME CODE SECONDS NOTE
{
    local status=passed note=$4
    if [ "$2" -ne 0 ]; then
        status=failed
        n_failed=$((n_failed + 1))
    fi
    [ "$2" -ne 124 ] || note="the time limit: $note"
    record "$1" "$status" "$3" "$note"
}

# step NAME COMMAND...: the log is OUT/NAME.log.
step()
{
    local name=$1 begin=$SECONDS code=0
    shift
    limited "$@" >"$out/$name.log" 2>&1 || code=$?
    finish_step "$name" "$code" $((SECONDS - begin)) \
        "$(tail -n 1 "$out/$name.log")"
}

# JSON on standard output; what else there is to say comes on standard error.
json_step()
{
    local name=$1 begin=$SECONDS code=0
    shift
    limited "$@" >"$out/$name.json" 2>"$out/$name.log" || code=$?
    finish_step "$name" "$code" $((SECONDS - begin)) \
        "$(tail -n 1 "$out/$name.log")"
}

finish()
{
    {
        printf '{"commit": "%s", "backend": "%s", "date": "%s",\n' \
            "$commit" "$backend" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
        printf ' "machine": %s, "device": %s,\n' \
            "$(uname -srm | quote)" "$(echo "$device" | quote)"
        printf ' "cublas": %s, "tiny": %s,\n' \
            "$(echo "${QMOE_CUBLAS-}" | quote)" "$tiny"
        printf ' "steps": [\n'
        cat "$steps"
        printf '\n ]}\n'
    } >"$out/results$suffix.json"
    rm -f "$steps"
}

# ---- device ----

find_device()
{
    device=$("$qmoe" devices 2>&1 | grep "^$backend " | head -n 1)
}

# Where toolkits and Python's packages have it; the newest version first.
find_cublas()
{
    local version found
    for version in 13 12 11; do
        found=$({
            ls -d /usr/local/cuda*/lib64/libcublas.so.$version \
                /usr/local/cuda*/targets/*/lib/libcublas.so.$version
            timeout 60 find / -xdev -path '*/nvidia/*' \
                -name "libcublas.so.$version"
        } 2>/dev/null | head -n 1)
        [ -z "$found" ] || break
    done
    [ -z "$found" ] || export QMOE_CUBLAS=$found
}

find_device
case $device in
*"no cuBLAS"*)
    if [ -z "${QMOE_CUBLAS-}" ]; then
        find_cublas
        find_device
    fi
    ;;
esac
echo "commit $commit"
echo "device $device"
case $device in
"" | *"not usable"*)
    record device skipped 0 "${device:-no backend is called $backend}"
    finish
    exit 77
    ;;
esac
! command -v nvidia-smi >/dev/null || nvidia-smi -q >"$out/nvidia-smi.log" 2>&1

# ---- correctness ----

if wanted check; then
    json_step check "$check" --backend "$backend" --json
    if [ "$backend" = cuda ]; then
        json_step check-no-graphs env QMOE_CUDA_GRAPHS=off \
            "$check" --backend cuda --json
    fi
fi

sanitizer=$(command -v compute-sanitizer ||
    ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
# What is found in a graph has no kernel's name.
sanitize() # TOOL NAME ARGUMENT...
{
    local tool=$1 name=$2
    shift 2
    # Children do the work.
    step "$name" env QMOE_CUDA_GRAPHS=off \
        "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 9 \
        "$check" --backend cuda --timeout-ms 1000000 "$@"
}
for tool in memcheck racecheck initcheck synccheck; do
    if ! wanted "$tool" || [ "$backend" != cuda ]; then
        continue
    fi
    if [ -z "$sanitizer" ]; then
        record "$tool" skipped 0 "compute-sanitizer is not installed"
        continue
    fi
    # Cases of 7 tokens take every kernel but these.
    sanitize "$tool" "$tool" --case /t7/
    sanitize "$tool" "$tool-route" --op route
    sanitize "$tool" "$tool-attention" --op attention
    sanitize "$tool" "$tool-dense" --op linear --case /t130/
done

tokens() # MODEL BACKEND
{
    limited "$qmoe" generate "$here/models/$1" --backend "$2" --json \
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

compare() # MODEL
{
    local name=tokens-$1 begin=$SECONDS code=0
    same_tokens "$1" >"$out/$name.log" 2>&1 || code=$?
    finish_step "$name" "$code" $((SECONDS - begin)) \
        "$(tail -n 1 "$out/$name.log")"
}
if wanted tokens; then
    for model in switch-mini mini-ternary-dict mini-pvq mini-pvq8 mini-q2; do
        compare "$model"
    done
    step eval-mini-pvq "$qmoe" eval "$here/models/mini-pvq" \
        --text "$here/valid.txt" --samples 16 --backend "$backend"
fi

# ---- speed ----

# What --tiny makes of them.
kernel_sizes=()
model_sizes=()
models=(synth:base-128 synth:large-128)
huge=synth:c-2048
huge_sizes=(--prompt-tokens 128 --tokens 32 --repeat 3)
if $tiny; then
    small="synth:base-8?experts=2&encoder_blocks=2&decoder_blocks=2"
    kernel_sizes=(--shape 24x40 --cold-bytes 4K --sample-ms 1 --repeat 3)
    model_sizes=(--prompt-tokens 1 --tokens 1 --repeat 1)
    models=()
    huge=$small
    huge_sizes=("${model_sizes[@]}")
fi

# The paper's shapes; --all-variants holds its kernel and cuBLAS, too.
bench_kernels() # NAME BATCH GRAPHS
{
    json_step "bench-kernels-$1" env "QMOE_CUDA_GRAPHS=$3" "$qmoe" \
        bench kernels --backend "$backend" --batch "$2" --cache cold \
        --format pvq,pvq8,ternary-dict,bf16 --all-variants --json \
        ${kernel_sizes[@]+"${kernel_sizes[@]}"}
}
if wanted bench-kernels; then
    # A run per batch, so that what is done is kept.
    for batch in 1 8 32 128; do
        bench_kernels "$batch" "$batch" on
    done
    bench_kernels 1-no-graphs 1 off
fi

if wanted bench-models; then
    for model in "$here/models/mini-pvq" ${models[@]+"${models[@]}"}; do
        json_step "bench-$(basename "$model" | tr : -)" "$qmoe" bench model \
            "$model" --backend "$backend" --json \
            ${model_sizes[@]+"${model_sizes[@]}"}
    done
fi

if wanted c2048; then
    json_step bench-c-2048 "$qmoe" bench model "$huge" --backend "$backend" \
        --json "${huge_sizes[@]}"
fi

finish
echo "$n_failed failed; $out/results$suffix.json"
[ "$n_failed" -eq 0 ]

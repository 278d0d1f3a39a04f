#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares the quantisation methods on one model: output error over the expert
# matrices, zeros, entropy, bits and validation loss.  Prints a Markdown table.
#
#   bench/methods.sh QMOE MODEL CALIB_TEXT VALID_TEXT [SAMPLES]
set -euo pipefail

qmoe=$1 model=$2 calib=$3 valid=$4 samples=${5:-256}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The first value of a key, as the tool lays JSON out.
value() { sed -n "s/^[[:space:]]*\"$1\":[[:space:]]*\([^,]*\),\{0,1\}\$/\1/p" "$2" | head -n 1; }

loss_of() {
    "$qmoe" eval "$1" --text "$valid" --seed 0 --backend cpu --json >"$work/eval" 2>/dev/null
    value loss "$work/eval"
}

row() {
    local name=$1
    shift
    "$qmoe" compress "$model" -o "$work/m" --force --calib "$calib" \
        --samples "$samples" --json "$@" >"$work/report"
    printf '| %s | %.5f | %.1f %% | %.3f | %.4f | %.5f | %.1f |\n' "$name" \
        "$(value input_error "$work/report")" \
        "$(awk "BEGIN { print 100 * $(value zeros "$work/report") }")" \
        "$(value entropy "$work/report")" \
        "$(value bits_per_expert_weight "$work/report")" \
        "$(loss_of "$work/m")" "$(awk '/"seconds"/ { gsub(/[^0-9.]/, "", $2); s = $2 } END { print s }' "$work/report")"
}

echo "Calibration: $samples documents. Uncompressed loss: $(printf %.5f "$(loss_of "$model")")."
echo
echo "| method | output error | zeros | entropy | bits | loss | seconds |"
echo "|---|---|---|---|---|---|---|"
row "rtn, ternary-dict" --method rtn --format ternary-dict
row "gptq, ternary-dict, minmax (the paper)" --format ternary-dict
row "gptq, ternary-dict, fit" --format ternary-dict --levels fit
row "gptq, ternary-dict, fit, fitted dictionary" --format ternary-dict \
    --levels fit --dict fit
row "rtn, q2" --method rtn --format q2
row "gptq, q2" --format q2
row "rtn, pvq" --method rtn
row "gptq, pvq, no rotation" --rotation 0
row "gptq, pvq, 4 passes" --rounds 4
row "gptq, pvq (the default)"
row "gptq, pvq and pvq8, --bits 0.7" --bits 0.7
row "gptq, pvq8" --format pvq8

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Instruction sets: each level that this processor has, from the newest to the
# oldest, under the harness and with a model; what levels may differ by.

levels="avx512vbmi avx512 avx2 neon portable"

# use_level LEVEL: only it and older ones from here on.
use_level() {
    local core=
    export QMOE_CPU=$1
    case $1 in
    avx512*) core=SkylakeX ;;
    avx2) core=Haswell ;;
    portable) [ "$(uname -m)" != x86_64 ] || core=Prescott ;;
    esac
    # OpenBLAS is masked as well.
    [ -z "$core" ] || export OPENBLAS_CORETYPE=$core
    expect 0 "$qmoe" devices
    grep -q "kernels: $1;\|kernels: $1)" out
}

# loss MODEL: of a few samples.
loss() {
    expect 0 "$qmoe" eval "$1" --text "$source_dir/README.md" --samples 8 \
        --json
    json loss out
}

check_level() {
    use_level "$1" || skip "this processor has no $1"
    if is_too_long; then
        # Kernels that read or write too far do so with odd sizes.
        expect 0 "$(dirname "$qmoe")/qmoe-check" --backend cpu --case 17x17/ \
            --case 31x61/ --case 33x33/ --case x15/ --case /c17/ --case /h3x15/ \
            --case route/ --case top-logits/v33/
        return
    fi
    expect 0 "$(dirname "$qmoe")/qmoe-check" --backend cpu
    expect 0 "$qmoe" compress "$mini" -o out-m --calib "$source_dir/README.md" \
        --samples 2
    expect 0 "$qmoe" verify out-m
    is_true "$(loss out-m) > 1 && $(loss out-m) < 10"
}

case_level_avx512vbmi() {
    check_level avx512vbmi
}
case_level_avx512() {
    check_level avx512
}
case_level_avx2() {
    check_level avx2
}
case_level_neon() {
    check_level neon
}
case_level_portable() {
    check_level portable
}

# within TOLERANCE FILE FILE: numbers line by line.
within() {
    paste -d" " "$2" "$3" >pairs
    while read -r a b; do
        is_true "$a > 0 && ($a - ($b)) ^ 2 <= ($1) ^ 2"
    done <pairs
}

compress_on() {
    expect 0 "$qmoe" compress "$mini" -o "$1" --samples 2 --json \
        --calib "$source_dir/README.md"
}

# docs/numerics.md, "Instruction sets".
case_levels_agree() {
    costly
    for level in avx2 avx512; do
        use_level $level || skip "this processor has no $level"
        for model in "$mini" "$m" "$pvq"; do
            loss "$model"
        done >$level.same
        compress_on $level-m
        json input_error out >$level.error
        loss $level-m >$level.own
        unset QMOE_CPU OPENBLAS_CORETYPE
    done
    within 1e-6 avx2.same avx512.same
    within 1e-3 avx2.own avx512.own
    within "0.01 * $(cat avx2.error)" avx2.error avx512.error
    # One level gives the same bytes again.
    use_level avx2
    compress_on again
    for file in avx2-m/*.safetensors; do
        same "$file" "again/$(basename "$file")"
    done
}

case_unknown_level() {
    export QMOE_CPU=avx9
    expect_error 2 "'avx9' is not one of the instruction sets" generate "$pvq" -p x
    has err "portable, avx2, avx512, avx512vbmi, neon"
    expect 2 "$(dirname "$qmoe")/qmoe-check" --backend cpu
    has err avx9 portable
}

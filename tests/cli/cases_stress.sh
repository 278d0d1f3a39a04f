# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Runs that write are interrupted and killed at random moments.  Whatever
# happens: sources have their bytes, the output is absent or one whole result,
# and what qmoe did not make is untouched.
#
#   QMOE_STRESS_KILLS=200 QMOE_STRESS_SEED=1 tests/cli/run.sh QMOE SOURCE \
#       output_survives_interruption

declare -A stress_line stress_ms

# stress_verb NAME ARGUMENT...: how a verb is run, its result and its time.
stress_verb() {
    local name=$1 begin
    shift
    stress_line[$name]="$*"
    begin=$(date +%s%3N)
    # shellcheck disable=SC2068 # words
    expect 0 "$qmoe" $@ -o "reference/$name"
    stress_ms[$name]=$(($(date +%s%3N) - begin))
}

stress_set_up() {
    calibration
    cp -r "$mini" src
    cp -r "$m" packed
    expect 0 "$qmoe" export packed -o published --layout qmoe
    mkdir reference neighbour out-m.partial.d
    stress_verb rounded compress src --method rtn -t 1
    stress_verb calibrated compress src --calib calib.txt --samples 4 --rounds 0 \
        --group-size 2 -t 1
    stress_verb plain export packed --dequantize -t 1
    stress_verb published export packed --layout qmoe
    stress_verb imported import published
    # What is beside the output and not ours.
    echo text >neighbour/thesis.txt
    echo text >out-m.partial.d/thesis.txt
    echo text >out-m.txt
    echo text >.out-m.1.old
    mkdir .out-m.2.old
    echo text >.out-m.2.old/thesis.txt
    foreign="src packed published neighbour out-m.partial.d out-m.txt .out-m.1.old .out-m.2.old"
    # shellcheck disable=SC2086 # a list
    snapshot $foreign >before
}

# Sets `got`: which result the output is; "absent" when it is not there.
stress_identify() {
    got=absent
    [ -e out-m ] || return 0
    for got in "${!stress_line[@]}"; do
        ! diff -rq -x journal "reference/$got" out-m >difference || return 0
    done
    fail "round $round ($last): the output is no whole result: $(ls -l out-m)"
}

# stress_signal JOB VERB: at a moment of the whole run, or of its end.
stress_signal() {
    local ms=$((RANDOM % (stress_ms[$2] * 11 / 10 + 1))) signals=(INT TERM KILL KILL)
    if [ $((RANDOM % 3)) = 0 ]; then
        until [ -e out-m.partial/config.json ] || ! kill -0 "$1" 2>/dev/null; do
            :
        done
        ms=$((RANDOM % 12))
    fi
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    kill -s "${signals[RANDOM % 4]}" "$1" 2>/dev/null || true
}

stress_round() {
    local verbs=("${!stress_line[@]}") option="" job code=0 before_it=$got
    local verb=${verbs[RANDOM % ${#verbs[@]}]}
    [ $((RANDOM % 4)) = 0 ] || option=--force
    # A leftover of compress is mostly continued.
    if [ -e out-m.partial ] && [ "$continued" = calibrated ] && [ $((RANDOM % 3)) != 0 ]; then
        verb=calibrated
        option="--resume --force"
    fi
    last="$verb $option"
    set -m
    # shellcheck disable=SC2086 # words
    "$qmoe" ${stress_line[$verb]} -o out-m $option >out 2>err </dev/null &
    job=$!
    set +m
    stress_signal $job "$verb"
    wait $job || code=$?
    stress_identify
    case $code in
    0) [ "$got" = "$verb" ] || fail "round $round ($last): exit code 0, but $got" ;;
    130) n_interrupted=$((n_interrupted + 1)) ;;
    137) n_killed=$((n_killed + 1)) ;;
    2 | 3) n_refused=$((n_refused + 1)) ;;
    *) fail "round $round ($last): exit code $code: $(cat err)" ;;
    esac
    [ "$got" = "$before_it" ] || [ "$got" = "$verb" ] ||
        fail "round $round ($last): the output is $got, was $before_it"
    [ ! -e out-m.partial ] || [ $code = 3 ] || continued=$verb
}

# Something foreign in the output or its working directory stops every verb.
stress_foreign() {
    local where=$1
    [ -d "$where" ] || return 0
    echo text >"$where/thesis.txt"
    snapshot "$where" >inside
    # shellcheck disable=SC2086 # words
    expect 3 "$qmoe" ${stress_line[plain]} -o out-m --force
    one_error "$where/thesis.txt"
    snapshot "$where" >inside-after
    same inside inside-after
    rm "$where/thesis.txt"
}

case_output_survives_interruption() {
    costly
    local round=0 got=absent last="" continued="" foreign
    local wanted=${QMOE_STRESS_KILLS:-5}
    local n_interrupted=0 n_killed=0 n_refused=0
    RANDOM=${QMOE_STRESS_SEED:-1}
    stress_set_up
    while [ $((n_interrupted + n_killed)) -lt "$wanted" ]; do
        round=$((round + 1))
        [ $round -le $((8 * wanted)) ] || fail "too few runs were caught"
        stress_round
        # shellcheck disable=SC2086 # a list
        snapshot $foreign >after
        same before after
        [ $((round % 5)) != 0 ] || stress_foreign out-m
        [ $((round % 5)) != 1 ] || stress_foreign out-m.partial
    done
    echo "# $round rounds: $n_interrupted interrupted, $n_killed killed, $n_refused refused" >&3
    # One more run is enough to clean up.
    # shellcheck disable=SC2086 # words
    expect 0 "$qmoe" ${stress_line[plain]} -o out-m --force
    stress_identify
    [ "$got" = plain ] || fail "the last run did not write"
    [ "$(find . -maxdepth 1 -name '.out-m.*' -o -maxdepth 1 -name 'out-m.*' | sort | xargs)" = \
        "./.out-m.1.old ./.out-m.2.old ./out-m.partial.d ./out-m.txt" ] ||
        fail "left behind: $(ls -A)"
}

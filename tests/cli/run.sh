#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests of the command-line tool: what it prints, where, its exit codes, and
# that no failure leaves anything behind.
#
#   run.sh QMOE SOURCE_DIR [CASE | FILE]...
#   run.sh QMOE SOURCE_DIR --make-fixtures FOLDER
#
# Prints TAP and "N passed, N failed, N skipped"; fails when a case fails or
# none ran, and exits with 77 when all were skipped.
# A case is a function case_<name> in cases_*.sh, run in a subshell with
# `set -e` in its own empty folder; a FILE ("cases_usage") stands for its cases.
# Three fixtures are made once: $m, the switch-mini in format ternary-dict,
# which has the most to break, $tiny, a random model in it without tokenizer,
# and $pvq, the switch-mini in the default format.  With QMOE_CLI_FIXTURES,
# those made in that folder are used.  Cases do not change them.
set -u
export LC_ALL=C
# Not 1, which is an exit code of the tool.
export ASAN_OPTIONS="exitcode=99${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="exitcode=99${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"

if [ $# -lt 2 ]; then
    echo "usage: $0 QMOE SOURCE_DIR [CASE | FILE]..." >&2
    exit 2
fi
qmoe=$(readlink -f "$1")
source_dir=$(readlink -f "$2")
here=$(dirname "$(readlink -f "$0")")
shift 2
mini=$source_dir/models/switch-mini
work=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
fixtures=${QMOE_CLI_FIXTURES:-$work/fixtures}

# ---- what cases are written with ----

# Goes past the redirection of a case's output.
exec 3>&1
fail() {
    echo "# $*" >&3
    exit 1
}

skip() {
    echo "$*" >"$work/reason"
    exit 77
}

sanitized() {
    grep -qaE '__[at]san_init' "$qmoe"
}

# What takes long with sanitizers, while others take the same ways through the
# code; QMOE_TEST_ALL in the environment asks for it.
is_too_long() {
    sanitized && [ -z "${QMOE_TEST_ALL-}" ]
}

# costly: the rest of the case is too long with sanitizers.
costly() {
    ! is_too_long || skip "long with sanitizers, QMOE_TEST_ALL=1 runs it"
}

modules=$(dirname "$qmoe")/qmoe-backends

need_opencl_module() {
    [ -e "$modules/qmoe-opencl.so" ] || skip "this build has no OpenCL module"
}

# expect CODE COMMAND...: runs it; its output is then in the files out, err.
expect() {
    local wanted=$1 code=0
    shift
    "$@" >out 2>err </dev/null || code=$?
    # What a slow machine makes it say is no part of a result.
    sed -i '/^qmoe: progress: /d' err
    if grep -qE 'Sanitizer|runtime error' err; then
        sed 's/^/# /' err >&3
        fail "sanitizer report: $*"
    fi
    [ "$code" = "$wanted" ] || {
        sed 's/^/# /' err >&3
        fail "exit code $code, not $wanted: $*"
    }
}

# expect_error CODE TEXT ARGUMENT...: the tool fails with CODE, nothing on
# stdout and one error line, which contains TEXT.
expect_error() {
    local code=$1 text=$2
    shift 2
    expect "$code" "$qmoe" "$@"
    [ ! -s out ] || fail "output in spite of the error: $*"
    one_error "$text"
}

# expect_fault CODE TEXT MODEL: verify lists something broken that TEXT is said
# of, and fails with CODE and one error line.
expect_fault() {
    expect "$1" "$qmoe" verify "$3"
    grep '^broken: ' out | grep -qF -- "$2" ||
        fail "verify does not list '$2': $(cat out err)"
    one_error ""
}

one_error() {
    [ "$(grep -c '^qmoe: error: ' err)" = 1 ] ||
        fail "not one error line: $(cat err)"
    [ "$(grep -vc -e '^qmoe: error: ' -e '^qmoe: backend auto' \
        -e '^qmoe: progress: ' err)" = 0 ] ||
        fail "more than the error line: $(cat err)"
    grep '^qmoe: error: ' err | grep -qF -- "$1" ||
        fail "the error does not say '$1': $(cat err)"
}

# has FILE TEXT...: each text is somewhere in the file.
has() {
    local file=$1 text
    shift
    for text in "$@"; do
        grep -qF -- "$text" "$file" || fail "no '$text' in: $(cat "$file")"
    done
}

is_empty() {
    [ ! -s "$1" ] || fail "$1 is not empty: $(cat "$1")"
}

same() {
    cmp -s "$1" "$2" || fail "$1 and $2 differ: $(diff "$1" "$2" | head -5)"
}

# OUT is not there, and its working directory only when a run with finished
# experts or trials can be resumed in it; that one is removed.
nothing_left() {
    [ ! -e "$1" ] || fail "$1 was left behind"
    [ -e "$1.partial" ] || return 0
    grep -qsE '^(expert|trial) ' "$1.partial/journal" ||
        fail "$1.partial was left behind"
    rm -r "$1.partial"
}

# json KEY FILE: the first value of KEY, as the tool lays JSON out.
json() {
    sed -n "s/^[[:space:]]*\"$1\":[[:space:]]*\(.*[^,]\),\{0,1\}\$/\1/p" "$2" |
        head -n 1
}

# The file is one JSON document.
valid_json() {
    if command -v python3 >/dev/null; then
        python3 -m json.tool "$1" >/dev/null || fail "$1 is not JSON"
    else
        [ "$(head -c 1 "$1")$(tail -n 1 "$1")" = '{}' ] ||
            fail "$1 is not a JSON object"
    fi
}

# is_true EXPRESSION: by awk.
is_true() {
    local expression=${1//$'\n'/ }
    awk "BEGIN { exit !($expression) }" </dev/null || fail "not true: $1"
}

# The token ids of every generation in a file.
ids() {
    sed -n 's/^[[:space:]]*"ids":[[:space:]]*//p' "$1"
}

# tensors FILE: "name first_byte end" of every tensor, offsets in the file.
tensors() {
    local header
    header=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    tail -c +9 "$1" | head -c "$header" |
        grep -oE '"[^"]+":\{"dtype":[^}]*\}' |
        sed -E 's/^"([^"]+)".*"data_offsets":\[([0-9]+),([0-9]+)\].*/\1 \2 \3/' |
        awk -v base=$((header + 8)) '{ printf "%s %d %d\n", $1, base + $2, base + $3 }'
}

# flip FILE OFFSET: inverts the lowest bit of one byte, in place.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059 # an octal escape is made
    printf "\\$(printf %03o $((byte ^ 1)))" |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# ---- running ----

n=0 n_passed=0 n_failed=0 n_skipped=0

run_case() {
    local name=$1 code
    n=$((n + 1))
    mkdir "$work/$name"
    (
        cd "$work/$name" || exit 1
        set -e
        "case_$name"
    )
    code=$?
    chmod -R u+w "$work/$name" && rm -rf "${work:?}/$name"
    case $code in
    0)
        n_passed=$((n_passed + 1))
        echo "ok $n - $name"
        ;;
    77)
        n_skipped=$((n_skipped + 1))
        echo "ok $n - $name # SKIP $(cat "$work/reason")"
        ;;
    *)
        n_failed=$((n_failed + 1))
        echo "not ok $n - $name"
        ;;
    esac
}

# names_of FILE...: the names of its cases.
names_of() {
    sed -n 's/^case_\([a-z0-9_]*\)() {$/\1/p' "$@"
}

# ---- fixtures ----

set_fixtures() {
    m=$1/m
    tiny=$1/tiny
    pvq=$1/pvq
}

make_fixtures() {
    set_fixtures "$1"
    rm -rf "$1" && mkdir -p "$1" &&
        "$qmoe" compress --method rtn --format ternary-dict "$mini" -o "$m" &&
        "$qmoe" compress --method rtn --format ternary-dict \
            "$source_dir/tests/golden/tied" --no-tokenizer -o "$tiny" &&
        "$qmoe" compress --method rtn "$mini" -o "$pvq"
}

if [ "${1-}" = --make-fixtures ]; then
    make_fixtures "$2"
    exit
fi
set_fixtures "$fixtures"
if [ -z "${QMOE_CLI_FIXTURES-}" ]; then
    make_fixtures "$fixtures" >"$work/made" 2>&1 ||
        sed 's/^/# fixtures: /' "$work/made"
fi

# ---- what is asked for ----

for file in "$here"/cases_*.sh; do
    # shellcheck source=/dev/null
    . "$file"
done
[ $# != 0 ] || set -- "$here"/cases_*.sh
for asked in "$@"; do
    file=$here/$(basename "$asked" .sh).sh
    names=$asked
    [ ! -e "$file" ] || names=$(names_of "$file")
    for name in $names; do
        run_case "$name"
    done
done
echo "1..$n"
echo "$n_passed passed, $n_failed failed, $n_skipped skipped"
[ "$n_failed" = 0 ] || exit 1
[ "$n_passed" = 0 ] || exit 0
[ "$n_skipped" != 0 ] && exit 77

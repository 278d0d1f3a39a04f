# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2094
# Backend modules and the OpenCL program cache: what is missing, damaged, or not
# to be trusted is said, and nothing waits or crashes.

# module_refused MODULE TEXT: devices says it of the backend and lists the
# others, and choosing the backend is one error line with the same text.
module_refused() {
    expect 0 timeout -k 1 20 "$qmoe" devices
    grep "^$1 " out >line || fail "no $1: $(cat out)"
    has line "not usable: " "$2"
    has out "cpu " "reference "
    expect 6 timeout -k 1 20 "$qmoe" generate "$m" -p x --backend "$1"
    one_error "$2"
}

case_modules_missing() {
    mkdir bin
    cp "$qmoe" bin/
    expect 0 bin/qmoe devices
    [ "$(grep -c "so is not beside the program (looked in" out)" = 2 ] ||
        fail "not said of both: $(cat out)"
    has out "$PWD/bin/qmoe-backends"
    mkdir empty
    export QMOE_BACKEND_PATH=$PWD/empty
    module_refused opencl "qmoe-opencl.so is not there (looked in $PWD/empty)"
    module_refused cuda "qmoe-cuda.so is not there (looked in $PWD/empty)"
}

case_modules_damaged() {
    need_opencl_module
    local size cut
    mkdir given
    export QMOE_BACKEND_PATH=$PWD/given
    size=$(stat -c %s "$modules/qmoe-opencl.so")
    for cut in 0 1 63 64 500 4096 $((size / 2)) $((size - 1)); do
        head -c "$cut" "$modules/qmoe-opencl.so" >given/qmoe-opencl.so
        module_refused opencl "given/qmoe-opencl.so: is damaged"
    done
    # Sizes in the headers that lead out of the file.
    for offset in 32 40 56 60; do
        cp "$modules/qmoe-opencl.so" given/qmoe-opencl.so
        printf '\377\377' | dd of=given/qmoe-opencl.so bs=1 seek=$offset \
            conv=notrunc status=none
        [ "$offset" = 40 ] || [ "$offset" = 32 ] &&
            printf '\377\377\377' | dd of=given/qmoe-opencl.so bs=1 \
                seek=$((offset + 2)) conv=notrunc status=none
        module_refused opencl "given/qmoe-opencl.so: is damaged"
    done
    rm given/qmoe-opencl.so
    cp "$build/tests/no_threads.so" given/qmoe-opencl.so
    module_refused opencl "is not a opencl module of this version"
}

case_modules_of_others() {
    need_opencl_module
    mkdir given
    export QMOE_BACKEND_PATH=$PWD/given
    mkfifo given/qmoe-opencl.so
    module_refused opencl "given/qmoe-opencl.so: is no regular file"
    rm given/qmoe-opencl.so
    mkdir given/qmoe-opencl.so
    module_refused opencl "given/qmoe-opencl.so: is no regular file"
    rmdir given/qmoe-opencl.so
    cp "$modules/qmoe-opencl.so" given/
    chmod 666 given/qmoe-opencl.so
    module_refused opencl "given/qmoe-opencl.so: can be written by every user"
    chmod 644 given/qmoe-opencl.so
    expect 0 "$qmoe" devices
    ! grep "^opencl " out | grep "given" ||
        fail "refused without a reason: $(cat out)"
    [ "$(id -u)" = 0 ] || return 0
    chown 54321 given/qmoe-opencl.so
    module_refused opencl "given/qmoe-opencl.so: belongs to another user"
}

# Fault injection is for the tests.
case_modules_without_fault_injection() {
    need_opencl_module
    local tested=${modules%/*}/breakable-backends/qmoe-opencl.so
    for fault in QMOE_OPENCL_BREAK QMOE_OPENCL_POISON; do
        grep -q $fault "$tested" || fail "no $fault in the module of the tests"
        ! grep -q $fault "$modules/qmoe-opencl.so" ||
            fail "$fault in the module that is installed"
    done
}

# The cache holds code that drivers run.
case_opencl_cache_of_others() {
    "$qmoe" devices | grep '^opencl *0' >log || skip "no OpenCL device"
    local run="$qmoe generate $pvq -p x --max-new-tokens 2 -b opencl"
    # shellcheck disable=SC2086 # a command
    expect 0 env QMOE_OPENCL_CACHE=off $run
    mv out wanted
    export QMOE_OPENCL_CACHE=$PWD/cache
    # shellcheck disable=SC2086 # a command
    expect 0 $run
    [ "$(stat -c %a cache)" = 700 ] || fail "the cache is not private"
    [ -n "$(ls cache)" ] || fail "nothing was kept"
    [ -z "$(find cache -type f -not -perm 600)" ] || fail "files are not private"
    local first
    first=$(find cache -name 'opencl-*' | sort | head -n 1)
    mv "$first" kept
    mkfifo "$first"
    # shellcheck disable=SC2086 # a command
    expect 0 timeout -k 1 60 $run
    same out wanted
    # Files that others can write, or have a name for, are made anew.
    for change in "chmod 666 $first" "ln $first other" "ln -sf $PWD/kept $first"; do
        $change
        # shellcheck disable=SC2086 # a command
        expect 0 timeout -k 1 60 $run
        same out wanted
        [ "$(stat -c '%F %a %h' "$first")" = "regular file 600 1" ] ||
            fail "taken after $change: $(stat "$first")"
    done
    chmod 777 cache
    unused_cache "another can write there"
    chmod 700 cache
    [ "$(id -u)" = 0 ] || return 0
    chown 54321 cache
    unused_cache "it belongs to another user"
}

# Each use of a file makes its time the present one.
unused_cache() {
    touch -d @1000000000 cache/*
    # shellcheck disable=SC2086 # a command
    expect 0 timeout -k 1 60 $run
    same out wanted
    [ -z "$(find cache -type f -newermt @1000000001)" ] ||
        fail "the cache was used though $1"
}

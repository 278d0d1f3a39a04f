# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# What a writing verb may replace, empty and publish: nothing that is read for
# it and nothing that qmoe did not make.

# Every name, kind, link target and content below the paths.
snapshot() {
    find "$@" -printf '%p %y %l %n\n' | sort
    find "$@" -type f -exec sha256sum {} + | sort
}

# unchanged WHAT...: since the file `before` was made of them.
unchanged() {
    snapshot "$@" >after
    same before after
}

# The three verbs that write, and what they read: $from.
source_of() {
    case $1 in
    compress) cp -rL "$source_dir/tests/golden/tied" src ;;
    export) cp -r "$tiny" src ;;
    import)
        "$qmoe" export "$tiny" -o src --layout qmoe >out
        ;;
    esac
}

# write_to VERB SOURCE OUT OPTION...
arguments() {
    local verb=$1 from=$2 to=$3
    shift 3
    case $verb in
    compress) line=(compress "$from" -o "$to" --method rtn --no-tokenizer "$@") ;;
    export) line=(export "$from" -o "$to" --dequantize "$@") ;;
    import) line=(import "$from" -o "$to" "$@") ;;
    esac
}

# refused CODE TEXT VERB SOURCE OUT OPTION...
refused() {
    local code=$1 text=$2
    shift 2
    arguments "$@"
    expect_error "$code" "$text" "${line[@]}"
}

accepted() {
    arguments "$@"
    expect 0 "$qmoe" "${line[@]}"
}

# ---- the source ----

case_output_is_the_source() {
    for verb in compress export import; do
        source_of $verb
        mkdir src/inner outer
        cp -r src outer/src
        ln -s src link
        ln -s src/inner inner
        snapshot src outer >before
        for out in src src/ ./src outer/../src "$PWD/src" link link/; do
            refused 2 "which is read" $verb src "$out" --force
            refused 2 "which is read" $verb src "$out"
        done
        refused 2 "lies in src" $verb src src/out
        refused 2 "lies in src" $verb src src/inner/out --force
        refused 2 "lies in src" $verb src inner/out --force
        refused 2 "lies in link" $verb link src/out --force
        refused 2 "which is read" $verb outer/src outer --force
        unchanged src outer
        [ -z "$(find . -name '*.partial')" ] || fail "a working directory was made"
        rm -r src outer link inner
    done
}

case_output_working_directory_is_the_source() {
    for verb in compress export import; do
        source_of $verb
        mv src m.partial
        ln -s m.partial link
        mkdir n.partial
        cp -r m.partial n.partial/src
        snapshot m.partial n.partial >before
        for option in "" --force; do
            # shellcheck disable=SC2086 # none or one word
            refused 2 "which is read" $verb m.partial m $option
            # shellcheck disable=SC2086
            refused 2 "which is read" $verb link m $option
            # shellcheck disable=SC2086
            refused 2 "which is read" $verb n.partial/src n $option
        done
        unchanged m.partial n.partial
        rm -r m.partial n.partial link
    done
}

case_output_in_a_bind_mount_of_the_source() {
    need_tmpfs
    source_of compress
    mkdir mount
    snapshot src >before
    # shellcheck disable=SC2016 # expanded by the inner shell
    for target in mount/out mount src; do
        from=src
        [ $target != src ] || from=mount
        expect 2 in_namespace sh -c 'mount --bind src mount &&
            exec "$1" compress "$2" -o "$3" --method rtn --no-tokenizer --force' \
            sh "$qmoe" $from $target
        one_error "which is read"
    done
    unchanged src
}

# A subdirectory seen through a mount has other parents than in the source.
case_output_in_a_bind_mount_of_a_part() {
    need_tmpfs
    source_of compress
    mkdir -p "src/an inner/deep" outer/m mount
    cp -r src outer/m/src
    snapshot src outer >before
    # shellcheck disable=SC2016 # expanded by the inner shell
    expect 2 in_namespace sh -c 'mount --bind "src/an inner" mount &&
        exec "$1" compress src -o mount/deep/out --method rtn --no-tokenizer' sh "$qmoe"
    one_error "lies in src, which is read"
    # And the other way: the output would be above the source.
    # shellcheck disable=SC2016
    expect 2 in_namespace sh -c 'mount --bind outer/m/src mount &&
        exec "$1" compress mount -o outer/m --method rtn --no-tokenizer --force' sh "$qmoe"
    one_error "holds, mount, which is read"
    unchanged src outer
    # A neighbour in the same file system is none of it.
    mkdir src2
    expect 0 "$qmoe" compress src -o src2/out --method rtn --no-tokenizer
}

# As download caches have it: the source is a directory of links.
case_output_behind_links_of_the_source() {
    cp -r "$tiny" m
    mkdir src
    for file in m/*; do
        ln -s "../$file" src/
    done
    snapshot m src >before
    refused 2 "which is read" export src m --force
    unchanged m src
}

case_output_over_other_inputs() {
    calibration
    mkdir m.partial
    cp calib.txt m.partial
    snapshot m.partial >before
    expect_error 2 "which is read" compress "$mini" -o m --calib m.partial/calib.txt --force
    expect_error 2 "which is read" compress "$mini" -o m --calib calib.txt \
        --work-dir m.partial --force
    cp "$mini/spiece.model" m.partial
    snapshot m.partial >before
    "$qmoe" export "$m" -o published --layout qmoe >out
    expect_error 2 "which is read" import published -o m --tokenizer m.partial --force
    unchanged m.partial
    # A work directory may hold the output.
    expect 0 "$qmoe" compress "$mini" -o work-m --calib calib.txt --rounds 0 --work-dir .
}

case_output_needs_a_name() {
    mkdir empty
    for out in . .. / empty/. empty/..; do
        refused 2 "must end in the name" compress "$source_dir/tests/golden/tied" $out --force
    done
    [ -d empty ] || fail "the directory is gone"
}

# ---- what is there ----

# Names like ours do not make it ours.
case_force_leaves_what_is_foreign() {
    mkdir -p notes subdirectories/a checkpoint weights-only empty-names
    echo text >notes/thesis.txt
    echo '{}' >notes/config.json
    cp "$tiny"/* subdirectories
    cp -rL "$source_dir/tests/golden/three-heads"/* checkpoint
    cp "$tiny"/model-*.safetensors weights-only
    sed -i 's/"xxh3:/"yyh3:/g' weights-only/*
    echo '{}' >empty-names/config.json
    : >empty-names/spiece.model
    cp -r "$tiny" linked
    mv linked/config.json linked.json
    ln -s ../linked.json linked/config.json
    "$qmoe" export "$tiny" -o published --layout qmoe >out
    rm -f published/qmoe_export.json
    "$qmoe" export "$tiny" -o trained --dequantize >out
    sed -i 's/"xxh3:/"yyh3:/g' trained/model-00001-of-*
    cp -r "$tiny" extra
    : >extra/model.safetensors
    all="notes subdirectories checkpoint weights-only empty-names linked published trained extra"
    # shellcheck disable=SC2086 # a list
    snapshot $all >before
    for verb in compress export import; do
        source_of $verb
        refused 3 "notes/thesis.txt: was not written by qmoe" $verb src notes --force
        refused 3 "subdirectories/a: was not written by qmoe" $verb src subdirectories --force
        refused 3 "checkpoint/" $verb src checkpoint --force
        refused 3 "weights-only/model-00001-of-" $verb src weights-only --force
        refused 3 "empty-names/config.json: lies beside no weights" $verb src empty-names --force
        refused 3 "linked/config.json: is no regular file" $verb src linked --force
        refused 3 "published/exp00.pt: was not written by qmoe" $verb src published --force
        refused 3 "trained/model-00001-of-" $verb src trained --force
        refused 3 "extra/model.safetensors: was not written by qmoe" $verb src extra --force
        [ -z "$(find . -name '*.partial')" ] || fail "a working directory was made"
        rm -r src
    done
    # shellcheck disable=SC2086
    unchanged $all
}

case_force_replaces_what_is_ours() {
    "$qmoe" export "$tiny" -o plain --dequantize --dtype f32 >out
    "$qmoe" export "$tiny" -o published --layout qmoe >out
    cp -r "$tiny" damaged
    truncate -s 1000 damaged/model-00002-of-*
    cp -r "$tiny" model
    mkdir empty
    for verb in compress export import; do
        source_of $verb
        arguments $verb src new
        expect 0 "$qmoe" "${line[@]}"
        for old in plain published damaged model empty; do
            cp -r $old old
            refused 3 "old: already exists" $verb src old
            accepted $verb src old --force
            diff -r old new || fail "$old was not replaced by $verb"
            rm -r old
        done
        [ -z "$(find . -name '*.partial' -o -name '*.old')" ] || fail "left behind: $(ls -A)"
        rm -r src new
    done
}

# The old directory cannot be written: said before the work.
case_force_on_a_read_only_output() {
    [ "$(id -u)" = 0 ] || skip "needs root, who then becomes another user"
    command -v setpriv >/dev/null || skip "no setpriv(1)"
    cp -rL "$source_dir/tests/golden/tied" src
    cp -r "$tiny" m
    mkdir parent
    mv m parent
    chown -R 65534 parent src .
    chmod 555 parent/m
    as_nobody=(setpriv --reuid 65534 --clear-groups)
    "${as_nobody[@]}" test -r "$qmoe" || skip "the tool is not readable for others"
    snapshot parent >before
    expect 3 "${as_nobody[@]}" "$qmoe" compress src -o parent/m --method rtn --no-tokenizer --force
    one_error "parent/m: cannot be replaced: Permission denied"
    unchanged parent
}

# ---- the working directory ----

journal_of_ours() {
    printf 'qmoe-journal 1 0123456789abcdef\n' >"$1/journal"
}

# The working directory of m in every way that is not ours.
case_foreign_working_directory() {
    mkdir -p plain.partial nested.partial/folder elsewhere journal.partial fifo.partial \
        linked.partial hard.partial odd.partial
    echo text >plain.partial/notes
    cp "$tiny"/* journal.partial
    echo "dear diary" >journal.partial/journal
    echo text >elsewhere/kept
    ln -s elsewhere link.partial
    : >file.partial
    for kind in nested fifo linked hard odd; do
        journal_of_ours $kind.partial
    done
    mkfifo fifo.partial/model-00001-of-00002.safetensors
    ln -s ../elsewhere/kept linked.partial/config.json
    ln elsewhere/kept hard.partial/config.json
    : >odd.partial/model.bin
    mkdir fifo2.partial
    mkfifo fifo2.partial/journal
    snapshot ./*.partial elsewhere >before
    source_of compress
    for option in "" --force --resume; do
        # shellcheck disable=SC2086 # none or one word
        for pair in plain:notes nested:folder journal:journal fifo:model-00001 \
            linked:config.json hard:config.json odd:model.bin fifo2:journal link: file:; do
            out=${pair%%:*}
            timeout 20 "$qmoe" compress src -o "$out" --method rtn --no-tokenizer $option \
                >out 2>err </dev/null && fail "$out.partial was taken with '$option'"
            one_error "$out.partial"
            one_error "${pair##*:}"
            [ ! -e "$out" ] || fail "$out was made"
        done
        unchanged ./*.partial elsewhere
    done
    for verb in export import; do
        rm -r src
        source_of $verb
        for out in plain nested journal link fifo; do
            refused 3 "$out.partial" $verb src $out
            refused 3 "$out.partial" $verb src $out --force
        done
    done
    unchanged ./*.partial elsewhere
}

case_working_directory_of_another_user() {
    [ "$(id -u)" = 0 ] || skip "needs root, to give a directory away"
    source_of compress
    mkdir mine.partial empty.partial theirs.partial
    journal_of_ours mine.partial
    journal_of_ours theirs.partial
    chown 65534 empty.partial theirs.partial mine.partial/journal
    snapshot ./*.partial >before
    for out in mine empty theirs; do
        refused 3 "belongs to another user" compress src $out
        refused 3 "belongs to another user" compress src $out --force
        refused 3 "belongs to another user" compress src $out --resume
    done
    unchanged ./*.partial
}

# An empty one, or one with nothing but a journal that was never begun.
case_working_directory_that_is_empty() {
    source_of compress
    mkdir a.partial b.partial c.partial
    : >b.partial/journal
    printf 'qmoe-jour' >c.partial/journal
    for out in a b c; do
        accepted compress src $out
        expect 0 "$qmoe" verify $out
        [ ! -e $out/journal ] || fail "the journal was published"
    done
}

# A file that the run did not write stops it at the end, and no work is lost.
case_planted_file_is_not_published() {
    calibration
    killed_among_experts "$mini"
    cp "$mini/spiece.model" out-m.partial/tokenizer.json
    expect 3 calibrated -o out-m --resume
    has err "tokenizer.json: was not written by this run"
    [ ! -e out-m ] || fail "it was published"
    rm out-m.partial/tokenizer.json
    expect 0 calibrated -o out-m --resume
    expect 0 "$qmoe" verify out-m
    [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
}

# What a killed export or import left is recognised, and --force drops it.
case_killed_export_and_import() {
    "$qmoe" export "$m" -o published --layout qmoe >out
    for verb in export import; do
        from=$m
        [ $verb = export ] || from=published
        arguments $verb "$from" out-m
        killed=
        for _ in $(seq 20); do
            "$qmoe" "${line[@]}" >out 2>err </dev/null &
            job=$!
            # An empty journal is one of a run that has begun nothing yet.
            until [ -s out-m.partial/journal ] || [ -e out-m ] || ! kill -0 $job 2>/dev/null; do
                :
            done
            kill -9 $job 2>/dev/null || true
            wait $job 2>/dev/null || true
            [ ! -e out-m.partial ] || killed=yes
            [ -z "$killed" ] || break
            rm -rf out-m
        done
        [ -n "$killed" ] || fail "$verb was never caught"
        refused 3 "out-m.partial: holds an interrupted run (--force drops it" $verb "$from" out-m
        accepted $verb "$from" out-m --force
        [ ! -e out-m.partial ] || fail "out-m.partial was left behind"
        rm -r out-m
    done
}

# Both of two runs that replace one output exit 0 or say that it is taken; the
# output is whole.
case_two_forced_runs() {
    source_of compress
    cp -r "$tiny" out-m
    for _ in $(seq 15); do
        jobs=()
        for i in 1 2; do
            "$qmoe" compress src -o out-m --method rtn --no-tokenizer --force \
                >out-$i 2>err-$i </dev/null &
            jobs+=($!)
        done
        n_done=0
        for job in "${jobs[@]}"; do
            code=0
            wait "$job" || code=$?
            [ $code != 0 ] || n_done=$((n_done + 1))
            [ $code = 0 ] || [ $code = 3 ] || fail "exit code $code: $(cat err-1 err-2)"
        done
        [ $n_done != 0 ] || fail "neither run wrote: $(cat err-1 err-2)"
        expect 0 "$qmoe" verify out-m
        [ ! -e out-m/journal ] || fail "the journal was published"
        [ -z "$(find . -name '*.partial' -o -name '*.old')" ] || fail "left behind: $(ls -A)"
    done
}

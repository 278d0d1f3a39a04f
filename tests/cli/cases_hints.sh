# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2016
# What people have on disk when something is not as it should be: unfinished
# downloads, the wrong kind of directory, the cache of another program.  The one
# error line must say what to do.

lfs_pointer() {
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1240000000\n' 0 >"$1"
}

case_hint_lfs_pointers() {
    make_torch bin --like base-8 --writer python
    make_torch shards --like c-2048 --writer python
    copy "$mini" plain
    lfs_pointer bin/pytorch_model.bin
    lfs_pointer shards/pytorch_model-00002-of-00003.bin
    lfs_pointer plain/model.safetensors
    expect_fault 4 "bin/pytorch_model.bin: not a PyTorch (zip) file, but a Git LFS pointer" bin
    for verb in inspect plan "generate -p x" "compress --method rtn -o out-m"; do
        # shellcheck disable=SC2086 # words of a command
        expect_error 4 "bin/pytorch_model.bin: not a PyTorch (zip) file, but a Git LFS pointer" $verb bin
    done
    expect_error 4 "shards/pytorch_model-00002-of-00003.bin: not a PyTorch (zip) file, but a Git LFS" inspect shards
    expect_error 4 "plain/model.safetensors: not a safetensors file, but a Git LFS pointer" inspect plain
    copy "$mini" plain
    lfs_pointer plain/spiece.model
    expect_error 4 "spiece.model: not a SentencePiece model, but a Git LFS pointer" generate plain -p x
    expect 0 "$qmoe" export "$m" -o published --layout qmoe
    lfs_pointer published/exp01.pt
    expect_error 4 "published/exp01.pt: not a PyTorch (zip) file, but a Git LFS" import published -o out-m
    nothing_left out-m
}

case_hint_web_page() {
    copy "$mini" bad
    printf '\n<!DOCTYPE html>\n<html><head></head></html>\n' >bad/config.json
    expect_error 4 "bad/config.json: not valid JSON, but a web page" inspect bad
    cp bad/config.json bad/model.safetensors
    cp "$mini/config.json" bad/config.json
    expect_error 4 "bad/model.safetensors: not a safetensors file, but a web page" inspect bad
}

case_hint_unfinished_downloads() {
    make_torch shards --like c-2048 --writer python
    rm shards/pytorch_model-00002-of-00003.bin
    expect_error 4 "'pytorch_model-00002-of-00003.bin' is missing in the directory (an unfinished" inspect shards
    rm shards/pytorch_model.bin.index.json
    expect_error 3 "of-00003.bin, but pytorch_model.bin.index.json, which lists them, is missing" inspect shards
    make_torch bin --like base-8 --writer python
    truncate -s 50000 bin/pytorch_model.bin
    expect_error 4 "bin/pytorch_model.bin: the archive has no end record at the end of the file (an unfinished" inspect bin
    : >bin/pytorch_model.bin
    expect_error 4 "but an empty one (an unfinished download?)" inspect bin
    expect 0 "$qmoe" export "$m" -o published --layout qmoe
    rm published/exp01.pt
    expect_error 3 "published/exp01.pt: not there; the model of config.json has 2 such files" import published -o out-m
    rm published/sizes.pt
    expect_error 3 "published/sizes.pt" import published -o out-m
    nothing_left out-m
}

# A published compressed model is for import, everything else is not.
case_hint_the_other_verb() {
    expect 0 "$qmoe" export "$m" -o published --layout qmoe
    for verb in inspect verify "generate -p x" "compress -o out-m" "compress --method rtn -o out-m" \
        "export --dequantize -o out-m"; do
        # shellcheck disable=SC2086 # words of a command
        expect_error 3 "published: a published compressed model" $verb published
        has err "'qmoe import'"
    done
    expect 0 "$qmoe" plan published --memory-rate 10G --rate 1000000
    has err "'qmoe import' converts it"
    expect_error 3 "'qmoe compress' compresses it" import "$mini" -o out-m
    expect_error 5 "'qmoe export --dequantize'" compress "$m" -o out-m
    mkdir empty
    cp "$mini/config.json" empty
    expect_error 3 "import is for directories as the QMoE authors published" import empty -o out-m
    nothing_left out-m
}

case_hint_no_model() {
    expect_error 3 "google/switch-base-8: No such file or directory (a model is a local directory" \
        compress google/switch-base-8 -o out-m
    expect_error 3 "nothing is downloaded" inspect google/switch-base-8
    expect_error 3 "model.safetensors: not a directory; give the one" inspect "$mini/model.safetensors"
    expect_error 4 "model.safetensors: not a GGUF file" import "$mini/model.safetensors" -o out-m
    mkdir downloaded
    cp "$source_dir/tests/fuzz/corpus/gguf/model" downloaded/m.gguf
    expect_error 3 "m.gguf: a GGUF file; 'qmoe import' makes a model of it" inspect downloaded/m.gguf
    expect_error 3 "there is m.gguf; 'qmoe import' makes a model of it" inspect downloaded
    expect_error 4 "a plan takes a model's directory or a config.json" plan "$mini/model.safetensors"
    copy "$mini" bad
    rm bad/config.json
    expect_error 3 "bad/config.json: No such file or directory; weights need it beside them" inspect bad
    copy "$mini" bad
    rm bad/spiece.model
    expect_error 3 "no tokenizer: text needs one of spiece.model, tokenizer.json" generate bad -p x
}

# snapshots/REVISION holds links to blobs.
case_hint_hub_cache() {
    entry=hub/models--google--switch-base-8
    mkdir -p $entry/blobs $entry/refs $entry/snapshots/0123
    for path in "$mini"/*; do
        cp "$path" "$entry/blobs/${path##*/}-hash"
        ln -s "../../blobs/${path##*/}-hash" "$entry/snapshots/0123/${path##*/}"
    done
    expect_error 3 "an entry of the Hugging Face cache: give the directory in its 'snapshots'" inspect $entry
    expect 0 "$qmoe" compress --method rtn --format ternary-dict $entry/snapshots/0123 -o out-m
    for file in "$m"/*.safetensors "$m/spiece.model"; do
        same "out-m/${file##*/}" "$file"
    done
    [ -z "$(find out-m -type l)" ] || fail "links were copied as links"
    rm $entry/blobs/model.safetensors-hash
    expect_error 3 "model.safetensors: a broken symbolic link (an unfinished" inspect $entry/snapshots/0123
    rm $entry/blobs/config.json-hash
    expect_error 3 "config.json: a broken symbolic link (an unfinished" inspect $entry/snapshots/0123
}

case_hint_odd_names_and_read_only() {
    copy "$mini" 'my model (äö) "1"'
    chmod -R a-w my*
    expect 0 "$qmoe" compress --method rtn --format ternary-dict 'my model (äö) "1"' -o 'out $x *'
    chmod -R u+w my*
    for file in "$m"/*.safetensors; do
        same "out \$x */${file##*/}" "$file"
    done
    expect 0 "$qmoe" verify 'out $x *'
    expect 0 "$qmoe" generate 'out $x *' -p x --max-new-tokens 1
}

# A plan compares formats; what it has to say about the model it says once.
case_hint_plan_says_it_once() {
    make_torch bin --like c-2048 --bare --writer python
    expect 0 "$qmoe" plan bin --memory-rate 10G --rate 1000000
    [ "$(grep -c 'using 3' err)" = 1 ] || fail "not said once: $(cat err)"
    [ "$(sort err | uniq -d)" = "" ] || fail "said twice: $(cat err)"
}

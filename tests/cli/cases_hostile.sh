# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Broken files met by the tool: each costs one error line, its exit code and
# less than 1 GB of address space.

# hostile_place READER: the file of a model directory that it reads.
hostile_place() {
    case $1 in
    torch) echo pytorch_model.bin ;;
    safetensors) echo model.safetensors ;;
    spiece) echo spiece.model ;;
    gguf) echo model.gguf ;;
    json | config) echo config.json ;;
    *) fail "no place for $1" ;;
    esac
}

# The corpus of tests/hostile, each file in the place where the tool meets it.
# Under sanitizers every seventh: test_hostile has them all there.
case_hostile_files() {
    local step=1 n=0 n_tried=0 limit=1000000 path part reader
    if ! (ulimit -v $limit && exec "$qmoe" --version) >/dev/null 2>&1; then
        step=7 limit=unlimited # sanitizers reserve more
    fi
    mkdir gguf
    for reader in torch safetensors spiece json config; do
        mkdir "$reader"
        ln -s "$mini"/* "$reader"
        rm -f "$reader/$(hostile_place "$reader")"
    done
    rm torch/model.safetensors
    while IFS=$'\t' read -r path part; do
        n=$((n + 1))
        [ $((n % step)) = 0 ] || continue
        n_tried=$((n_tried + 1))
        expect_broken "$path" "$part" "$limit"
    done <"$source_dir/tests/hostile/expected.txt"
    [ $n_tried -gt 50 ] || fail "only $n_tried files tried"
}

# expect_broken PATH PART KILOBYTES: inspect, or import for GGUF, refuses the file
# for PART with an exit code of 4 or 5 and one line, within that much address
# space.  Without a process more than needed, for there are many.
expect_broken() {
    local code=0 reader=${1%%/*} place line command
    place=$reader/$(hostile_place "$reader")
    ln -sf "$source_dir/tests/hostile/$1" "$place"
    command=(inspect "$reader" --no-stats)
    [ "$reader" != gguf ] || command=(import "$place" -o imported)
    (ulimit -v "$3" && exec "$qmoe" "${command[@]}") >out 2>err </dev/null ||
        code=$?
    [ ! -e imported ] && [ ! -e imported.partial ] || fail "output: $1"
    line=$(<err)
    [ $code = 4 ] || [ $code = 5 ] || fail "exit code $code: $1: $line"
    [ ! -s out ] || fail "output in spite of the error: $1"
    [[ $line == "qmoe: error: $place: "*"$2"* && $line != *$'\n'* ]] ||
        fail "$1: the one error does not say '$2': $line"
}

# edit EXPRESSION: copies $1 to bad with config.json changed by Python: q is
# quantization_config, s the entry of its first stack, f that of its first file.
edit() {
    rm -rf bad
    mkdir bad
    ln -s "$1"/* bad
    rm bad/config.json
    python3 - "$1" "$2" <<'END' || fail "$2"
import json, sys
config = json.load(open(sys.argv[1] + "/config.json"))
q = config["quantization_config"]
# As written before there were digests: what they would say is not the point.
del q["config_xxh3"]
q["files"] = {n: f for n, f in q["files"].items() if "header_xxh3" in f}
s, f = next(iter(q["tensors"].values())), next(iter(q["files"].values()))
exec(sys.argv[2])
json.dump(config, open("bad/config.json", "w"))
END
}

# Section 5 of docs/format.md, what concerns config.json of a compressed model.
case_hostile_container() {
    command -v python3 >/dev/null || skip "no python3"
    local code text change
    while IFS='|' read -r code text change; do
        edit "$tiny" "$change"
        expect_error "$code" "$text" inspect bad --no-stats
        grep -qF bad/ err || fail "no file named: $(cat err)"
    done <<'END'
5|'gptq' is not 'qmoe'|q["quant_method"] = "gptq"
5|'(none)' is not 'qmoe'|del q["quant_method"]
4|'quant_method'|q["quant_method"] = 7
4|'version'|del q["version"]
4|'version'|q["version"] = "1"
4|'version'|q["version"] = -1
5|format version 2|q["version"] = 2
4|quantization_config.tensors has no|del q["tensors"]
4|quantization_config.tensors has no|q["tensors"] = []
4|quantization_config.tensors has no|q["tensors"].popitem()
4|'format'|s["format"] = 1
5|unknown format ''|del s["format"]
5|unknown format 'bf16'|s["format"] = "bf16"
4|expected U8|s["format"] = "q2"
4|shape of|del s["shape"]
4|shape of|s["shape"][0] += 1
4|shape of|s["shape"].append(1)
4|shape of|s["shape"][1] = -1
4|shape of|s["shape"] = "x"
4|is not in (0.3, 1)|s["p0"] = 0.3
4|is not in (0.3, 1)|s["p0"] = 1
4|'p0'|s["p0"] = "0.885"
END
    while IFS='|' read -r code text change; do
        edit "$pvq" "$change"
        expect_error "$code" "$text" inspect bad --no-stats
    done <<'END'
4|is not a power of two|s["rotation"] = 3
4|'rotation'|s["rotation"] = -1
4|'rotation'|s["rotation"] = 1 << 40
4|'rotation_seed'|s["rotation_seed"] = -1
4|'rotation_seed'|s["rotation_seed"] = 0.5
END
    while IFS='|' read -r code text change; do
        edit "$tiny" "$change"
        expect_fault "$code" "$text" bad
    done <<'END'
4|quantization_config.files has no|del q["files"]
4|quantization_config.files has no|q["files"].popitem()
4|'bytes'|del f["bytes"]
4|'bytes'|f["bytes"] = -1
4|but config.json records|f["bytes"] += 1
4|but config.json records|f["header_xxh3"] = "0" * 16
4|'header_xxh3'|f["header_xxh3"] = 0
END
}

# What an index promises in vain; total_size is no rule: files in circulation
# count shared tensors once or more often.
case_hostile_index() {
    make_torch bin --like c-2048 --writer python
    index=bin/pytorch_model.bin.index.json
    shard=pytorch_model-00002-of-00003.bin
    cp $index good
    sed -i 's/"total_size": [0-9]*/"total_size": 1/' $index
    expect 0 "$qmoe" inspect bin
    for name in ../bin/$shard "$PWD/bin/$shard" ./$shard ..; do
        sed "s|$shard|$name|g" good >$index
        expect_error 4 "index.json: weight_map: shard '$name' is not a plain file name" inspect bin
    done
    sed "s/$shard/pytorch_model-00009.bin/g" good >$index
    expect_error 4 "shard 'pytorch_model-00009.bin' is missing in the directory" inspect bin
    sed "s/pytorch_model-00001-of-00003.bin/$shard/" good >$index
    expect_error 4 "is missing in shard '$shard'" inspect bin
    cp good $index
    cp bin/$shard bin/pytorch_model-00001-of-00003.bin
    expect_error 4 "weight_map: tensor" inspect bin
    sed "s/pytorch_model-00003-of-00003.bin/x.bin/g" good >$index
    cp bin/$shard bin/x.bin
    expect_error 4 "weight_map: tensor" inspect bin
}

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that formats, architectures and backends are named by their owners only.

A branch on such a name outside the files that own it is a decision that a new
member would have to find.  Comments may name whatever they like; code and
strings of the product are searched.  Owners are files with the name in their
own name, the tables, and the exceptions below, each with its reason.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = "core backends quant exchange plan lib bench cli include".split()
SUFFIXES = {".c", ".h", ".cpp", ".cu", ".cuh", ".cl"}
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)


def word(names):
    return re.compile(rf"(?<![A-Za-z0-9])(?:{names})(?![A-Za-z0-9])", re.I)


# kind: (what names a member, owners by path, owning file: why it is one)
KINDS = {
    "format": (
        word(r"ternary[-_]dict|pvq8?|q2|tlut(?:[-_]\w+)?"),
        r"/(?:\w+_)?(?:ternary|pvq|q2|tlut)(?:_\w+)?\.\w+$",
        {
            "core/formats/format_ids.h": "the list",
            "quant/quantisers/quantiser_table.c": "the table of quantisers",
            "backends/cpu/matmul.h": "the table of kernels",
            "backends/cuda/args.h": "the list of kernels",
            "backends/cuda/formats.c": "the table of formats of the backend",
            "backends/cuda/geometry.c": "launches of each kernel, apart from them for its test",
            "backends/cuda/kernels/decode.cu": "rows of each format",
            "backends/cuda/kernels/product_many.cu": "a reader for each format",
            "backends/cuda/kernels/product_rows.cu": "a reader for each format",
            "backends/cuda/op_linear.c": "the host side of the paper's kernel, which has one format",
            "backends/cuda/weights.c": "uploads a dictionary, whose words are that format's",
            "backends/opencl/formats.c": "the table of formats of the backend",
            "backends/opencl/program.c": "QMOE_OPENCL_BREAK finds a kernel to break by its source",
            "backends/opencl/selftest.c": "tokens beyond the tile sizes of both kinds of kernels",
            "backends/opencl/sources.h": "the list of kernel sources",
            "backends/opencl/tune.c": "the candidates of each kernel",
            "backends/opencl/tuning.c": "the parameters of each kernel",
            "backends/opencl/tuning.h": "the parameters of each kernel",
            "backends/opencl/weights.c": "uploads a dictionary, whose words are that format's",
            "quant/job/dictionary_rate.h": "the expected length of codes of one format",
            "core/files/gguf_types.c": "a type of GGUF has a similar name",
            "cli/cmd_import.c": "a type of GGUF has a similar name",
            "exchange/published.c": "the published layout is one of that format",
            "exchange/export_published.c": "the published layout is one of that format",
            "exchange/import_experts.c": "the published layout is one of that format",
            "plan/rates.c": "the records of what was measured",
            "bench/bench_weights.c": "the table of random stacks to time",
            "bench/programs/quantisers.c": "the settings that docs/quantisers.md shows",
        },
    ),
    "architecture": (
        re.compile(
            r"(?<![A-Za-z0-9])(?:qmi_|arch_)?switch_[a-z]|arch_switch|QMI_SWITCH"
            r"|arch_decoder|qmi_decoder_"
            r"|(?<![A-Za-z0-9_])(?:olmoe|mixtral|mistral|llama(?!\.cpp)|qwen[23](?:_moe)?)"
            r"(?![A-Za-z0-9])"
        ),
        r"/(?:arch_)?(?:switch|decoder)(?:_\w+)?\.\w+$",
        {
            "core/model/arch_table.c": "the table",
            "core/model/synth.c": "synthetic checkpoints have the shapes of published ones",
            "core/model/synth.h": "synthetic checkpoints have the shapes of published ones",
            "core/model/synth_tensors.c": "synthetic checkpoints have the shapes of published ones",
            "exchange/gguf_model.c": "the table of architectures of GGUF files",
            "exchange/gguf_tokenizer.c": "names of tokenizers in GGUF files",
            "cli/cmd_import.c": "the architectures of GGUF files that its help lists",
        },
    ),
    "backend": (
        re.compile(
            r"\"(?:cpu|cuda|opencl)\"|(?<![A-Za-z0-9])(?:qcpu|qcuda|q?ocl)_"
            r"|qmi_backend_(?:cpu|cuda|opencl)|qmi_(?:cpu|cuda|opencl)_backend",
            re.I,
        ),
        r"^backends/(?:cpu|cuda|opencl)/",
        {
            "lib/context.c": "the table of built-in backends",
            "core/run/registry.c": "the table of all backends",
            "core/run/registry.h": "the name of the one on the host",
            "core/run/place.c": "the order of preference; devices have a type \"cpu\"",
            "core/files/torch/torch_writer.c": "a word of PyTorch's file format",
            "bench/programs/opencl_main.c": "a program for that backend's kernels",
            "cli/cmd_bench.c": "a member of the JSON document: the processor's name",
            "cli/cmd_bench_kernels.c": "the default that its help states",
            "cli/cmd_bench_tune.c": "the default that its help states",
        },
    ),
}


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                text = path.read_text(errors="replace")
                yield path.relative_to(ROOT).as_posix(), COMMENT.sub(
                    lambda m: "\n" * m.group().count("\n"), text
                )


def main():
    n_problems = n_files = 0
    found = {kind: set() for kind in KINDS}
    for path, text in sources():
        n_files += 1
        for kind, (name, own, owners) in KINDS.items():
            lines = [
                (number, line.strip())
                for number, line in enumerate(text.split("\n"), 1)
                if name.search(line)
            ]
            if lines:
                found[kind].add(path)
            if path in owners or re.search(own, "/" + path if own[0] == "/" else path):
                continue
            for number, line in lines:
                print(f"{path}:{number}: names a {kind} it does not own: {line}")
                n_problems += 1
    for kind, (_, _, owners) in KINDS.items():
        for path in sorted(set(owners) - found[kind]):
            print(f"{path}: is an owner, but names no {kind}")
            n_problems += 1
    print(f"{n_files} files, {n_problems} problems")
    return 1 if n_problems or not n_files else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compresses a tiny model of each decoder-only family with experts, in each
format, and compares it with the uncompressed model.

    bench/families.py QMOE CALIB_TEXT VALID_TEXT [--format FORMAT ...]

The models are those of tests/golden/decoders, with random weights.  They have
no tokenizer: each byte that the texts have becomes a token.  Prints two Markdown
tables: by model, and by block."""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/decoders"
FAMILIES = ("olmoe", "mixtral", "qwen2-moe", "qwen3-moe")
FORMATS = ("pvq", "pvq8", "ternary-dict", "q2")
# Mixtral's names, as the others have them.
KINDS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
FIRST = 3  # ids below are padding and the ends
END = 2


def write_tokenizer(path, texts, n_ids):
    """A vocabulary of single bytes, spelled as byte-level BPE does."""
    letters = sorted(set("".join(texts)) - {"\n"})
    if not all(" " <= c <= "~" for c in letters):
        sys.exit("the texts are not ASCII")
    if FIRST + len(letters) > n_ids:
        sys.exit("the texts have more characters than the models have ids")
    vocabulary = {c.replace(" ", "\u0120"): FIRST + i
                  for i, c in enumerate(letters)}
    end = {"id": END, "content": "<end>", "special": True, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    path.write_text(json.dumps({
        "added_tokens": [end], "normalizer": None, "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))


def run(qmoe, *arguments):
    result = subprocess.run([qmoe, *map(str, arguments), "--json"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def errors_of(output):
    """Mean error of the outputs of a block's matrices, by block and kind."""
    report = json.loads((output / "qmoe_report.json").read_text())
    errors = {}
    for stack in report["stacks"]:
        parts = stack["name"].split(".")
        kind = KINDS.get(parts[-1], parts[-1]).split("_")[0]
        errors.setdefault(int(parts[2]), {})[kind] = \
            stack["totals"]["input_error"]
    return errors


def three(errors, form):
    return " | ".join(form.format(errors[kind])
                      for kind in ("gate", "up", "down"))


def model_row(family, name, compressed, kinds, result):
    kl = result["kl"]
    return (f"| {family} | `{name}` | "
            f"{compressed['bits_per_expert_weight']:.3f} | "
            f"{three(kinds, '{:.4f}')} | "
            f"{result['base']['perplexity']:.0f} | {result['perplexity']:.0f} | "
            f"{result['loss'] - result['base']['loss']:+.4f} | "
            f"{kl['mean']:.4f} | {kl['median']:.4f} | "
            f"{kl['percentile_99']:.3f} | {result['top_agreement']:.3f} |")


def block_rows(family, name, errors, blocks):
    for number, block in enumerate(blocks):
        router = block["router_agreement"]
        yield (f"| {family} | `{name}` | {number} | "
               + (three(errors[number], "{:.4f}") if number in errors
                  else "dense | |")
               + " | " + (f"{router:.3f}" if router is not None else "")
               + f" | {block['residual_error']:.4f} |")


def measure(options, family, work):
    """Rows of both tables for one family."""
    source, output = work / family, work / f"{family}-compressed"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / family / name, source / name)
    config = json.loads((source / "config.json").read_text())
    write_tokenizer(source / "tokenizer.json",
                    [pathlib.Path(t).read_text()
                     for t in (options.calib, options.valid)],
                    config["vocab_size"])
    context = config["max_position_embeddings"]
    for name in options.format or FORMATS:
        compressed = run(options.qmoe, "compress", source, "-o", output,
                         "--force", "--format", name, "--calib", options.calib,
                         "--context", context, "--samples", options.samples)
        result = run(options.qmoe, "eval", output, "--text", options.valid,
                     "--documents", "--context", context, "--backend", "cpu",
                     "--against", source)
        kinds = {KINDS.get(k["name"], k["name"]).split("_")[0]:
                 k["input_error"] for k in compressed["kinds"]}
        yield (model_row(family, name, compressed, kinds, result),
               list(block_rows(family, name, errors_of(output),
                               result["blocks"])))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qmoe")
    parser.add_argument("calib")
    parser.add_argument("valid")
    parser.add_argument("--format", action="append",
                        help=f"instead of {', '.join(FORMATS)}")
    parser.add_argument("--samples", type=int, default=1024,
                        help="windows to calibrate with (1024)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = [row for family in FAMILIES
                for row in measure(options, family, pathlib.Path(work))]
    print("| family | format | bits per expert weight | gate | up | down | "
          "perplexity before | after | change of loss | KL, mean | median | "
          "99 % | agreement |\n" + "|---" * 13 + "|")
    for row, _ in rows:
        print(row)
    print("\n| family | format | block | gate | up | down | router | "
          "residual |\n" + "|---" * 8 + "|")
    for _, blocks in rows:
        print("\n".join(blocks))


main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compresses a model's matrices beside the experts in several ways, and compares
each with the uncompressed model on held-out texts.

    bench/dense_formats.py QMOE MODEL CALIB_TEXT TEXT... [--choice CHOICE ...]
        [--samples N] [--windows N] [--threads N]

A CHOICE is what --dense-bits takes; the default is the feed-forward layers in
each format.  Calibration and comparison use windows of 512 tokens.  Prints a
Markdown table, a row as soon as it is known: bits per weight of the compressed
matrices, bytes of all weights, the mean error of the outputs, processor time of
the compression, and for each text the loss (its increase), the mean KL
divergence and the top-1 agreement."""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

FORMATS = ("pvq", "pvq8", "q2", "tlut-0.25", "tlut-0.5", "tlut-0.75", "tlut-1",
           "tlut-1.5", "tlut-2", "tlut-3", "tlut-4", "int8")
CONTEXT = 512


def run(command):
    result = subprocess.run([*map(str, command), "--json"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(o, choice, output):
    command = [o.qmoe, "compress", o.model, "-o", output, "--force",
               "--dense-bits", choice, "-t", o.threads]
    # int8 alone is rounded to nearest, and takes no text.
    if not all(part.endswith("int8") for part in choice.split(",")):
        command += ["--calib", o.calib, "--samples", o.samples,
                    "--context", CONTEXT]
    before = processor_seconds()
    made = run(command)
    seconds = processor_seconds() - before
    cells = [f"`{choice}`", f"{made['bits_per_dense_weight']:.3f}",
             f"{made['output_bytes'] / 1e6:.1f} MB",
             f"{made['dense_input_error'] or made['dense_weight_error']:.5f}",
             f"{seconds:.0f} s"]
    for text in o.texts:
        result = run([o.qmoe, "eval", output, "--against", o.model, "--text",
                      text, "--context", CONTEXT, "-n", o.windows,
                      "-t", o.threads])
        increase = result["loss"] - result["base"]["loss"]
        cells += [f"{increase:+.4f}", f"{result['kl']['mean']:.4f}",
                  f"{result['top_agreement']:.3f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("qmoe")
    parser.add_argument("model")
    parser.add_argument("calib")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--choice", action="append")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    names = [pathlib.Path(text).name for text in o.texts]
    head = ["`--dense-bits`", "bits", "all weights", "output error", "compress"]
    for name in names:
        head += [f"{name}: loss", "KL", "top-1"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for choice in o.choice or [f"dense_ffn={f}" for f in FORMATS]:
            print(row(o, choice, pathlib.Path(folder) / "out"), flush=True)


if __name__ == "__main__":
    main()

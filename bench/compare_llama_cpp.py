#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares prefill and decoding with llama.cpp, as PyPI's llama-cpp-python builds it.

    cmake --build build --target qmoe_cli bench-generate
    PYTHON bench/compare_llama_cpp.py MODEL.gguf [--build BUILD] [--repeat N]

PYTHON has the packages llama-cpp-python, gguf and numpy; MODEL.gguf is a model
of Llama's form.  Its decoded weights are written as bf16 for qmoe (qmoe import)
and as GGUF in bf16 and Q8_0 for llama.cpp.  In each round every setting is run
by all, one right after the other, in alternating order, each in a process of
its own that has run once before it is timed.  Both take the same token ids and
decode greedily.  llama.cpp keeps keys and values in f16 and takes its default
batches; it runs without and with flash attention ("+"), and the table has the
faster of the two for each row.  qmoe keeps keys and values as --kv-type says.

Prints a Markdown table: tokens/s, median over the rounds (least to largest),
and qmoe's over llama.cpp's, median of the ratios of the rounds.  With one
thread the time is processor time, which waiting for a busy machine does not
increase; with more it is that of the clock."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

CASES = ((512, 1), (128, 32), (4096, 16))  # tokens of the prompt, decoded tokens


# ---- the child that runs llama.cpp ----

def child(model, threads, n_new, flash):
    """The same as bench-generate, in the same form."""
    import llama_cpp as l

    ids = np.frombuffer(sys.stdin.buffer.read(), "<i4").tolist()
    l.llama_backend_init()
    parameters = l.llama_model_default_params()
    parameters.n_gpu_layers = 0
    loaded = l.llama_load_model_from_file(model.encode(), parameters)
    parameters = l.llama_context_default_params()
    parameters.n_ctx = len(ids) + n_new + 8
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.flash_attn_type = flash
    context = l.llama_new_context_with_model(loaded, parameters)
    n_vocab = l.llama_n_vocab(l.llama_model_get_vocab(loaded))
    step = l.llama_n_batch(context)

    def feed(tokens):
        """The likeliest token behind these."""
        for at in range(0, len(tokens), step):
            part = tokens[at:at + step]
            array = (l.llama_token * len(part))(*part)
            if l.llama_decode(context, l.llama_batch_get_one(array, len(part))) != 0:
                raise SystemExit("llama_decode failed")
        logits = np.ctypeslib.as_array(l.llama_get_logits_ith(context, -1), (n_vocab,))
        return int(logits.argmax())

    feed([feed(ids[:32])])
    l.llama_memory_clear(l.llama_get_memory(context), True)
    clocks = lambda: np.array([time.perf_counter(), time.process_time()])
    start = clocks()
    out = [feed(ids)]
    first = clocks()
    for _ in range(n_new):
        out.append(feed(out[-1:]))
    print(*(first - start), *(clocks() - first))
    print(*out)


# ---- the models ----

def rewrite(source, target, kind):
    """The same GGUF file with matrices of another type."""
    import gguf

    quantised = getattr(gguf.GGMLQuantizationType, kind.upper())
    reader = gguf.GGUFReader(source)
    field = lambda name: reader.fields[name].contents()
    writer = gguf.GGUFWriter(target, field("general.architecture"))
    for name, f in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type",
                                                "general.quantization_version"):
            continue
        inner = f.types[1] if len(f.types) > 1 else None
        writer.add_key_value(name, f.contents(), f.types[0], inner)
    for tensor in reader.tensors:
        x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if x.ndim == 1:
            writer.add_tensor(tensor.name, x.astype(np.float32))
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(x, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompt_ids(build, model, n):
    text = pathlib.Path(build, "corpus", "valid.txt").read_text()[:8 * n]
    done = subprocess.run([f"{build}/qmoe", "tokenize", model, "-p", text, "--json"],
                          check=True, capture_output=True, text=True)
    ids = json.loads(done.stdout)["ids"][:n]
    assert len(ids) == n
    return np.array(ids, "<i4")


# ---- rounds ----

def measured(command, ids, n_new, threads):
    """Tokens/s of prefill and of decoding, and the new ids."""
    done = subprocess.run([str(c) for c in command], input=ids.tobytes(), check=True, capture_output=True)
    seconds, new = done.stdout.decode().splitlines()
    seconds = [float(x) for x in seconds.split()]
    which = 1 if threads == 1 else 0
    return len(ids) / seconds[which], n_new / seconds[2 + which], new.split()


def all_rounds(o, models, ids):
    """{(threads, prompt, new): {program: [(prefill, decode, ids), ...]}}"""
    results = {}
    for r in range(o.repeat):
        for threads in o.threads:
            for n, n_new in CASES:
                runs = results.setdefault((threads, n, n_new), {name: [] for name in models})
                for name in (list(models) if r % 2 == 0 else reversed(models)):
                    if name == "qmoe":
                        command = [f"{o.build}/bench-generate", models[name], threads, n_new, o.kv_type, "cpu"]
                    else:
                        command = [sys.executable, __file__, "--child", models[name], threads, n_new, int(name.endswith("+"))]
                    runs[name].append(measured(command, ids[:n], n_new, threads))
                print(f"round {r + 1}, {threads} threads, {n}: "
                      f"{ {name: [round(v, 1) for v in runs[name][-1][:2]] for name in models} }, "
                      f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return results


def shown(values, form=".0f"):
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def rows(results, types):
    for (threads, n, n_new), runs in results.items():
        kinds = [("prefill", 0)] if n == 512 else [("decode", 1)] if n == 128 else [("prefill", 0), ("decode", 1)]
        for kind, column in kinds:
            take = lambda name: [run[column] for run in runs[name]]
            best = [max((t, t + "+"), key=lambda name: statistics.median(take(name))) for t in types]
            ratios = [[a / b for a, b in zip(take("qmoe"), take(name))] for name in best]
            yield [f"{kind}, {n}", str(threads), shown(take("qmoe"), ".3g")] + [
                shown(take(name), ".3g") + (" flash" if name.endswith("+") else "") for name in best] + [
                shown(r, ".2f") for r in ratios]


def agreement(results, types):
    """How many of the greedy tokens are the same before the first that differs."""
    for (threads, n, n_new), runs in results.items():
        ours = runs["qmoe"][0][2]
        for name in (t + sign for t in types for sign in ("", "+")):
            theirs = runs[name][0][2]
            same = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), len(ours))
            yield f"{threads} threads, {n}, {name}: {same} of {len(ours)}"


def main():
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(int, sys.argv[3:6]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--build", default="build")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kv-type", default="f32")
    parser.add_argument("--types", nargs="+", default=["bf16", "q8_0"], help="of llama.cpp's weights")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        models = {"qmoe": f"{work}/model"} | {kind + sign: f"{work}/{kind}.gguf" for kind in o.types for sign in ("", "+")}
        subprocess.run([f"{o.build}/qmoe", "import", o.model, "-o", models["qmoe"], "--dtype", "bf16"],
                       check=True, stdout=subprocess.DEVNULL)
        for kind in o.types:
            rewrite(o.model, models[kind], kind)
        ids = prompt_ids(o.build, models["qmoe"], max(n for n, _ in CASES))
        loads = [os.getloadavg()[0]]
        results = all_rounds(o, models, ids)
        loads.append(os.getloadavg()[0])
    names = [f"llama.cpp {kind}" for kind in o.types]
    head = ["what", "threads", "qmoe bf16", *names, *(f"qmoe / {name}" for name in names)]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for cells in rows(results, o.types):
        print("| " + " | ".join(cells) + " |")
    print(f"\nload {loads[0]:.1f} before, {loads[1]:.1f} after")
    print("same greedy tokens: " + "; ".join(agreement(results, o.types)))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the two implementations of threads, QMOE_THREADS=pool and =openmp.

    cmake --build build --target qmoe_cli bench-threads
    bench/threads.py [BUILD] [--repeat N] [--threads N]

In each round every measurement is run with both, one right after the other, in
alternating order: the cost of a job (bench-threads), products of two shapes of
c-2048 in pvq, one token, from memory (qmoe bench kernels), and the decoding of
switch-mini in pvq (qmoe bench model).  Prints a Markdown table: the median over
the rounds (least to largest), and the load of the machine.  On a busy machine
the percentiles are of the moments when it was least busy."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

KINDS = ("pool", "openmp")
SHAPES = "2080x6144,6144x2080"


def run(kind, *command):
    environment = dict(os.environ, QMOE_THREADS=kind)
    return subprocess.run(command, env=environment, check=True, text=True,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


def jobs(build, threads, kind):
    """Name and value of each measurement of one run, with its unit."""
    for line in run(kind, f"{build}/bench-threads", str(threads)).splitlines():
        name, clock, fast, _, processor = line.split(", ")
        yield f"job, {name}: us", float(clock)
        yield f"job, {name}: us, 10th percentile", float(fast)
        yield f"job, {name}: us of processor time", float(processor)


def kernels(build, threads, kind):
    text = run(kind, f"{build}/qmoe", "bench", "kernels", "--shape", SHAPES,
               "--batch", "1", "--format", "pvq", "--cache", "cold",
               "--threads", str(threads), "--cold-bytes", "0.2e9", "--json")
    for r in json.loads(text)["results"]:
        shape = f"pvq {r['rows']}x{r['cols']}, one token: Gweights/s"
        yield shape, r["gweights_per_s"]
        yield f"{shape}, 90th percentile", r["p90"]


def decode(build, threads, kind, model):
    text = run(kind, f"{build}/qmoe", "bench", "model", model, "-t",
               str(threads), "-b", "cpu", "--json")
    yield ("switch-mini, decode: tokens/s",
           json.loads(text)["compressed"]["decode"]["tokens_per_s"])


def shown(values):
    middle = statistics.median(values)
    return f"{middle:.4g} ({min(values):.4g}-{max(values):.4g})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    results, loads = {}, []
    with tempfile.TemporaryDirectory() as work:
        model = f"{work}/m"
        run("pool", f"{o.build}/qmoe", "compress", "models/switch-mini", "-o",
            model, "--method", "rtn", "--format", "pvq")
        measurements = (lambda kind: jobs(o.build, o.threads, kind),
                        lambda kind: kernels(o.build, o.threads, kind),
                        lambda kind: decode(o.build, o.threads, kind, model))
        for round_number in range(o.repeat):
            loads.append(os.getloadavg()[0])
            for measure in measurements:
                for kind in KINDS[::1 if round_number % 2 else -1]:
                    for name, value in measure(kind):
                        row = results.setdefault(
                            name, {k: [] for k in KINDS})
                        row[kind].append(value)
            print(f"round {round_number + 1} of {o.repeat}, load {loads[-1]}",
                  file=sys.stderr)
    version = run("pool", f"{o.build}/qmoe", "--version").splitlines()[0]
    print(f"{version}; {o.threads} threads; {o.repeat} rounds; load "
          f"{min(loads):.1f} to {max(loads):.1f}\n")
    print(f"| | {' | '.join(KINDS)} |\n|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(shown(row[k]) for k in KINDS)} |")


if __name__ == "__main__":
    main()

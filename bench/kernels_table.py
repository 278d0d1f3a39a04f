#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown from what `qmoe bench kernels --json` printed.

    bench/kernels_table.py FILE.json...

One table per cache, thread count and batch: a row per format and variant, a
column per shape, Gw/s as median (p10-p90); then what the medians are in units
of the bf16 product of the same run, least and most over the shapes.
"""
import json
import sys


def key(r):
    return r["cache"], r["threads"], r["batch"]


def shape(r):
    return f'{r["rows"]}x{r["cols"]}'


def number(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}"


def cell(r):
    return (f'{number(r["gweights_per_s"])} '
            f'({number(r["p10"])}-{number(r["p90"])})')


def ratios(rows, base):
    found = [r["gweights_per_s"] / base[shape(r)] for r in rows
             if shape(r) in base]
    if not found:
        return "-"
    return f"{min(found):.1f} to {max(found):.1f}"


def table(results):
    shapes = list(dict.fromkeys(shape(r) for r in results))
    names = list(dict.fromkeys((r["format"], r["variant"]) for r in results))
    base = {}
    for r in results:
        if r["format"] == "bf16":
            base.setdefault(shape(r), r["gweights_per_s"])
    print("| format, variant | " + " | ".join(shapes) + " | x bf16 |")
    print("|---|" + "---|" * (len(shapes) + 1))
    for name in names:
        rows = [r for r in results if (r["format"], r["variant"]) == name]
        cells = {shape(r): cell(r) for r in rows}
        print(f"| {name[0]}, {name[1]} | "
              + " | ".join(cells.get(s, "-") for s in shapes)
              + f" | {ratios(rows, base)} |")
    print()


def main():
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        read = ", ".join(f'{b["gbytes_per_s"]:.1f} GB/s by {b["threads"]}'
                         for b in report["read_bandwidth"])
        print(f'`{path}`: commit {report["commit"]}, '
              f'{report["machine"]["cpu"]}, memory read {read} thread(s).\n')
        for k in dict.fromkeys(key(r) for r in report["results"]):
            print(f"{k[0].capitalize()}, {k[1]} thread(s), batch {k[2]}:\n")
            table([r for r in report["results"] if key(r) == k])


if __name__ == "__main__":
    main()

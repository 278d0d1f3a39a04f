#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown from what `qmoe bench kernels --json` printed.

    bench/kernels_table.py FILE.json...

One table per cache, thread count and batch: a row per format and variant, a
column per shape, Gw/s as median (p10-p90); then, least and most over the
shapes, the packed bytes per second as a share of the speed of memory of the
same run, and what the medians are in units of the bf16 product, of a product
by cuBLAS (cublas-bf16) and of the paper's design, where these were run.
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


def ranged(rows, key, scale, form):
    """Least and most of a value that not every result has."""
    found = [scale * r[key] for r in rows if r.get(key)]
    if not found:
        return "-"
    least, most = form.format(min(found)), form.format(max(found))
    return least if least == most else f"{least} to {most}"


EXTRAS = {"% of memory": ("bandwidth_share", 100, "{:.0f}"),
          "x bf16": ("ratio_bf16", 1, "{:.1f}"),
          "x cuBLAS": ("ratio_cublas", 1, "{:.1f}"),
          "x paper": ("ratio_paper", 1, "{:.1f}")}


def table(results):
    shapes = list(dict.fromkeys(shape(r) for r in results))
    names = list(dict.fromkeys((r["format"], r["variant"]) for r in results))
    extras = {title: e for title, e in EXTRAS.items()
              if any(e[0] in r for r in results)}
    print("| format, variant | " + " | ".join(shapes + list(extras)) + " |")
    print("|---|" + "---|" * (len(shapes) + len(extras)))
    for name in names:
        rows = [r for r in results if (r["format"], r["variant"]) == name]
        cells = {shape(r): cell(r) for r in rows}
        print("| " + " | ".join(
            [", ".join(name)] + [cells.get(s, "-") for s in shapes]
            + [ranged(rows, *e) for e in extras.values()]) + " |")
    print()


def device(report):
    machine = report["machine"]
    if not report.get("copy_gbytes_per_s"):
        read = ", ".join(f'{b["gbytes_per_s"]:.1f} GB/s by {b["threads"]}'
                         for b in report["read_bandwidth"])
        return f'{machine["cpu"]}, memory read {read} thread(s)'
    text = (f'{machine["device_name"]} ({machine["device_detail"]}), memory '
            f'copied {report["copy_gbytes_per_s"]:.0f} GB/s read and written')
    if machine.get("l2_bytes"):
        text += f', L2 {machine["l2_bytes"] / 1e6:.0f} MB'
    if machine.get("core_mhz"):
        text += (f', {machine["core_mhz"]} of {machine["most_core_mhz"]} MHz '
                 'at the end')
    return text


def main():
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        print(f'`{path}`: commit {report["commit"]}, {device(report)}.\n')
        for k in dict.fromkeys(key(r) for r in report["results"]):
            print(f"{k[0].capitalize()}, {k[1]} thread(s), batch {k[2]}:\n")
            table([r for r in report["results"] if key(r) == k])


if __name__ == "__main__":
    main()

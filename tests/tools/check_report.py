#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks qmoe_report.json: each key against the tables of docs/report.md, totals
against their parts, and the whole against what `qmoe inspect --json` counts.

    check_report.py docs/report.md MODEL/qmoe_report.json INSPECTED.json
"""

import json
import math
import re
import sys

TYPES = {
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
    "null": lambda v: v is None,
}
MEANS = {"input_error", "weight_error"}
SUMS = {"tokens", "counted"}


def read_tables(path):
    """{heading: {key: [types]}} of the document's tables."""
    tables, heading = {}, None
    for line in open(path, encoding="utf-8"):
        if line.startswith("## "):
            heading = line[3:].strip()
            tables[heading] = {}
        found = re.match(r"\| `(\w+)` \| ([a-z ]+) \| ", line)
        if found:
            tables[heading][found[1]] = found[2].split(" or ")
    return tables


def check_keys(value, table, where):
    needed = {key for key, types in table.items() if "absent" not in types}
    assert needed <= set(value) <= set(table), f"{where}: {set(value) ^ set(table)}"
    for key in value:
        types = [t for t in table[key] if t != "absent"]
        assert any(TYPES[t](value[key]) for t in types), f"{where}: {key}: {value[key]}"


def near(a, b):
    return math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-9)


def mean(values):
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def total(values):
    return None if None in values else sum(values)


def same(a, b, where):
    both = a is not None and b is not None
    assert near(a, b) if both else a is b, f"{where}: {a}, not {b}"


def check_totals(totals, matrices, weights, overhead, where):
    """`weights`: of each matrix."""
    wanted = {
        "matrices": len(matrices),
        "weights": sum(weights),
        "bytes": sum(m["bytes"] for m in matrices) + overhead,
        "zeros": sum(m["zeros"] * n for m, n in zip(matrices, weights)) / sum(weights),
        "without_tokens": sum(m["fallback"] == "no tokens" for m in matrices),
        "singular": sum(m["fallback"] == "singular" for m in matrices),
        "entropy": total(
            [m["entropy"] and m["entropy"] * n for m, n in zip(matrices, weights)]
        ),
    }
    wanted["bits_per_weight"] = 8 * wanted["bytes"] / wanted["weights"]
    if wanted["entropy"] is not None:
        wanted["entropy"] /= sum(weights)
    wanted.update({key: mean([m[key] for m in matrices]) for key in MEANS})
    wanted.update({key: total([m[key] for m in matrices]) for key in SUMS})
    assert set(wanted) == set(totals), where
    for key, value in wanted.items():
        same(totals[key], value, f"{where}: {key}")


def check_matrix(matrix, stack, calibrated):
    name = matrix["name"]
    n_weights = stack["rows"] * stack["columns"]
    assert near(matrix["bits_per_weight"], 8 * matrix["bytes"] / n_weights), name
    assert 0 <= matrix["zeros"] <= 1, name
    assert (matrix["tokens"] is not None) == calibrated, name
    assert (matrix["entropy"] is not None) == (stack["format"] == "ternary-dict"), name
    assert matrix["fallback"] in (None, "no tokens", "singular"), name
    if calibrated:
        assert 0 <= matrix["counted"] <= matrix["tokens"], name
        n = matrix["counted"] + matrix.get("borrowed", 0)
        rounded = stack["method"] == "gptq" and n == 0
        assert (matrix["fallback"] == "no tokens") == rounded, name
    if not calibrated or n == 0:
        assert matrix["input_error"] is None, name


def check_dense(dense, tables, weights):
    """`weights`: all that are no experts', as inspected."""
    check_keys(dense, tables["Matrices beside the experts"], "dense")
    formats = {m["format"] for m in dense["matrices"]}
    assert dense["format"] == (formats.pop() if len(formats) == 1 else None)
    for m in dense["matrices"]:
        name = m["name"]
        check_keys(m, tables["A matrix beside the experts"], name)
        found = weights[name]
        assert found["shape"][-2:] == [m["rows"], m["columns"]], name
        assert [found[key] for key in ("bytes", "role", "format")] == [
            m[key] for key in ("bytes", "role", "format")], name
        assert near(m["bits_per_weight"], 8 * m["bytes"] / (m["rows"] * m["columns"]))
        assert 0 <= m["zeros"] <= 1 and 0 < m["weight_error"] < 0.5, name
    # Every other matrix is as it was in the source.
    others = {w["format"] for name, w in weights.items()} - {
        m["format"] for m in dense["matrices"]}
    assert others <= {"bf16", "f16", "f32"}, others
    n_weights = sum(m["rows"] * m["columns"] for m in dense["matrices"])
    n_bytes = sum(m["bytes"] for m in dense["matrices"])
    wanted = {
        "matrices": len(dense["matrices"]),
        "weights": n_weights,
        "bytes": n_bytes,
        "bits_per_weight": 8 * n_bytes / n_weights,
        "input_error": mean([m["input_error"] for m in dense["matrices"]]),
        "weight_error": mean([m["weight_error"] for m in dense["matrices"]]),
    }
    assert set(wanted) == set(dense["totals"]), "dense"
    for key, value in wanted.items():
        same(dense["totals"][key], value, f"dense: {key}")


def main():
    tables = read_tables(sys.argv[1])
    report = json.load(open(sys.argv[2], encoding="utf-8"))
    inspected = json.load(open(sys.argv[3], encoding="utf-8"))
    weights = {w["name"]: w for w in inspected["weights"] if w["role"] == "experts"}
    matrices, sizes, overhead = [], [], 0
    check_keys(report, tables["The document"], "the document")
    assert report["schema"] == 1
    assert {s["name"] for s in report["stacks"]} == set(weights)
    for stack in report["stacks"]:
        name = stack["name"]
        check_keys(stack, tables["A stack"], name)
        check_keys(stack["totals"], tables["Totals"], name)
        assert len(stack["matrices"]) == stack["experts"] > 0, name
        for matrix in stack["matrices"]:
            check_keys(matrix, tables["A matrix"], matrix["name"])
            check_matrix(matrix, stack, report["calibrated"])
        shared = 8 if stack["format"] == "ternary-dict" else 0
        n = [stack["rows"] * stack["columns"]] * stack["experts"]
        check_totals(stack["totals"], stack["matrices"], n, shared, name)
        shape = [stack["experts"], stack["rows"], stack["columns"]]
        assert weights[name]["shape"] == shape, name
        assert weights[name]["rotation"] == stack["rotation"], name
        assert weights[name]["format"] == stack["format"], name
        assert weights[name]["bytes"] == stack["totals"]["bytes"], name
        same(weights[name]["zeros"], stack["totals"]["zeros"], name)
        pooled, entropy = weights[name]["entropy"], stack["totals"]["entropy"]
        # Of all codes together it is more than the mean of the matrices'.
        assert pooled is entropy or entropy <= pooled < 1.01 * entropy, name
        matrices += stack["matrices"]
        sizes += n
        overhead += shared
    names = [m["name"] for m in matrices]
    assert len(set(names)) == len(names)
    check_keys(report["totals"], tables["Totals"], "totals")
    check_totals(report["totals"], matrices, sizes, overhead, "totals")
    if "dense" in report:
        others = {w["name"]: w for w in inspected["weights"] if w["role"] != "experts"}
        check_dense(report["dense"], tables, others)
    for key in ("without_tokens", "singular"):
        print(key, report["totals"][key])


if __name__ == "__main__":
    main()

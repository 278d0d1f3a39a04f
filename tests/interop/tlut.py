# SPDX-License-Identifier: Apache-2.0
"""Reads stacks in the formats "tlut-*" in plain NumPy, written from section 9 of
docs/format.md; the tables come from docs/tlut-tables.md."""

import functools
import hashlib
import pathlib
import re

import numpy as np

TABLES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "tlut-tables.md"
TABLES_SHA256 = "53449f5eac90d2734f1c92f01678595f9891ffaba599ab00422d9a62f1eadb64"
TILE, GROUP, WINDOW_BITS = 64, 4, 6
# name: k, v
RATES = {
    "tlut-0.25": (1, 4),
    "tlut-0.5": (2, 4),
    "tlut-0.75": (3, 4),
    "tlut-1": (2, 2),
    "tlut-1.5": (3, 2),
    "tlut-2": (2, 1),
    "tlut-3": (3, 1),
    "tlut-4": (4, 1),
}


@functools.cache
def tables():
    """{name: i8 [64, v]}"""
    found = {}
    for part in TABLES.read_text().split("\n## ")[1:]:
        name, text = part.split("\n", 1)
        values = []
        for first, line in re.findall(r"^ +(\d+):(.*)$", text, re.M):
            assert int(first) * RATES[name][1] == len(values), name
            values += map(int, line.split())
        found[name] = np.array(values, np.int8).reshape(64, RATES[name][1])
    assert list(found) == list(RATES)
    return found


def tables_sha256():
    return hashlib.sha256(b"".join(t.tobytes() for t in tables().values())).hexdigest()


# ---- the rotation (section 8.4) --------------------------------------------------


def mix(v):
    v = (v ^ v >> 16) * 0x6A09E667 & 0xFFFFFFFF
    v = (v ^ v >> 15) * 0xBB67AE85 & 0xFFFFFFFF
    return v ^ v >> 16


def signs(seed, n_cols):
    mixed = mix(seed + 0x9E3779B9 & 0xFFFFFFFF)
    return np.array([-1 if mix(mixed ^ c) >> 31 else 1 for c in range(n_cols)], np.float32)


def transform(rows):
    """Of one segment, in place, every operation rounded to f32."""
    m, step = rows.shape[1], 1
    while step < m:
        pairs = rows.reshape(len(rows), -1, 2, step)
        x, y = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
        pairs[:, :, 0], pairs[:, :, 1] = x, y
        step *= 2
    rows *= np.float32(m**-0.5)


def unrotate(rows, block, seed):
    rows = rows.copy()
    at, n_cols = 0, rows.shape[1]
    while at < n_cols:
        while block > n_cols - at:
            block //= 2
        segment = rows[:, at : at + block].copy()
        transform(segment)
        rows[:, at : at + block] = segment
        at += block
    return rows * signs(seed, n_cols)


# ---- stacks ----------------------------------------------------------------------


def part_shapes(entry):
    """{suffix: (dtype, shape)}"""
    n_mats, n_rows, n_cols = entry["shape"]
    k, v = RATES[entry["format"]]
    n_tiles, n_groups = -(-n_rows // TILE), -(-n_cols // GROUP)
    return {
        "codes": ("U8", (n_mats, n_tiles, n_groups * (TILE * k // v // 16) * 8)),
        "scales": ("BF16", (n_mats, n_rows)),
        "col_scales": ("BF16", (n_mats, n_cols)),
    }


def bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class TlutStack:
    def __init__(self, tensors, name, entry):
        self.name, self.format = name, entry["format"]
        self.n_mats, self.n_rows, self.n_cols = entry["shape"]
        self.rotation = entry.get("rotation", 0)
        self.seed = entry.get("rotation_seed", 0)
        for suffix, (dtype, shape) in part_shapes(entry).items():
            stored, array = tensors[f"{name}.{suffix}"]
            assert (stored, array.shape) == (dtype, shape), f"{name}.{suffix}"
            setattr(self, suffix, array)

    def values(self, mat):
        """i8 [n_rows, n_cols], of the tables."""
        k, v = RATES[self.format]
        n_tiles = len(self.codes[mat])
        # [tile, group, word, column of the group] -> [tile, column, bit]
        words = np.ascontiguousarray(self.codes[mat]).view("<u2")
        words = words.reshape(n_tiles, -(-self.n_cols // GROUP), -1, GROUP)
        bits = (words[..., None] >> np.arange(16)) & 1
        bits = bits.transpose(0, 1, 3, 2, 4).reshape(n_tiles, words.shape[1] * GROUP, -1)
        steps = np.arange(TILE // v) * k
        windows = sum(
            bits[:, :, (steps + i) % bits.shape[2]].astype(np.int64) << i for i in range(WINDOW_BITS)
        )
        rows = tables()[self.format][windows]  # [tile, column, step, v]
        rows = rows.reshape(n_tiles, -1, TILE).transpose(0, 2, 1).reshape(n_tiles * TILE, -1)
        return rows[: self.n_rows, : self.n_cols]

    def matrix(self, mat):
        """f32 [n_rows, n_cols], of the model."""
        scales = bf16(self.scales[mat])[:, None] * bf16(self.col_scales[mat])[None, :]
        rows = scales * self.values(mat).astype(np.float32)
        return unrotate(rows, self.rotation, self.seed) if self.rotation else rows

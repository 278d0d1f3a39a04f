#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes types.bin beside it: blocks of each type of GGUF and what the package
gguf makes of them.  For each type: its id and the number of elements (u32),
the bytes, the values (f32).

    python tests/golden/gguf/make_types.py     # needs gguf and numpy
"""

import pathlib
import struct
import sys

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "interop"))
import test_gguf  # noqa: E402

rng = np.random.default_rng(1)
with open(HERE / "types.bin", "wb") as out:
    for name in test_gguf.TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        n = 64 if elements == 1 else 6  # six scales at the ends of the range
        blocks = test_gguf.random_blocks(name, n, rng)
        values = gguf.quants.dequantize(blocks.reshape(1, -1), kind)
        out.write(struct.pack("<II", kind, n * elements) + blocks.tobytes() + values.tobytes())

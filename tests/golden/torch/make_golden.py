#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the files of this folder with PyTorch (made with 2.2.2):

    python tests/golden/torch/make_golden.py tests/golden/torch

all.bin: every dtype, aliases, offset, transposed and strided views, a
parameter, an OrderedDict with _metadata.  linear.bin: a module's state dict.
sizes.pt: a dict of integers, one of them wide, one negative."""

import sys
from collections import OrderedDict

import torch


def main(out):
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32)
    big = torch.randn(4, 6, 10).to(torch.bfloat16)
    state = OrderedDict(
        f32=base.view(4, 6), alias=base.view(4, 6), off=base[5:11], t=base.view(4, 6).t(), strided=base[::3],
        e0=big.permute(0, 2, 1)[0], e3=big.permute(0, 2, 1)[3], slice3=big[2], p3=big.permute(2, 0, 1),
        f16=torch.randn(3).half(), f64=torch.randn(2).double(), i64=torch.arange(-2, 3),
        i32=torch.arange(3, dtype=torch.int32), i16=torch.tensor([-1, 5], dtype=torch.int16),
        i8=torch.tensor([-1, 5], dtype=torch.int8), u8=torch.tensor([1, 255], dtype=torch.uint8),
        b=torch.tensor([True, False]), empty=torch.zeros(0, dtype=torch.bfloat16), scalar=torch.tensor(3.5),
        param=torch.nn.Parameter(torch.ones(2, 2)))
    state._metadata = OrderedDict([("", {"version": 1})])
    torch.save(state, out + "/all.bin")
    torch.save(torch.nn.Linear(3, 2).state_dict(), out + "/linear.bin")
    torch.save({"a.b": 5, "c": -7, "big": 1 << 40, "n": 100000}, out + "/sizes.pt")


if __name__ == "__main__":
    main(sys.argv[1])

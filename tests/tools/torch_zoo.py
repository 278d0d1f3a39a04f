#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files of PyTorch itself, read by qmoe and by PyTorch:

    torch_zoo.py BUILD [--keep DIR]

Needs PyTorch (1.13 or newer) and NumPy.  Writes one file per kind of object
that torch.save and torch.jit.save are used for, and compares what
BUILD/tests/dump_tensors reads with torch.load(weights_only=True), name by name,
dtype, shape and every byte.  What is no plain state dict must be refused with
the text given here.  Prints a line per file; exit code 1 when one is wrong."""

import argparse
import collections
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
from torch import nn

DTYPES = {
    "F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


class Subclass(torch.Tensor):
    pass


def with_attribute(tensor):
    tensor.note = 3
    return tensor


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 5), nn.Flatten(0, 1), nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.tensor([[1, 2], [3, 4]])).sum().backward()
    optimizer.step()
    return net, optimizer


def accepted():
    """name -> (object, keywords of torch.save); a flat dict of tensors or integers."""
    net, _ = network()
    state = net.state_dict()
    base = torch.arange(240, dtype=torch.float32)
    half = network()[0].half().state_dict()
    out = {
        "state dict, batch norm": state,
        "state dict, half": half,
        "named parameters": dict(net.named_parameters()),
        "frozen parameter": {"a": nn.Parameter(torch.ones(2), requires_grad=False)},
        "LSTM": nn.LSTM(3, 4, 2, bidirectional=True).state_dict(),
        "transformer layer": nn.TransformerEncoderLayer(8, 2, 16).state_dict(),
        "empty dict": {},
        "integers": {"a": torch.ones(1), "epoch": 3, "steps": 1 << 40, "below": -7},
        "3000 tensors": collections.OrderedDict((f"t{i}", torch.full((2,), float(i))) for i in range(3000)),
        "views": {"whole": base.view(12, 20), "slice": base[7:90], "t": base.view(12, 20).t(), "step": base[::7],
                  "cube": base.view(4, 6, 10).permute(2, 0, 1), "one": base[5], "diagonal": base.view(12, 20).diagonal(),
                  "none": base[3:3], "flip": base.flip(0), "column": base.view(12, 20)[:, 3:4]},
        "channels last": {"a": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)},
        "tied": {"shared": base, "encoder": base, "decoder": base},
        "one element, odd strides": {"a": base.as_strided((1, 1), (99, 55), 3)},
        "eight dimensions": {"a": torch.randn(1, 2, 1, 2, 1, 2, 1, 2)},
        "conjugate resolved": {"a": torch.randn(3, dtype=torch.complex64)},
        "name with blanks and umlauts": {"ä ö.weight": torch.ones(2)},
    }
    for name in sorted(set(DTYPES.values())):
        if hasattr(torch, name):
            out[name] = {"a": torch.arange(6).reshape(2, 3).to(getattr(torch, name)), "b": torch.tensor(1).to(getattr(torch, name))}
    return out


# What must be said of objects that are no plain state dict.
REFUSED = {
    "training checkpoint": "'state_dict' is a dict",
    "checkpoint with optimizer": "only a plain state dict is read",
    "optimizer": "only a plain state dict is read",
    "module": "only a plain state dict is read",
    "float": "only a plain state dict is read",
    "none": "'b' is None",
    "text": "'b' is a string",
    "bool": "'b' is a bool",
    "list in it": "only a plain state dict is read",
    "list": "only a plain state dict is read",
    "tensor": "holds a tensor, not one dict",
    "integer keys": "the key of a dict is an integer",
    "sparse": "_rebuild_sparse_tensor",
    "quantized": "_rebuild_qtensor",
    "negative bit": "conjugated or negated",
    "conjugate bit": "conjugated or negated",
    "expanded": "an expanded tensor",
    "attribute": "_rebuild_from_type_v2",
    "subclass": "_rebuild_from_type_v2",
    "parameter with attribute": "only a plain state dict is read",
    "meta": "only a plain state dict is read",
    "storage": "'a' is a storage",
    "legacy format": "before version 1.6",
    "protocol 3": "pickle protocol 3",
    "protocol 4": "pickle protocol 4",
    "protocol 5": "pickle protocol 5",
    "TorchScript": "a TorchScript program",
}


# PyTorch before 2.0 leaves these out of the file, so that it holds a plain tensor.
LOST = {"negative bit", "conjugate bit", "attribute", "parameter with attribute"}


def refused():
    """name -> (object, keywords of torch.save)."""
    net, optimizer = network()
    state, one, c = net.state_dict(), torch.ones(2), torch.randn(3, dtype=torch.complex64)
    out = {
        "training checkpoint": {"state_dict": state, "epoch": 3},
        "checkpoint with optimizer": {"model": state, "optimizer": optimizer.state_dict(), "rate": 0.1},
        "optimizer": optimizer.state_dict(),
        "module": net,
        "float": {"a": one, "b": 1.5},
        "none": {"a": one, "b": None},
        "text": {"a": one, "b": "x"},
        "bool": {"a": one, "b": True},
        "list in it": {"a": [one]},
        "list": [one],
        "tensor": one,
        "integer keys": {0: one},
        "sparse": {"a": torch.eye(3).to_sparse()},
        "quantized": {"a": torch.quantize_per_tensor(one, 0.1, 0, torch.qint8)},
        "negative bit": {"a": c.conj().imag},
        "conjugate bit": {"a": c.conj()},
        "expanded": {"a": torch.randn(1, 3).expand(4, 3)},
        "attribute": {"a": with_attribute(torch.ones(2))},
        "subclass": {"a": one.as_subclass(Subclass)},
        "parameter with attribute": {"a": with_attribute(nn.Parameter(torch.ones(2)))},
        "meta": {"a": torch.ones(2, device="meta")},
        "storage": {"a": one.storage()},
    }
    out = {name: (x, {}) for name, x in out.items()}
    out["legacy format"] = state, {"_use_new_zipfile_serialization": False}
    out |= {f"protocol {p}": (state, {"pickle_protocol": p}) for p in (3, 4, 5)}
    return out


def raw(tensor):
    """Its bytes in C order."""
    tensor = tensor.detach().resolve_conj().contiguous()
    if tensor.numel() == 0:
        return b""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.int8).numpy().tobytes()


def by_torch(path):
    out = {}
    for name, x in torch.load(path, weights_only=True).items():
        out[name] = x if isinstance(x, int) else (x.dtype, tuple(x.shape), raw(x))
    return out


def by_qmoe(data):
    out, stream = {}, io.BytesIO(data)
    while line := stream.readline():
        name, dtype, shape, n = line.decode().rstrip("\n").split("\t")
        if dtype == "int":
            out[name] = int(shape)
            continue
        shape = tuple(int(s) for s in shape.split(",") if s)
        out[name] = getattr(torch, DTYPES[dtype]), shape, stream.read(int(n))
    return out


class Zoo:
    def __init__(self, build, folder):
        self.tool, self.folder = pathlib.Path(build) / "tests" / "dump_tensors", pathlib.Path(folder)
        self.n_right = self.n_wrong = 0

    def say(self, good, name, text):
        self.n_right += good
        self.n_wrong += not good
        print(f"{'ok' if good else 'WRONG':6} {name:32} {text}")

    def write(self, name, x, **keywords):
        path = self.folder / (name + ".bin")
        try:
            torch.save(x, path, **keywords)
        except Exception as e:  # noqa: BLE001 - this PyTorch cannot
            print(f"{'-':6} {name:32} not written by this PyTorch: {str(e)[:60]}")
            return None
        return path

    def read(self, path):
        return subprocess.run([self.tool, path], capture_output=True, check=False)

    def must_agree(self, name, path):
        result = self.read(path)
        if result.returncode != 0:
            self.say(False, name, result.stderr.decode().strip())
            return
        ours, theirs = by_qmoe(result.stdout), by_torch(path)
        wrong = [n for n in set(ours) | set(theirs) if ours.get(n) != theirs.get(n)]
        self.say(not wrong, name, f"{len(theirs)} items equal" if not wrong else f"differ: {wrong[:3]}")

    def must_refuse(self, name, path):
        result = self.read(path)
        if result.returncode == 0 and name in LOST:
            self.must_agree(name, path)
            return
        text = result.stderr.decode().strip()
        good = result.returncode == 1 and REFUSED[name] in text and path.name in text and "\n" not in text
        self.say(good, name, text.split(".bin: ", 1)[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("--keep", help="leave the files in this directory")
    a = p.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        zoo = Zoo(a.build, a.keep or scratch)
        os.makedirs(zoo.folder, exist_ok=True)
        print("PyTorch", torch.__version__)
        for name, x in accepted().items():
            path = zoo.write(name, x)
            if path:
                zoo.must_agree(name, path)
        buffer = io.BytesIO()
        torch.save(network()[0].state_dict(), buffer)
        path = zoo.folder / "from a buffer.bin"
        path.write_bytes(buffer.getvalue())
        zoo.must_agree("from a buffer", path)
        for name, (x, keywords) in refused().items():
            path = zoo.write(name, x, **keywords)
            if path:
                zoo.must_refuse(name, path)
        path = zoo.folder / "TorchScript.bin"
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
        zoo.must_refuse("TorchScript", path)
        print(f"{zoo.n_right} right, {zoo.n_wrong} wrong")
    return zoo.n_wrong != 0 or zoo.n_right == 0


if __name__ == "__main__":
    sys.exit(main())

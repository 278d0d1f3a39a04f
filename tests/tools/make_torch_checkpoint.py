#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes checkpoints as Google's Switch checkpoints are published, at a small
width and with random weights, in PyTorch's file format:

    make_torch_checkpoint.py OUT --like base-8
    make_torch_checkpoint.py OUT --like c-2048 --plain OUT2
    make_torch_checkpoint.py OUT --like large-128 --full

base-8: one pytorch_model.bin; bfloat16 with float32 routers; the embedding
under four names that share one storage.
c-2048: shards with an index; no torch_dtype; fewer decoder blocks in
config.json than in the weights; sparse steps 1 and 0; decoder.lm_head.weight,
no lm_head and no embed_tokens; the experts of a block are transposed views of
one storage.
The others as base-8, in their own dtype and number of files.

--full: all blocks and experts, so that names, their number and the shards are
those published; else four blocks (c-2048: three) of four experts.

--plain also writes the same weights as safetensors, each in C order, with a
config.json that is right: both directories must compute the same.
--writer torch uses PyTorch, python needs nothing but Python; the default is
torch where it is installed."""

import argparse
import io
import json
import os
import random
import shutil
import struct
import zipfile

CLASSES = {"F32": ("FloatStorage", 4), "BF16": ("BFloat16Storage", 2)}


# blocks per stack, experts, dtype of all but routers, routers, files
PUBLISHED = {
    "base-8": (12, 8, "BF16", "F32", 1),
    "base-16": (12, 16, "F32", "F32", 1),
    "base-32": (12, 32, "F32", "F32", 1),
    "base-64": (12, 64, "F32", "F32", 2),
    "base-128": (12, 128, "F32", "F32", 3),
    "base-256": (12, 256, "F32", "F32", 6),
    "large-128": (24, 128, "BF16", "BF16", 6),
    "c-2048": (15, 2048, "BF16", "BF16", 3),
}


class Storage:
    def __init__(self, dtype, data):
        self.dtype, self.data, self.size = dtype, data, CLASSES[dtype][1]


class Tensor:
    def __init__(self, storage, shape, strides=None, offset=0):
        self.storage, self.shape, self.offset = storage, tuple(shape), offset
        self.strides = tuple(strides) if strides is not None else c_strides(shape)

    def in_order(self):
        """Its bytes in C order."""
        e, out = self.storage.size, []

        def walk(dim, at):
            if dim == len(self.shape):
                out.append(self.storage.data[at * e:at * e + e])
                return
            for i in range(self.shape[dim]):
                walk(dim + 1, at + i * self.strides[dim])
        if self.strides == c_strides(self.shape):
            n = product(self.shape)
            return self.storage.data[self.offset * e:(self.offset + n) * e]
        walk(0, self.offset)
        return b"".join(out)


def product(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def c_strides(shape):
    return tuple(product(shape[i + 1:]) for i in range(len(shape)))


POOL = 40009
pools = {}


def pool(rng, dtype, scale):
    """Bytes of POOL random numbers (scale 0: ones), twice."""
    if (dtype, scale) not in pools:
        data = struct.pack(f"<{POOL}f", *(rng.gauss(0, scale) if scale else 1.0 for _ in range(POOL)))
        if dtype == "BF16":
            data = memoryview(data).cast("H")[1::2].tobytes()
        pools[dtype, scale] = data * 2
    return pools[dtype, scale]


def values(rng, dtype, shape, scale):
    """A piece of the pool for that scale; what is longer than it repeats."""
    n, size = product(shape), CLASSES[dtype][1]
    begin = rng.randrange(POOL) * size
    data = pool(rng, dtype, scale)
    piece = (data[begin:begin + POOL * size] * (n // POOL + 1))[:n * size]
    return Storage(dtype, piece)


# ---- writers ----

def pickle_text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def pickle_int(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    if 0 <= n < 65536:
        return b"M" + struct.pack("<H", n)
    if -2**31 <= n < 2**31:
        return b"J" + struct.pack("<i", n)
    return b"\x8a\x08" + struct.pack("<q", n)


def pickle_tuple(items):
    return b"(" + b"".join(map(pickle_int, items)) + b"t"


def pickle_state(tensors):
    """Protocol 2, the instructions torch.save uses but without a memo."""
    keys, out = {}, [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for name, t in tensors.items():
        key = keys.setdefault(id(t.storage), (len(keys), t.storage))[0]
        out += [pickle_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", pickle_text("storage"),
                f"ctorch\n{CLASSES[t.storage.dtype][0]}\n".encode(), pickle_text(str(key)), pickle_text("cpu"),
                pickle_int(len(t.storage.data) // t.storage.size), b"tQ", pickle_int(t.offset),
                pickle_tuple(t.shape), pickle_tuple(t.strides), b"\x89ccollections\nOrderedDict\n)RtR"]
    out.append(b"u}" + pickle_text("_metadata") + b"ccollections\nOrderedDict\n)Rsb.")
    return b"".join(out), [s for _, s in keys.values()]


class ZipWriter:
    """Stored members whose data begin at multiples of 64, as torch's."""

    def __init__(self, path, top):
        self.zip, self.top = zipfile.ZipFile(path, "w"), top

    def add(self, name, data):
        info = zipfile.ZipInfo(f"{self.top}/{name}")
        used = self.zip.fp.tell() + 30 + len(info.filename) + 4
        fill = -used % 64
        info.extra = b"FB" + struct.pack("<H", fill) + b"Z" * fill
        self.zip.writestr(info, data)

    def close(self):
        self.zip.close()


def save_python(path, tensors):
    text, storages = pickle_state(tensors)
    out = ZipWriter(path, os.path.splitext(os.path.basename(path))[0])
    out.add("data.pkl", text)
    out.add("byteorder", b"little")
    for key in sorted(range(len(storages)), key=str):
        out.add(f"data/{key}", storages[key].data)
    out.add("version", b"3\n")
    out.close()


def save_torch(path, tensors):
    import collections
    import torch
    dtypes, bases, state = {"F32": torch.float32, "BF16": torch.bfloat16}, {}, collections.OrderedDict()
    for name, t in tensors.items():
        if id(t.storage) not in bases:
            bases[id(t.storage)] = torch.frombuffer(bytearray(t.storage.data), dtype=dtypes[t.storage.dtype])
        state[name] = bases[id(t.storage)].as_strided(t.shape, t.strides, t.offset)
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    torch.save(state, path)


def save_safetensors(path, tensors):
    header, data = {}, io.BytesIO()
    for name, t in tensors.items():
        begin = data.tell()
        data.write(t.in_order())
        header[name] = {"dtype": t.storage.dtype, "shape": t.shape, "data_offsets": [begin, data.tell()]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data.getvalue())


# ---- models ----

class Model:
    def __init__(self, a, like):
        self.rng, self.like, self.out = random.Random(a.seed), like, {}
        self.c2048 = like == "c-2048"
        self.d, self.f, self.heads, self.kv = 16, 32, 3 if self.c2048 else 4, 4
        blocks, experts, self.dtype, self.router_dtype, self.files = PUBLISHED[like]
        self.experts, self.vocab = experts if a.full else 4, 2112
        self.blocks = blocks if a.full else 3 if self.c2048 else 4
        self.config_blocks = 12 if a.full else self.blocks - 1  # of c-2048's decoder

    def add(self, name, shape, scale, dtype=None):
        self.out[name] = Tensor(values(self.rng, dtype or self.dtype, shape, scale), shape)

    def attention(self, prefix, name, first):
        inner = self.heads * self.kv
        for m in "qkv":
            self.add(f"{prefix}.{name}.{m}.weight", (inner, self.d), self.d ** -0.5 * 0.5)
        self.add(f"{prefix}.{name}.o.weight", (self.d, inner), inner ** -0.5)
        if first:
            self.add(f"{prefix}.{name}.relative_attention_bias.weight", (32, self.heads), 0.3)
        self.add(f"{prefix}.layer_norm.weight", (self.d,), 0)

    def experts_of(self, prefix):
        """c-2048: slices of [E, in, out] turned round, as its conversion left them."""
        for kind, rows, cols in (("wi", self.f, self.d), ("wo", self.d, self.f)):
            n = rows * cols
            if self.c2048:
                storage = values(self.rng, "BF16", (self.experts * n,), cols ** -0.5)
            for e in range(self.experts):
                name = f"{prefix}.experts.expert_{e}.{kind}.weight"
                if self.c2048:
                    self.out[name] = Tensor(storage, (rows, cols), (1, rows), e * n)
                else:
                    self.add(name, (rows, cols), cols ** -0.5)

    def ffn(self, prefix, sparse):
        if sparse:
            self.add(f"{prefix}.mlp.router.classifier.weight", (self.experts, self.d), 0.5,
                     self.router_dtype)
            self.experts_of(f"{prefix}.mlp")
        else:
            self.add(f"{prefix}.mlp.wi.weight", (self.f, self.d), self.d ** -0.5)
            self.add(f"{prefix}.mlp.wo.weight", (self.d, self.f), self.f ** -0.5)
        self.add(f"{prefix}.layer_norm.weight", (self.d,), 0)

    def build(self):
        self.add("shared.weight", (self.vocab, self.d), 1.0)
        for stack, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
            if not self.c2048:
                self.out[f"{stack}.embed_tokens.weight"] = self.out["shared.weight"]
            for i in range(self.blocks):
                for layer, name in enumerate(attentions):
                    self.attention(f"{stack}.block.{i}.layer.{layer}", name, i == 0 and layer == 0)
                self.ffn(f"{stack}.block.{i}.layer.{len(attentions)}", self.c2048 or i % 2 == 1)
            self.add(f"{stack}.final_layer_norm.weight", (self.d,), 0)
        if self.c2048:
            self.add("decoder.lm_head.weight", (self.vocab, self.d), self.d ** -0.5)
        else:
            self.out["lm_head.weight"] = self.out["shared.weight"]
        return self.out

    def config(self, right, bare):
        c = {"model_type": "switch_transformers", "vocab_size": self.vocab, "d_model": self.d, "d_kv": self.kv,
             "d_ff": self.f, "num_heads": self.heads, "num_layers": self.blocks, "num_decoder_layers": self.blocks,
             "encoder_sparse_step": 2, "decoder_sparse_step": 2, "num_sparse_encoder_layers": self.blocks // 2,
             "num_sparse_decoder_layers": self.blocks // 2, "num_experts": self.experts, "expert_capacity": 64,
             "dense_act_fn": "relu", "feed_forward_proj": "relu", "is_gated_act": False, "router_bias": False,
             "router_dtype": "float32", "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1,
             "transformers_version": "4.25.0.dev0"}
        if not self.c2048:
            return {**c, "architectures": ["SwitchTransformersForConditionalGeneration"],
                    "torch_dtype": "bfloat16" if self.dtype == "BF16" else "float32"}
        c.update(encoder_sparse_step=1, decoder_sparse_step=0, num_sparse_encoder_layers=self.blocks,
                 num_sparse_decoder_layers=self.blocks, num_decoder_layers=self.config_blocks)
        if not bare:
            c["is_full_sparse"] = True
        if right:
            c.update(num_decoder_layers=self.blocks, decoder_sparse_step=1, tie_word_embeddings=False)
        return c


def split(tensors, n):
    """Runs of tensors; those that share a storage stay together."""
    parts, owner = [{} for _ in range(n)], {}
    for i, (name, t) in enumerate(tensors.items()):
        part = owner.setdefault(id(t.storage), i * n // len(tensors))
        parts[part][name] = t
    return parts


def write_directory(path, config, spiece):
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    shutil.copy(spiece, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--like", choices=PUBLISHED, default="base-8")
    p.add_argument("--full", action="store_true", help="all blocks and experts")
    p.add_argument("--plain", help="directory for the same as safetensors")
    p.add_argument("--bare", action="store_true", help="c-2048 without is_full_sparse: only the weights tell")
    p.add_argument("--writer", choices=("torch", "python"))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--spiece", default=os.path.join(os.path.dirname(__file__), "../../models/switch-mini/spiece.model"))
    a = p.parse_args()
    if a.writer is None:
        try:
            import torch  # noqa: F401
            a.writer = "torch"
        except ImportError:
            a.writer = "python"
    save = save_torch if a.writer == "torch" else save_python
    model = Model(a, a.like)
    tensors = model.build()
    write_directory(a.out, model.config(False, a.bare), a.spiece)
    if model.files > 1:
        index = {"metadata": {"total_size": sum(product(t.shape) * t.storage.size for t in tensors.values())},
                 "weight_map": {}}
        parts = split(tensors, model.files)
        for k, part in enumerate(parts, 1):
            name = f"pytorch_model-{k:05d}-of-{len(parts):05d}.bin"
            save(os.path.join(a.out, name), part)
            index["weight_map"].update({n: name for n in part})
        with open(os.path.join(a.out, "pytorch_model.bin.index.json"), "w") as f:
            json.dump(index, f)
    else:
        save(os.path.join(a.out, "pytorch_model.bin"), tensors)
    if a.plain:
        write_directory(a.plain, model.config(True, False), a.spiece)
        save_safetensors(os.path.join(a.plain, "model.safetensors"), tensors)


if __name__ == "__main__":
    main()

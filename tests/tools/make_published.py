#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes directories as the QMoE authors published compressed models
(docs/publish.md), at a small width and with random ternary experts:

    make_published.py OUT --like base-128
    make_published.py OUT --like c-2048 --break level_nan
    make_published.py OUT --like large-128 --full

base-128: every second block sparse; embeddings, norms and position bias in
float32, the embedding under several names that share one storage.
large-128: the same in bfloat16.
c-2048: every block sparse though the decoder's sparse step is 0, an untied
head, bfloat16 throughout.

Both: files numbered otherwise than the blocks in them, rows without negative
or positive values (whose zeros get the code of the level that is 0), rows of
zeros.  --full: all blocks and experts, so that names
and their number are those published; the matrices are eight that repeat.  --break breaks one rule; BREAKS lists them with what must be said.

The packing follows the description of the published tools, not qmoe's code.
--writer torch uses PyTorch, python needs NumPy alone."""

import argparse
import functools
import json
import os
import pathlib
import pickle
import shutil
import sys
import zipfile

import numpy as np

sys.path[:0] = [
    str(pathlib.Path(__file__).resolve().parent),
    str(pathlib.Path(__file__).resolve().parents[1] / "interop"),
]
import compressed  # noqa: E402
import make_torch_checkpoint as torch_files  # noqa: E402

N_EXPERTS, N_BLOCKS = 3, 2
FULL = {"base-128": (128, 12), "large-128": (128, 24), "c-2048": (2048, 15)}  # experts, blocks per stack
D_MODEL, D_FF, HEADS, D_KV, VOCAB = 16, 30, 2, 8, 2112
STORAGES = {
    "I16": ("ShortStorage", 2, "<i2"),
    "I32": ("IntStorage", 4, "<i4"),
    "BF16": ("BFloat16Storage", 2, "<u2"),
    "F32": ("FloatStorage", 4, "<f4"),
}

FORMAT, UNSUPPORTED, FILES = 4, 5, 3
# What is broken -> exit code of the tool, what its error line must say.
BREAKS = {
    "codes_dtype": (FORMAT, "w_comp': I32"),
    "codes_missing": (FORMAT, "w_comp': is missing"),
    "codes_rank": (FORMAT, "of rank 2"),
    "codes_short_row": (FORMAT, "expert_1.wi'"),
    "codes_long_row": (FORMAT, "expert_1.wi'"),
    "config_dense": (UNSUPPORTED, "without experts"),
    "config_other": (UNSUPPORTED, "model_type 't5'"),
    "config_experts": (FORMAT, "sizes.pt"),
    "config_missing": (FILES, "config.json"),
    "config_odd": (UNSUPPORTED, "even width"),
    "dummy_full": (FORMAT, "weight': 1 elements, expected 0"),
    "exp_extra": (FORMAT, "expected 3 for each"),
    "exp_integer": (FORMAT, "holds an integer, 'epoch'"),
    "exp_pointer": (FORMAT, "exp01.pt: not a PyTorch (zip) file, but a Git LFS pointer"),
    "exp_short": (FORMAT, "exp01.pt: the archive has no end record"),
    "exp_more": (FORMAT, "exp02.pt: one too many"),
    "exp_foreign": (FORMAT, "holds no experts of the model"),
    "exp_missing": (FILES, "exp01.pt"),
    "exp_twice": (FORMAT, "the same block as"),
    "level_inf": (FORMAT, "expert_1.wi'"),
    "level_nan": (FORMAT, "expert_1.wi'"),
    "levels_dtype": (FORMAT, "ter_minmax': F32 of rank 1, expected a vector of BF16"),
    "levels_missing": (FORMAT, "ter_minmax': is missing"),
    "levels_rank": (FORMAT, "ter_minmax': BF16 of rank 2"),
    "levels_length": (FORMAT, "ter_minmax': "),
    "plain_dtype": (FORMAT, "shared.weight': I32"),
    "plain_expert": (FORMAT, "is an expert's"),
    "plain_integer": (FORMAT, "holds an integer, 'epoch'"),
    "plain_legacy": (UNSUPPORTED, "noexp.pt: the legacy PyTorch format"),
    "plain_lost": (FILES, "noexp.pt: not there"),
    "plain_rank": (FORMAT, "shared.weight'"),
    "plain_missing": (FORMAT, "'encoder.final_layer_norm.weight' is missing"),
    "plain_shape": (FORMAT, "shared.weight'"),
    "rows_dtype": (FORMAT, "row_off': I16 of rank 1, expected a vector of I32"),
    "rows_missing": (FORMAT, "row_off': is missing"),
    "rows_huge": (FORMAT, "expert_1.wi'"),
    "rows_end": (FORMAT, "expert_1.wi'"),
    "rows_fall": (FORMAT, "expert_1.wi'"),
    "rows_length": (FORMAT, "row_off': "),
    "rows_negative": (FORMAT, "expert_1.wi'"),
    "rows_start": (FORMAT, "expert_1.wi'"),
    "sizes_extra": (FORMAT, "sizes.pt"),
    "sizes_missing": (FORMAT, "sizes.pt"),
    "sizes_tensor": (FORMAT, "holds a tensor, 'x'"),
    "sizes_lost": (FILES, "sizes.pt"),
    "sizes_negative": (FORMAT, "codewords, there are"),
    "sizes_wrong": (FORMAT, "codewords, there are"),
    "sizes_renamed": (FORMAT, "has no entry"),
}


# ---- the models -----------------------------------------------------------------


def config_of(like):
    full = like == "c-2048"
    config = {
        "model_type": "switch_transformers", "vocab_size": VOCAB, "d_model": D_MODEL, "d_ff": D_FF,
        "d_kv": D_KV, "num_heads": HEADS, "num_experts": N_EXPERTS, "expert_capacity": 1024,
        "num_layers": N_BLOCKS, "num_decoder_layers": N_BLOCKS + (full and N_BLOCKS == 2), "dense_act_fn": "relu",
        "encoder_sparse_step": 1 if full else 2, "decoder_sparse_step": 0 if full else 2,
        "num_sparse_encoder_layers": N_BLOCKS if full else N_BLOCKS // 2,
        "num_sparse_decoder_layers": N_BLOCKS + (N_BLOCKS == 2) if full else N_BLOCKS // 2,
        "router_jitter_noise": 0, "torch_dtype": "bfloat16", "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0, "eos_token_id": 1,
    }
    if full:
        config |= {"is_full_sparse": True, "tie_word_embeddings": False}
    return config


def is_sparse(like, block):
    return like == "c-2048" or block % 2 == 1


def blocks(config):
    """(stack, block, its feed-forward layer's prefix) in execution order."""
    for stack, n, layer in (("encoder", config["num_layers"], 1), ("decoder", config["num_decoder_layers"], 2)):
        for block in range(n):
            yield stack, block, f"{stack}.block.{block}.layer.{layer}"


class Tensor:
    def __init__(self, dtype, array, storage=None):
        self.dtype, self.array = dtype, np.ascontiguousarray(array, STORAGES[dtype][2])
        self.storage = storage  # a tensor whose storage it shares


def floats(rng, dtype, shape, scale):
    values = (rng.standard_normal(shape) * scale if scale else np.ones(shape)).astype(np.float32)
    return Tensor(dtype, compressed.to_bfloat16(values) if dtype == "BF16" else values)


def plain_tensors(rng, like, config):
    own = "F32" if like == "base-128" else "BF16"  # of what is no linear layer
    inner = HEADS * D_KV
    out = {"shared.weight": floats(rng, own, (VOCAB, D_MODEL), 1)}
    for stack in ("encoder", "decoder"):
        out[f"{stack}.embed_tokens.weight"] = Tensor(own, out["shared.weight"].array, out["shared.weight"])
    for stack, block, ffn in blocks(config):
        attentions = ["SelfAttention"] + (["EncDecAttention"] if stack == "decoder" else [])
        for layer, attention in enumerate(attentions):
            at = f"{stack}.block.{block}.layer.{layer}"
            for kind in "qkv":
                out[f"{at}.{attention}.{kind}.weight"] = floats(rng, "BF16", (inner, D_MODEL), 0.1)
            out[f"{at}.{attention}.o.weight"] = floats(rng, "BF16", (D_MODEL, inner), 0.1)
            if block == 0 and attention == "SelfAttention":
                out[f"{at}.{attention}.relative_attention_bias.weight"] = floats(rng, own, (32, HEADS), 0.1)
            out[f"{at}.layer_norm.weight"] = floats(rng, own, (D_MODEL,), 0)
        if is_sparse(like, block):
            out[f"{ffn}.mlp.router.classifier.weight"] = floats(rng, "BF16", (N_EXPERTS, D_MODEL), 0.3)
        else:
            out[f"{ffn}.mlp.wi.weight"] = floats(rng, "BF16", (D_FF, D_MODEL), 0.1)
            out[f"{ffn}.mlp.wo.weight"] = floats(rng, "BF16", (D_MODEL, D_FF), 0.1)
        out[f"{ffn}.layer_norm.weight"] = floats(rng, own, (D_MODEL,), 0)
    for stack in ("encoder", "decoder"):
        out[f"{stack}.final_layer_norm.weight"] = floats(rng, own, (D_MODEL,), 0)
    out["lm_head.weight"] = floats(rng, "BF16", (VOCAB, D_MODEL), 0.1)
    return out


def ternary(rng, n_rows, n_cols):
    """f32 [n_rows, n_cols] of bf16 values, at most three per row."""
    levels = rng.uniform(0.1, 2, (n_rows, 2)) * [-1, 1]
    levels = compressed.to_float32(compressed.to_bfloat16(levels.astype(np.float32)), "BF16")
    kinds = rng.choice(3, (n_rows, n_cols), p=[0.8, 0.1, 0.1])
    kinds[0][kinds[0] == 1] = 0  # no negative value
    kinds[1][kinds[1] == 2] = 0  # no positive value
    kinds[2] = 0
    values = np.concatenate([np.zeros((n_rows, 1), np.float32), levels], axis=1)
    return np.take_along_axis(values, kinds, axis=1)


# ---- packing, as the published tools do it ----------------------------------------


@functools.cache
def codeword_numbers():
    return {word: i for i, word in enumerate(compressed.dictionary(compressed.GENERIC_P0))}


def pack_row(codes):
    numbers, out, word = codeword_numbers(), [], ()
    for first, second in zip(codes[0::2], codes[1::2]):
        pair = int(first) + 3 * int(second)
        if word and word + (pair,) not in numbers:
            out.append(numbers[word])
            word = ()
        word += (pair,)
    return out + [numbers[word]]


def pack(matrix):
    """{suffix: Tensor} of a ternary matrix."""
    low, high = np.minimum(matrix.min(1), 0), np.maximum(matrix.max(1), 0)
    words, offsets = [], [0]
    for row, least, most in zip(matrix, low, high):
        codes = np.zeros(len(row), np.uint8)
        codes[row == least] = 1
        codes[row == most] = 2
        words += pack_row(codes)
        offsets.append(len(words))
    return {
        "w_comp": Tensor("I16", np.array(words, np.uint16).view(np.int16)),
        "row_off": Tensor("I32", np.array(offsets)),
        "ter_minmax": Tensor("BF16", compressed.to_bfloat16(np.stack([low, high], 1).ravel() + np.float32(0))),
        "weight": Tensor("BF16", np.zeros(0)),
    }


def packed_blocks(rng, like, config):
    """[{tensor name: Tensor}] per sparse block, and every decoded matrix."""
    out, matrices, repeated = [], {}, {}
    for _, block, ffn in blocks(config):
        if not is_sparse(like, block):
            continue
        tensors = {}
        for expert in range(N_EXPERTS):
            for kind, shape in (("wi", (D_FF, D_MODEL)), ("wo", (D_MODEL, D_FF))):
                name = f"{ffn}.mlp.experts.expert_{expert}.{kind}"
                if N_BLOCKS == 2 or (kind, expert % 8) not in repeated:
                    matrix = ternary(rng, *shape)
                    repeated[kind, expert % 8] = matrix, pack(matrix)
                matrices[name], parts = repeated[kind, expert % 8]
                for suffix, tensor in parts.items():
                    tensors[f"{name}.{suffix}"] = Tensor(tensor.dtype, tensor.array)
        out.append(tensors)
    return out, matrices


# ---- files ------------------------------------------------------------------------


def pickle_dict(items, ordered):
    t = torch_files
    keys, out = {}, [b"\x80\x02" + (b"ccollections\nOrderedDict\n)R" if ordered else b"}") + b"("]
    for name, x in items.items():
        out.append(t.pickle_text(name))
        if isinstance(x, int):
            out.append(t.pickle_int(x))
            continue
        owner = x.storage or x
        key = keys.setdefault(id(owner), (len(keys), owner))[0]
        out += [b"ctorch._utils\n_rebuild_tensor_v2\n((", t.pickle_text("storage"),
                f"ctorch\n{STORAGES[x.dtype][0]}\n".encode(), t.pickle_text(str(key)), t.pickle_text("cuda:0"),
                t.pickle_int(owner.array.size), b"tQ", t.pickle_int(0), t.pickle_tuple(x.array.shape),
                t.pickle_tuple(t.c_strides(x.array.shape)), b"\x89ccollections\nOrderedDict\n)RtR"]
    out.append(b"u")
    if ordered:
        out.append(b"}" + t.pickle_text("_metadata") + b"ccollections\nOrderedDict\n)Rsb")
    return b"".join(out) + b".", [owner for _, owner in keys.values()]


def save_python(path, items, ordered):
    text, owners = pickle_dict(items, ordered)
    out = torch_files.ZipWriter(path, path.stem)
    out.add("data.pkl", text)
    for key in sorted(range(len(owners)), key=str):
        out.add(f"data/{key}", owners[key].array.tobytes())
    out.add("version", b"3\n")
    out.close()


def save_torch(path, items, ordered):
    import collections

    import torch

    made = {}

    def convert(x):
        if isinstance(x, int):
            return x
        owner = x.storage or x
        if id(owner) not in made:
            array = owner.array.view("<i2") if owner.dtype == "BF16" else owner.array
            tensor = torch.from_numpy(array.copy())
            made[id(owner)] = tensor.view(torch.bfloat16) if owner.dtype == "BF16" else tensor
        return made[id(owner)]

    out = {name: convert(x) for name, x in items.items()}
    torch.save(collections.OrderedDict(out) if ordered else out, path)


class Reader(pickle.Unpickler):
    """The files back, for tests: names to (dtype, shape, bytes) or integers."""

    def __init__(self, archive):
        self.zip = archive
        self.top = archive.namelist()[0].split("/")[0]
        super().__init__(archive.open(f"{self.top}/data.pkl"))

    def persistent_load(self, pid):
        _, dtype, key, _, n = pid
        data = self.zip.read(f"{self.top}/data/{key}")
        assert len(data) == n * STORAGES[dtype][1]
        return dtype, data

    def find_class(self, module, name):
        for dtype, (storage, _, _) in STORAGES.items():
            if (module, name) == ("torch", storage):
                return dtype
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild
        return super().find_class("collections", "OrderedDict")

    @staticmethod
    def rebuild(storage, offset, shape, strides, grad, hooks):
        dtype, data = storage
        assert offset == 0 and strides == torch_files.c_strides(shape)
        return dtype, tuple(shape), data


def load(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return Reader(archive).load()


# ---- hostile directories ------------------------------------------------------------


def break_tensors(rule, plain, parts, sizes):
    """Breaks one rule; `parts` are the experts of every block."""
    first = next(name for name in parts[0] if ".expert_1.wi.w_comp" in name)
    name = first.removesuffix(".w_comp")
    codes, rows, levels = (parts[0][f"{name}.{s}"].array for s in ("w_comp", "row_off", "ter_minmax"))

    def put(suffix, dtype, array):
        parts[0][f"{name}.{suffix}"] = Tensor(dtype, array)

    if rule == "codes_dtype":
        put("w_comp", "I32", codes)
    elif rule == "codes_missing":
        del parts[0][first]
        parts[0]["x.w_comp"] = Tensor("I16", codes)
    elif rule == "codes_rank":
        put("w_comp", "I16", codes[:, None])
    elif rule == "codes_short_row":
        codes[rows[3]] = 0 if codes[rows[3]] else 12
    elif rule == "codes_long_row":
        codes[rows[4] - 1] = 25
    elif rule == "dummy_full":
        put("weight", "BF16", np.zeros(1))
    elif rule == "exp_extra":
        parts[0][f"{name}.w_more"] = Tensor("I16", codes)
    elif rule == "exp_integer":
        parts[0]["epoch"] = 3
    elif rule == "exp_foreign":
        parts[0] = {n.replace(".block.", ".block.9"): t for n, t in parts[0].items()}
    elif rule == "exp_twice":
        parts[1] = parts[0]
    elif rule == "level_inf":
        levels[1] = 0x7F80
    elif rule == "level_nan":
        levels[0] = 0xFFC0
    elif rule == "levels_dtype":
        put("ter_minmax", "F32", compressed.to_float32(levels, "BF16"))
    elif rule == "levels_rank":
        put("ter_minmax", "BF16", levels.reshape(-1, 2))
    elif rule in ("levels_missing", "rows_missing"):
        suffix = "ter_minmax" if rule == "levels_missing" else "row_off"
        parts[0]["x.w_more"] = parts[0].pop(f"{name}.{suffix}")
    elif rule == "levels_length":
        put("ter_minmax", "BF16", levels[:-1])
    elif rule == "plain_dtype":
        plain["shared.weight"] = Tensor("I32", plain["shared.weight"].array)
    elif rule == "plain_integer":
        plain["epoch"] = 3
    elif rule == "plain_rank":
        plain["shared.weight"] = Tensor("BF16", np.zeros((VOCAB, D_MODEL, 1)))
    elif rule == "plain_expert":
        plain[f"{name}.codes"] = Tensor("I16", codes)
    elif rule == "plain_missing":
        del plain["encoder.final_layer_norm.weight"]
    elif rule == "plain_shape":
        old = plain["shared.weight"]
        plain["shared.weight"] = Tensor(old.dtype, old.array[1:])
    elif rule == "rows_dtype":
        put("row_off", "I16", rows)
    elif rule == "rows_huge":
        rows[3] = 2**31 - 1
    elif rule == "rows_end":
        rows[-1] -= 1
    elif rule == "rows_fall":
        rows[4] = rows[3] - 1
    elif rule == "rows_length":
        put("row_off", "I32", rows[:-1])
    elif rule == "rows_negative":
        rows[2] = -1
    elif rule == "rows_start":
        rows[0] = 1
    elif rule == "sizes_extra":
        sizes["x"] = 1
    elif rule == "sizes_missing":
        del sizes[name]
    elif rule == "sizes_renamed":
        sizes["x"] = sizes.pop(name)
    elif rule == "sizes_tensor":
        sizes["x"] = Tensor("I16", codes)
    elif rule == "sizes_negative":
        sizes[name] = -sizes[name]
    elif rule == "sizes_wrong":
        sizes[name] += 1


def break_directory(rule, out, config):
    if rule == "config_experts":
        config["num_experts"] += 1
    elif rule == "config_odd":
        config["d_ff"] -= 1
    elif rule == "config_other":
        config["model_type"] = "t5"
    elif rule == "config_dense":
        config |= {"encoder_sparse_step": 0, "decoder_sparse_step": 0}
    elif rule in ("plain_lost", "sizes_lost"):
        (out / {"plain_lost": "noexp.pt", "sizes_lost": "sizes.pt"}[rule]).unlink()
    elif rule == "plain_legacy":
        (out / "noexp.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    elif rule == "exp_short":
        (out / "exp01.pt").write_bytes((out / "exp01.pt").read_bytes()[:-1])
    elif rule == "exp_pointer":
        (out / "exp01.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif rule == "config_missing":
        (out / "config.json").unlink()
        return
    elif rule == "exp_missing":
        (out / "exp01.pt").unlink()
    elif rule == "exp_more":
        shutil.copy(out / "exp01.pt", out / "exp02.pt")
    (out / "config.json").write_text(json.dumps(config))


def make(out, like="base-128", writer="python", broken=None, seed=0):
    """Returns every tensor by name, sizes, and every expert as f32."""
    out = pathlib.Path(out)
    out.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    config = config_of(like)
    plain = plain_tensors(rng, like, config)
    parts, matrices = packed_blocks(rng, like, config)
    sizes = {n.removesuffix(".w_comp"): t.array.size for p in parts for n, t in p.items() if n.endswith(".w_comp")}
    if broken:
        break_tensors(broken, plain, parts, sizes)
    save = {"python": save_python, "torch": save_torch}[writer]
    save(out / "noexp.pt", plain, True)
    save(out / "sizes.pt", sizes, False)
    for number, tensors in enumerate(reversed(parts)):  # the names count
        save(out / f"exp{number:02}.pt", tensors, False)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    (out / "README.md").write_text("# A model card\n")
    if broken:
        break_directory(broken, out, config)
    return plain | {n: t for p in parts for n, t in p.items()}, sizes, matrices


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--like", choices=FULL, default="base-128")
    p.add_argument("--full", action="store_true", help="all blocks and experts")
    p.add_argument("--writer", choices=["python", "torch"], default="python")
    p.add_argument("--break", dest="broken", choices=sorted(BREAKS))
    p.add_argument("--spiece", help="a tokenizer file to copy beside the weights")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if a.full:
        global N_EXPERTS, N_BLOCKS
        N_EXPERTS, N_BLOCKS = FULL[a.like]
    make(a.out, a.like, a.writer, a.broken, a.seed)
    if a.spiece:
        shutil.copy(a.spiece, os.path.join(a.out, "spiece.model"))


if __name__ == "__main__":
    main()

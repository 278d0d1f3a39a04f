#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a random SwitchTransformers checkpoint of any size for tests of memory
and speed: Hugging Face layout, bf16, several shards, written as a stream.

    make_checkpoint.py OUT --d-model 256 --d-ff 512 --experts 320 --blocks 2

Needs NumPy only.  spiece.model is copied from --spiece (its vocabulary sets
vocab_size)."""

import argparse
import json
import os
import shutil
import struct

import numpy as np


def bf16(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def plain_tensors(a):
    """(name, shape, scale) of everything but the experts."""
    inner = a.heads * a.d_kv
    yield "shared.weight", (a.vocab, a.d_model), 1.0
    for stack, attentions in (("encoder", ["SelfAttention"]),
                              ("decoder", ["SelfAttention", "EncDecAttention"])):
        for i in range(a.blocks):
            for layer, attention in enumerate(attentions):
                p = f"{stack}.block.{i}.layer.{layer}"
                for m in "qkv":
                    yield f"{p}.{attention}.{m}.weight", (inner, a.d_model), a.d_model ** -0.5 * 0.3
                yield f"{p}.{attention}.o.weight", (a.d_model, inner), inner ** -0.5
                yield f"{p}.layer_norm.weight", (a.d_model,), 0.0
                if i == 0 and attention == "SelfAttention":
                    yield f"{p}.SelfAttention.relative_attention_bias.weight", (32, a.heads), 0.1
            p = f"{stack}.block.{i}.layer.{len(attentions)}"
            yield f"{p}.layer_norm.weight", (a.d_model,), 0.0
            if i % 2 == 1:
                yield f"{p}.mlp.router.classifier.weight", (a.experts, a.d_model), 0.3
            else:
                yield f"{p}.mlp.wi.weight", (a.d_ff, a.d_model), a.d_model ** -0.5
                yield f"{p}.mlp.wo.weight", (a.d_model, a.d_ff), a.d_ff ** -0.5
        yield f"{stack}.final_layer_norm.weight", (a.d_model,), 0.0


def expert_tensors(a):
    for stack, layer in (("encoder", 1), ("decoder", 2)):
        for i in range(1, a.blocks, 2):
            for e in range(a.experts):
                p = f"{stack}.block.{i}.layer.{layer}.mlp.experts.expert_{e}"
                yield f"{p}.wi.weight", (a.d_ff, a.d_model), a.d_model ** -0.5
                yield f"{p}.wo.weight", (a.d_model, a.d_ff), a.d_ff ** -0.5


def values(shape, scale, rng, pool):
    """Norm weights are ones; other values are slices of a random pool, so that
    large files are made at disk speed."""
    n = int(np.prod(shape))
    if scale == 0.0:
        return bf16(np.ones(n))
    start = int(rng.integers(0, len(pool)))
    out = np.resize(np.roll(pool, -start)[:min(n, len(pool))], n)
    return bf16(out * np.float32(scale))


def write_shard(path, tensors, rng, pool):
    header, end = {}, 0
    for name, shape, _ in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, shape, scale in tensors:
            f.write(values(shape, scale, rng, pool).tobytes())


def shards(tensors, limit):
    part, size = [], 0
    for t in tensors:
        n = 2 * int(np.prod(t[1]))
        if part and size + n > limit:
            yield part
            part, size = [], 0
        part.append(t)
        size += n
    yield part


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--spiece", default=os.path.join(os.path.dirname(__file__), "../../models/switch-mini/spiece.model"))
    for name, default in (("d-model", 256), ("d-ff", 512), ("heads", 4), ("d-kv", 64), ("experts", 16),
                          ("blocks", 2), ("vocab", 2112), ("seed", 0), ("shard-mb", 1000)):
        p.add_argument("--" + name, type=int, default=default)
    a = p.parse_args()
    os.makedirs(a.out)
    rng = np.random.default_rng(a.seed)
    pool = rng.standard_normal(1 << 22).astype(np.float32)
    parts = list(shards(list(plain_tensors(a)) + list(expert_tensors(a)), a.shard_mb * 1000000))
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for k, part in enumerate(parts, 1):
        file = f"model-{k:05d}-of-{len(parts):05d}.safetensors"
        write_shard(os.path.join(a.out, file), part, rng, pool)
        index["weight_map"].update({t[0]: file for t in part})
    with open(os.path.join(a.out, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f)
    config = {"model_type": "switch_transformers", "architectures": ["SwitchTransformersForConditionalGeneration"],
              "vocab_size": a.vocab, "d_model": a.d_model, "d_kv": a.d_kv, "d_ff": a.d_ff, "num_heads": a.heads,
              "num_layers": a.blocks, "num_decoder_layers": a.blocks, "encoder_sparse_step": 2,
              "decoder_sparse_step": 2, "num_sparse_encoder_layers": a.blocks // 2,
              "num_sparse_decoder_layers": a.blocks // 2, "num_experts": a.experts, "dense_act_fn": "relu",
              "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "tie_word_embeddings": True,
              "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "torch_dtype": "bfloat16"}
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    shutil.copy(a.spiece, os.path.join(a.out, "spiece.model"))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares an import of a GGUF file of architecture llama (without experts)
with what the package gguf reads: every tensor bit for bit, tokens, merges,
chat template.

    python tests/tools/compare_gguf.py FILE.gguf DIR    # needs gguf and numpy
"""

import json
import pathlib
import sys

import gguf
import numpy as np

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def stored(directory):
    for path in sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(n))
        data = np.memmap(path, np.uint8, "r", 8 + n)
        for name, t in header.items():
            if name != "__metadata__":
                assert t["dtype"] == "F32", "imported with the default dtype"
                yield name, data[slice(*t["data_offsets"])].view(np.uint32).reshape(t["shape"])


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    directory = pathlib.Path(sys.argv[2])
    value = lambda key: reader.fields[key].contents()
    heads = {"attn_q": value("llama.attention.head_count"), "attn_k": value("llama.attention.head_count_kv")}
    tensors = dict(stored(directory))
    for t in reader.tensors:
        *block, name, _ = t.name.split(".")
        x = gguf.quants.dequantize(t.data, t.tensor_type)
        if name in heads:  # rows of the two halves of a head alternate
            x = x.reshape(heads[name], -1, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        found = tensors.pop(f"model.layers.{block[1]}.{NAMES[name]}.weight" if block else NAMES[name] + ".weight")
        assert found.shape == x.shape and (found == x.view(np.uint32)).all(), t.name
    assert not tensors, tensors.keys()
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert tokenizer["model"]["vocab"] == {token: i for i, token in enumerate(tokens)}
    assert tokenizer["model"]["merges"] == value("tokenizer.ggml.merges")
    assert [(t["id"], t["content"], t["special"]) for t in tokenizer["added_tokens"]] == [
        (i, tokens[i], kind != 4) for i, kind in enumerate(kinds) if kind in (2, 3, 4)]
    config = json.loads((directory / "tokenizer_config.json").read_text())
    assert config["chat_template"] == value("tokenizer.chat_template")
    print(f"equal: {len(reader.tensors)} tensors bit for bit, {len(tokens)} tokens, "
          f"{len(tokenizer['model']['merges'])} merges, chat template")
    return 0


if __name__ == "__main__":
    sys.exit(main())

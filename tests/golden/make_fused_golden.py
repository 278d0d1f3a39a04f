#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes decoders/mixtral-fused from decoders/mixtral (README.md).

The same weights as transformers 5 keeps them: the experts of a block in two
tensors, "mlp" instead of "block_sparse_moe", new keys in config.json; and what
transformers 5 computes with them.  Made with torch 2.8.0, transformers 5.24.0.
"""

import os

os.environ.setdefault("ATEN_CPU_CAPABILITY", "default")

import pathlib
import shutil

import safetensors.torch
import torch
import transformers

torch.set_num_threads(1)

HERE = pathlib.Path(__file__).resolve().parent / "decoders"


def open_model(directory, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager").eval()


def main():
    source, target = HERE / "mixtral", HERE / "mixtral-fused"
    vectors = safetensors.torch.load_file(source / "golden.safetensors")
    shutil.rmtree(target, ignore_errors=True)
    open_model(source, torch.bfloat16).save_pretrained(
        target, save_original_format=False)
    (target / "generation_config.json").unlink(missing_ok=True)
    model = open_model(target, torch.float32)
    with torch.no_grad():
        logits = model(vectors["case0.ids"][None].long()).logits[0]
        out = model.generate(
            vectors["greedy0.ids"][None].long(), do_sample=False,
            max_new_tokens=len(vectors["greedy0.output_ids"]))[0]
    print("distance from transformers 4.57:",
          (logits - vectors["case0.logits"]).abs().max().item())
    vectors["case0.logits"] = logits.contiguous()
    vectors["greedy0.output_ids"] = \
        out[len(vectors["greedy0.ids"]):].int().contiguous()
    safetensors.torch.save_file(vectors, target / "golden.safetensors")


main()

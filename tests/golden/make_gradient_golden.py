#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes gradients of PyTorch's autograd for the tiny decoder-only models
(README.md): decoders/<name>/gradients.safetensors.

The loss is the sum of cross entropies of the next tokens of case0.ids.  For
each matrix: the sum over tokens of the squared gradient of each output, under
the name of the weight; for each norm: the gradient of its weight.  Made with
torch 2.8.0, transformers 4.57.6.
"""

import os

os.environ.setdefault("ATEN_CPU_CAPABILITY", "default")

import pathlib

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent / "decoders"
NAMES = ("llama", "llama-dynamic", "llama-longrope", "mistral", "qwen2", "qwen3",
         "olmoe", "mixtral", "qwen2-moe", "qwen3-moe")


def gradients(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    ids = safetensors.torch.load_file(directory / "golden.safetensors")["case0.ids"]
    ids = ids.long().reshape(1, -1)
    out = {}

    def watch(name):
        def hook(module, given, wanted):
            d_y = wanted[0].reshape(-1, wanted[0].shape[-1]).double()
            out[name] = out.get(name, 0) + (d_y ** 2).sum(0)
        return hook

    for name, module in model.named_modules():
        # qmoe applies the gate of a shared expert before its last product, so
        # that the gradient there is that of the whole block's result.
        if name.endswith("shared_expert.down_proj"):
            model.get_submodule(name.removesuffix(".shared_expert.down_proj")) \
                .register_full_backward_hook(watch(name + ".weight"))
        elif isinstance(module, torch.nn.Linear):
            module.register_full_backward_hook(watch(name + ".weight"))
    logits = model(ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            out[name] = parameter.grad
    out["loss"] = loss.detach().reshape(1)
    return {name: value.float().contiguous() for name, value in sorted(out.items())}


def main():
    torch.set_num_threads(1)
    for name in NAMES:
        values = gradients(HERE / name)
        safetensors.torch.save_file(values, HERE / name / "gradients.safetensors")
        print(name, len(values), float(values["loss"]))


if __name__ == "__main__":
    main()

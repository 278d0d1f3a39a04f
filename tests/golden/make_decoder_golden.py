#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tiny decoder-only models and vectors of transformers (README.md).

Everything is drawn from fixed seeds.  Prompts that leave the choice of an
expert or of a greedy token nearly tied are drawn again: rounding differences
must not be able to flip them.  Made with torch 2.8.0, transformers 4.57.6.
"""

import os

os.environ.setdefault("ATEN_CPU_CAPABILITY", "default")

import json
import pathlib
import shutil

import safetensors.torch
import torch
import transformers

torch.set_num_threads(1)

HERE = pathlib.Path(__file__).resolve().parent / "decoders"
VOCAB, N_CASE, N_PROMPT, N_NEW, N_DRAWS = 96, 44, 7, 12, 400
ROUTER_MARGIN, LOGIT_MARGIN = 2e-3, 5e-3

COMMON = dict(vocab_size=VOCAB, max_position_embeddings=64, bos_token_id=1,
              eos_token_id=2, pad_token_id=0, initializer_range=0.12,
              use_cache=True)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=16)


def longrope(pairs):
    return dict(rope_type="longrope", factor=4.0, short_factor=[1.0 + 0.05 * i for i in range(pairs)],
                long_factor=[2.0 + 0.3 * i for i in range(pairs)])


# name: (class, config).  Shapes: each trap of its family once.
MODELS = {
    "llama": ("Llama", dict(hidden_size=64, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=88, attention_bias=True, mlp_bias=True,
              rope_scaling=LLAMA3)),
    "llama-dynamic": ("Llama", dict(hidden_size=32, num_hidden_layers=2,
              num_attention_heads=2, num_key_value_heads=1,
              intermediate_size=48, tie_word_embeddings=True,
              max_position_embeddings=16,
              rope_scaling=dict(rope_type="dynamic", factor=2.0))),
    "llama-longrope": ("Llama", dict(hidden_size=32, num_hidden_layers=2,
              num_attention_heads=2, num_key_value_heads=2,
              intermediate_size=48, original_max_position_embeddings=16,
              rope_scaling=longrope(8))),
    "mistral": ("Mistral", dict(hidden_size=48, num_hidden_layers=2,
              num_attention_heads=6, num_key_value_heads=2, head_dim=12,
              intermediate_size=40, sliding_window=5)),
    "qwen2": ("Qwen2", dict(hidden_size=48, num_hidden_layers=3,
              num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=56, tie_word_embeddings=True,
              use_sliding_window=True, sliding_window=7,
              max_window_layers=1)),
    "qwen3": ("Qwen3", dict(hidden_size=64, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=1, head_dim=24,
              intermediate_size=72, rope_scaling=YARN)),
    "olmoe": ("Olmoe", dict(hidden_size=64, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=4,
              intermediate_size=24, num_experts=8, num_experts_per_tok=3,
              norm_topk_prob=False)),
    "mixtral": ("Mixtral", dict(hidden_size=48, num_hidden_layers=2,
              num_attention_heads=6, num_key_value_heads=2,
              intermediate_size=40, num_local_experts=5,
              num_experts_per_tok=2, sliding_window=None,
              rope_scaling=dict(rope_type="linear", factor=2.0))),
    "qwen2-moe": ("Qwen2Moe", dict(hidden_size=48, num_hidden_layers=3,
              num_attention_heads=4, num_key_value_heads=2,
              intermediate_size=64, moe_intermediate_size=24,
              shared_expert_intermediate_size=40, num_experts=6,
              num_experts_per_tok=4, decoder_sparse_step=2,
              mlp_only_layers=[0], norm_topk_prob=False)),
    "qwen3-moe": ("Qwen3Moe", dict(hidden_size=64, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2, head_dim=24,
              intermediate_size=96, moe_intermediate_size=40, num_experts=9,
              num_experts_per_tok=2, decoder_sparse_step=1,
              norm_topk_prob=True)),
}


def make(name, kind, own, seed):
    torch.manual_seed(seed)
    config = getattr(transformers, kind + "Config")(**{**COMMON, **own})
    config._attn_implementation = "eager"
    model = getattr(transformers, kind + "ForCausalLM")(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value.copy_(1 + 0.3 * torch.randn_like(value))
            elif key.endswith("bias"):
                value.copy_(0.3 * torch.randn_like(value))
            elif "embed" in key or "lm_head" in key:
                value.copy_(0.6 * torch.randn_like(value))
            elif value.dim() == 2 and value.shape[0] == getattr(
                    config, "num_experts",
                    getattr(config, "num_local_experts", -1)):
                value.copy_(0.5 * torch.randn_like(value))
            value.copy_(value.to(torch.bfloat16).float())
    model.eval()
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    # Opened anew: the frequencies of positions were rounded with the weights.
    return type(model).from_pretrained(
        directory, torch_dtype=torch.float32,
        attn_implementation="eager").eval(), directory


def forward(model, ids):
    """Logits, and the least gap at the edge of a router's choice."""
    gaps = []

    def hook(module, inputs, output):
        logits = output[0] if isinstance(output, tuple) else output
        best = logits.float().sort(-1, descending=True).values
        k = model.config.num_experts_per_tok
        gaps.append((best[..., k - 1] - best[..., k]).min().item())

    handles = [m.register_forward_hook(hook)
               for n, m in model.named_modules() if n.endswith(".gate")]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    for handle in handles:
        handle.remove()
    return logits, min(gaps, default=1)


def draw_case(model, generator):
    for _ in range(N_DRAWS):
        ids = torch.randint(3, VOCAB, (N_CASE,), generator=generator).tolist()
        logits, gap = forward(model, ids)
        if gap > ROUTER_MARGIN:
            return ids, logits
    raise SystemExit("no case without a tie")


def continue_greedily(model, ids):
    """None when a choice is nearly tied."""
    out = []
    for _ in range(N_NEW):
        logits, gap = forward(model, ids + out)
        best = logits[-1].sort(descending=True)
        if gap < ROUTER_MARGIN / 4 or \
                best.values[0] - best.values[1] < LOGIT_MARGIN:
            return None
        out.append(best.indices[0].item())
        if out[-1] == model.config.eos_token_id:
            break
    return out


def draw_prompt(model, generator):
    for _ in range(N_DRAWS):
        ids = torch.randint(
            3, VOCAB, (N_PROMPT,), generator=generator).tolist()
        out = continue_greedily(model, ids)
        if out is not None and len(set(out)) > 1:
            return ids, out
    raise SystemExit("no prompt without a tie")


def main():
    for number, (name, (kind, own)) in enumerate(MODELS.items()):
        model, directory = make(name, kind, own, 100 + number)
        generator = torch.Generator().manual_seed(200 + number)
        ids, logits = draw_case(model, generator)
        vectors = {"case0.ids": torch.tensor(ids, dtype=torch.int32),
                   "case0.logits": logits.contiguous()}
        # Which frequencies count depends on the length there, and greedy steps
        # of transformers mix both kinds in one cache.
        if name not in ("llama-dynamic", "llama-longrope"):
            prompt, out = draw_prompt(model, generator)
            vectors["greedy0.ids"] = torch.tensor(prompt, dtype=torch.int32)
            vectors["greedy0.output_ids"] = torch.tensor(
                out, dtype=torch.int32)
        safetensors.torch.save_file(vectors, directory / "golden.safetensors")
        config = json.loads((directory / "config.json").read_text())
        print(name, config["model_type"],
              sum(p.numel() for p in model.parameters()),
              f"range {logits.min():.2f}..{logits.max():.2f}")


main()

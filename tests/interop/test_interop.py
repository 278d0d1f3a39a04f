#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compressed models as the rest of the world sees them.

Runs the built tool on real checkpoints, opens the result with the safetensors
and xxhash packages, decodes it with the NumPy code of compressed.py and
compares with rounding to nearest written here.

    QMOE=build/qmoe python tests/interop/test_interop.py
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import safetensors
import xxhash

import compressed
from test_gguf import GgufTest  # noqa: F401 (run below)
from test_published import DequantizeTest, PublishedTest  # noqa: F401 (run below)
from test_tlut import TlutTest  # noqa: F401 (run below)

ROOT = pathlib.Path(__file__).resolve().parents[2]
QMOE = os.environ.get("QMOE", str(ROOT / "build" / "qmoe"))
CODES_PER_MATRIX = 3
BITS_PER_BYTE = 8
SWITCH_MINI = ROOT / "models" / "switch-mini"


def sources():
    """Checkpoints to compress: the embedded model and the golden ones."""
    yield SWITCH_MINI
    for config in sorted((ROOT / "tests" / "golden").glob("*/config.json")):
        if list(config.parent.glob("*.safetensors.index.json")) or (
            config.parent / "model.safetensors"
        ).exists():
            yield config.parent


def run(*arguments):
    """Output of the tool, which must succeed."""
    result = subprocess.run(
        [QMOE, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise AssertionError(f"qmoe {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


def round_to_nearest(weights):
    """Codes and bf16 levels of the paper's min / max ternary, row by row."""
    low = np.minimum(weights.min(axis=1, keepdims=True), 0)
    high = np.maximum(weights.max(axis=1, keepdims=True), 0)
    levels = compressed.to_bfloat16(np.concatenate([low, high], axis=1))
    codes = np.zeros(weights.shape, np.uint8)
    codes[(weights < low / 2) & (levels[:, :1] & 0x7FFF != 0)] = 1
    codes[(weights > high / 2) & (levels[:, 1:] & 0x7FFF != 0)] = 2
    return codes, levels


class Model:
    """A checkpoint, what qmoe made of it, and what Python reads from both."""

    def __init__(self, source, target, *options):
        self.source, self.target = source, target
        run(
            *("compress", source, "-o", target, "--no-tokenizer"),
            *("--method", "rtn", "--format", "ternary-dict"),
            *options,
        )
        self.files = sorted(target.glob("*.safetensors"))
        self.original = compressed.read_directory(source)
        self.tensors = compressed.read_directory(target)
        self.stacks = list(compressed.stacks(target, self.tensors))
        self.config = json.loads((target / "config.json").read_text())
        self.quantization = self.config["quantization_config"]


class InteropTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        target = pathlib.Path(cls.directory.name)
        cls.models = [Model(path, target / path.name) for path in sources()]
        # A dictionary made for this model instead of the paper's.
        cls.models.append(Model(SWITCH_MINI, target / "fit", "--dict", "fit"))

    def each_model(self):
        for model in self.models:
            with self.subTest(model=model.target.name):
                yield model

    def test_dictionary_is_the_published_one(self):
        self.assertEqual(
            compressed.dictionary_sha256(compressed.GENERIC_P0),
            compressed.DICTIONARY_SHA256,
        )

    def test_fitted_dictionary_is_another(self):
        p0 = {stack.p0 for stack in self.models[-1].stacks}
        self.assertEqual(len(p0), 1)
        self.assertNotEqual(p0, {compressed.GENERIC_P0})

    def test_safetensors_opens_every_shard(self):
        for model in self.each_model():
            self.assertGreaterEqual(len(model.files), 2)
            n_tensors = 0
            for path in model.files:
                with safetensors.safe_open(path, "np") as file:
                    n_tensors += len(file.keys())
                    for name in file.keys():
                        shape = file.get_slice(name).get_shape()
                        self.assertEqual(shape, list(model.tensors[name][1].shape))
            self.assertEqual(n_tensors, len(model.tensors))

    def test_every_matrix_is_the_rounded_one(self):
        for model in self.each_model():
            n_matrices = 0
            for stack in model.stacks:
                for mat in range(stack.n_mats):
                    name = compressed.expert_name(stack, mat)
                    dtype, bits = model.original[name]
                    weights = compressed.to_float32(bits, dtype)
                    codes, levels = round_to_nearest(weights)
                    np.testing.assert_array_equal(
                        stack.weight_codes(mat), codes, err_msg=name
                    )
                    np.testing.assert_array_equal(
                        stack.levels[mat], levels, err_msg=name
                    )
                    n_matrices += 1
            experts = [name for name in model.original if ".expert_" in name]
            self.assertEqual(n_matrices, len(experts))
            self.assertGreater(n_matrices, 0)

    def test_a_changed_codeword_is_noticed(self):
        """The comparison above can fail."""
        stack = self.models[0].stacks[0]
        name = compressed.expert_name(stack, 0)
        dtype, bits = self.models[0].original[name]
        weights = compressed.to_float32(bits, dtype).copy()
        weights[1, 2] = 2 * np.abs(weights).max()
        codes, _ = round_to_nearest(weights)
        self.assertFalse(np.array_equal(stack.weight_codes(0), codes))

    def test_other_tensors_are_copied(self):
        for model in self.each_model():
            plain = {name for name in model.original if ".expert_" not in name}
            parts = {n for s in model.stacks for n in model.tensors if s.name in n}
            self.assertEqual(plain | parts, set(model.tensors))
            for name in plain:
                dtype, array = model.original[name]
                copied_dtype, copied = model.tensors[name]
                self.assertEqual(copied_dtype, dtype, name)
                self.assertEqual(copied.shape, array.shape, name)
                self.assertEqual(copied.tobytes(), array.tobytes(), name)

    def test_checksums(self):
        for model in self.each_model():
            for path in model.files:
                with safetensors.safe_open(path, "np") as file:
                    metadata = file.metadata()
                for name, (_, array) in compressed.read_file(path).items():
                    self.assertEqual(
                        metadata[f"xxh3:{name}"],
                        xxhash.xxh3_64_hexdigest(array.tobytes()),
                        name,
                    )

    def test_header_checksums_and_sizes(self):
        for model in self.each_model():
            listed = model.quantization["files"]
            shards = {name for name, entry in listed.items() if "header_xxh3" in entry}
            self.assertEqual(shards, {path.name for path in model.files})
            for path in model.files:
                data = path.read_bytes()
                header = data[: 8 + int.from_bytes(data[:8], "little")]
                entry = listed[path.name]
                self.assertEqual(entry["bytes"], len(data))
                self.assertEqual(
                    entry["header_xxh3"], xxhash.xxh3_64_hexdigest(header)
                )
                self.assertEqual(len(header) % 64, 0)

    def test_digests(self):
        for model in self.each_model():
            self.assertEqual(compressed.broken_files(model.target), [])

    def test_a_changed_byte_breaks_a_digest(self):
        """The digests above can be wrong."""
        model = self.models[0].target
        for path in sorted(model.iterdir()):
            data = path.read_bytes()
            # Of a shard a byte of the header, which the file begins with; of
            # config.json one that leaves it JSON.
            at = 20 if path.suffix == ".safetensors" else len(data) // 2
            if path.name == "config.json":
                at = data.index(b"created_by")
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            broken = compressed.broken_files(model)
            path.write_bytes(data)
            self.assertEqual(broken, [path.name])
        self.assertEqual(compressed.broken_files(model), [])

    def test_index(self):
        for model in self.each_model():
            index = json.loads(
                (model.target / "model.safetensors.index.json").read_text()
            )
            self.assertEqual(
                index["weight_map"],
                {n: p.name for p in model.files for n in compressed.read_file(p)},
            )
            self.assertGreater(index["metadata"]["total_size"], 0)

    def test_config_keeps_the_source(self):
        for model in self.each_model():
            original = json.loads((model.source / "config.json").read_text())
            config = dict(model.config)
            quantization = config.pop("quantization_config")
            self.assertEqual(config, original)
            self.assertEqual(quantization["quant_method"], "qmoe")
            self.assertEqual(quantization["version"], 1)
            self.assertEqual(quantization["format"], "ternary-dict")
            self.assertEqual(quantization["method"], "rtn")

    def test_tokenizer_is_copied(self):
        for model in self.each_model():
            original = model.source / "spiece.model"
            copy = model.target / "spiece.model"
            self.assertEqual(copy.exists(), original.exists())
            if original.exists():
                self.assertEqual(copy.read_bytes(), original.read_bytes())

    def test_inspect_counts_every_byte(self):
        for model in self.each_model():
            report = json.loads(run("inspect", model.target, "--json"))
            listed = {w["name"]: w for w in report["weights"]}
            n_bytes = n_weights = 0
            for stack in model.stacks:
                parts = [
                    array.nbytes
                    for name, (_, array) in model.tensors.items()
                    if name.startswith(stack.name + ".")
                ]
                weights = stack.n_mats * stack.n_rows * stack.n_cols
                entry = listed[stack.name]
                self.assertEqual(entry["bytes"], sum(parts))
                self.assertEqual(entry["n_weights"], weights)
                self.check_shares(stack, entry)
                n_bytes += sum(parts)
                n_weights += weights
            self.assertAlmostEqual(
                report["bits_per_expert_weight"],
                BITS_PER_BYTE * n_bytes / n_weights,
                places=9,
            )
            # Tensor data of all shards: nothing is left out, nothing counted
            # twice.
            data = sum(array.nbytes for _, array in model.tensors.values())
            self.assertEqual(sum(w["bytes"] for w in listed.values()), data)

    def check_shares(self, stack, entry):
        counts = np.zeros(CODES_PER_MATRIX)
        for mat in range(stack.n_mats):
            counts += np.bincount(
                stack.weight_codes(mat).ravel(), minlength=CODES_PER_MATRIX
            )
        shares = counts[counts > 0] / counts.sum()
        self.assertAlmostEqual(entry["zeros"], counts[0] / counts.sum(), places=9)
        self.assertAlmostEqual(
            entry["entropy"], -(shares * np.log2(shares)).sum(), places=6
        )

    def test_dequantized_file_has_the_original_names(self):
        source, model = self.models[0].original, self.models[0].target
        out = model.parent / "dequantized.safetensors"
        script = pathlib.Path(__file__).with_name("dequantize.py")
        subprocess.run(
            [sys.executable, script, model, out],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with safetensors.safe_open(out, "np") as file:
            names = set(file.keys())
            self.assertEqual(names, {n for n in source if ".expert_" in n})
            for name in names:
                self.assertEqual(
                    tuple(file.get_slice(name).get_shape()), source[name][1].shape
                )


if __name__ == "__main__":
    unittest.main(verbosity=2)

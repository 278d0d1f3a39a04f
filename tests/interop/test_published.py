# SPDX-License-Identifier: Apache-2.0
"""Import of published compressed directories, export of both layouts, and
directories that break a rule.  Run by test_interop.py."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import compressed

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))
import make_published  # noqa: E402

QMOE = os.environ.get("QMOE", str(ROOT / "build" / "qmoe"))
SWITCH_MINI = ROOT / "models" / "switch-mini"
LIKES = ("base-128", "large-128", "c-2048")

try:
    import torch
except ImportError:
    torch = None


def qmoe(*arguments, address_space=None):
    """address_space: bytes it may reserve."""

    def limit():
        if address_space:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    return subprocess.run(
        [QMOE, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, preexec_fn=limit,
    )


def run(*arguments):
    result = qmoe(*arguments)
    if result.returncode != 0:
        raise AssertionError(f"qmoe {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


class Scratch(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)


class PublishedTest(Scratch):
    def round_trip(self, like, writer):
        source, ours, back = (self.path / n for n in ("published", "ours", "back"))
        tensors, sizes, matrices = make_published.make(source, like, writer)
        report = json.loads(run("import", source, "-o", ours, "--json"))
        self.assertEqual(report["matrices"], len(matrices))
        run("verify", ours)
        self.check_ours(ours, tensors, matrices)
        run("export", ours, "-o", back, "--layout", "qmoe")
        self.check_published(back, tensors, sizes)
        self.assertEqual(json.loads((back / "config.json").read_text()), make_published.config_of(like))

    def check_ours(self, ours, tensors, matrices):
        """Codewords bit for bit, and what they decode to."""
        stored = compressed.read_directory(ours)
        seen = 0
        for stack in compressed.stacks(ours, stored):
            for mat in range(stack.n_mats):
                name = compressed.expert_name(stack, mat).removesuffix(".weight")
                begin, end = stack.expert_offsets[mat], stack.expert_offsets[mat + 1]
                parts = {
                    "w_comp": stack.codes[begin:end],
                    "row_off": stack.row_offsets[mat],
                    "ter_minmax": stack.levels[mat],
                }
                for suffix, array in parts.items():
                    self.assertEqual(array.tobytes(), tensors[f"{name}.{suffix}"].array.tobytes(), name)
                np.testing.assert_array_equal(stack.matrix(mat), matrices[name], err_msg=name)
                seen += 1
        self.assertEqual(seen, len(matrices))

    def check_published(self, back, tensors, sizes):
        files = sorted(path.name for path in back.glob("*.pt"))
        self.assertEqual(make_published.load(back / "sizes.pt"), sizes)
        found = {}
        for file in set(files) - {"sizes.pt"}:
            found |= make_published.load(back / file)
        self.assertEqual(set(found), set(tensors))
        for name, (dtype, shape, data) in found.items():
            self.assertEqual(dtype, tensors[name].dtype, name)
            self.assertEqual(shape, tensors[name].array.shape, name)
            self.assertEqual(data, tensors[name].array.tobytes(), name)

    def test_round_trip_keeps_every_bit(self):
        for like in LIKES:
            with self.subTest(like=like):
                self.round_trip(like, "python")
                self.setUp()

    @unittest.skipIf(torch is None, "PyTorch is not installed")
    def test_round_trip_of_files_of_torch(self):
        for like in LIKES:
            with self.subTest(like=like):
                self.round_trip(like, "torch")
                self.setUp()

    @unittest.skipIf(torch is None, "PyTorch is not installed")
    def test_torch_reads_what_is_exported(self):
        source, ours, back = (self.path / n for n in ("published", "ours", "back"))
        tensors, sizes, _ = make_published.make(source)
        run("import", source, "-o", ours)
        run("export", ours, "-o", back, "--layout", "qmoe")
        self.assertEqual(torch.load(back / "sizes.pt", weights_only=True), sizes)
        for file in sorted(back.glob("*.pt")):
            if file.name == "sizes.pt":
                continue
            for name, tensor in torch.load(file, weights_only=True).items():
                self.assertTrue(tensor.is_contiguous())
                raw = tensor.view(torch.uint8) if tensor.numel() else tensor
                self.assertEqual(raw.numpy().tobytes() if tensor.numel() else b"", tensors[name].array.tobytes())

    def test_every_broken_rule_is_named(self):
        for rule, (code, text) in make_published.BREAKS.items():
            with self.subTest(rule=rule):
                source, out = self.path / rule, self.path / "out"
                make_published.make(source, broken=rule)
                result = qmoe("import", source, "-o", out, address_space=1 << 30)
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertEqual(result.stdout, "")
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertIn(text, result.stderr)
                self.assertFalse(out.exists())
                self.assertFalse(pathlib.Path(f"{out}.partial").exists())

    def test_recoded_import(self):
        source, out = self.path / "published", self.path / "out"
        _, _, matrices = make_published.make(source)
        for format_name in ("pvq", "q2"):
            report = json.loads(run("import", source, "-o", out, "--format", format_name, "--force", "--json"))
            self.assertGreater(report["weight_error"], 0)
            self.assertLess(report["weight_error"], 1)
            run("verify", out)
            plain = self.path / "plain"
            run("export", out, "-o", plain, "--dequantize", "--dtype", "f32", "--force")
            stored = compressed.read_directory(plain)
            errors = []
            for name, matrix in matrices.items():
                decoded = stored[f"{name}.weight"][1]
                errors.append(((decoded - matrix) ** 2).sum() / (matrix**2).sum())
            self.assertAlmostEqual(np.mean(errors), report["weight_error"], places=3)


class DequantizeTest(Scratch):
    def compress(self, format_name):
        out = self.path / format_name
        run("compress", SWITCH_MINI, "-o", out, "--method", "rtn", "--format", format_name)
        return out

    def export(self, model, *options):
        out = self.path / "plain"
        run("export", model, "-o", out, "--dequantize", "--force", *options)
        return out, compressed.read_directory(out)

    def test_ternary_is_exact(self):
        model = self.compress("ternary-dict")
        original = compressed.read_directory(SWITCH_MINI)
        for dtype, name in (("BF16", "bf16"), ("F32", "f32")):
            _, stored = self.export(model, "--dtype", name)
            self.assertEqual(set(stored), set(original))
            for stack in compressed.stacks(model):
                for mat in range(stack.n_mats):
                    got, bits = stored[compressed.expert_name(stack, mat)]
                    self.assertEqual(got, dtype)
                    np.testing.assert_array_equal(compressed.to_float32(bits, got), stack.matrix(mat))
            for tensor, (kind, bits) in original.items():
                if ".expert_" not in tensor:
                    got = compressed.to_float32(stored[tensor][1], dtype)
                    np.testing.assert_array_equal(got, compressed.to_float32(bits, kind))

    def test_bf16_is_the_f32_rounded(self):
        for format_name in ("pvq", "pvq8", "q2"):
            model = self.compress(format_name)
            _, exact = self.export(model, "--dtype", "f32")
            _, rounded = self.export(model)
            for name, (dtype, values) in exact.items():
                self.assertEqual(dtype, "F32")
                np.testing.assert_array_equal(rounded[name][1], compressed.to_bfloat16(values), err_msg=name)

    def test_shards_and_config(self):
        out, stored = self.export(self.compress("pvq"), "--shard-size", "4M")
        index = json.loads((out / "model.safetensors.index.json").read_text())
        self.assertEqual(set(index["weight_map"]), set(stored))
        files = set(index["weight_map"].values())
        self.assertEqual(files, {path.name for path in out.glob("*.safetensors")})
        self.assertGreater(len(files), 4)
        for file in files:
            self.assertLess((out / file).stat().st_size, 4.2e6)
        total = sum(array.nbytes for _, array in stored.values())
        self.assertEqual(index["metadata"]["total_size"], total)
        config = json.loads((out / "config.json").read_text())
        original = json.loads((SWITCH_MINI / "config.json").read_text())
        self.assertEqual(config, original | {"torch_dtype": "bfloat16"})
        self.assertEqual((out / "spiece.model").read_bytes(), (SWITCH_MINI / "spiece.model").read_bytes())

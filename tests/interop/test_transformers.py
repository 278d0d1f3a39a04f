#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library against PyTorch and Hugging Face's own code, where they are
installed: losses, golden vectors made anew, files of torch.save.

    python tests/interop/test_transformers.py [BUILD]
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
MINI = ROOT / "models" / "switch-mini"
SAMPLES = ["--samples", "12"]


def run(*command):
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def python(script, *arguments):
    return run(sys.executable, ROOT / "tests" / script, *arguments)


class LossTest(unittest.TestCase):
    text = BUILD / "corpus" / "valid.txt"

    def compare(self, model, *dequantized):
        source = ["--text", self.text, *SAMPLES, "--json"]
        ours = json.loads(run(BUILD / "qmoe", "eval", model, *source))
        theirs = json.loads(python("golden/hf_loss.py", MINI, *source, *dequantized))
        self.assertEqual(theirs["n_samples"], 12)
        self.assertAlmostEqual(ours["loss"], theirs["loss"], delta=1e-5)

    def test_original(self):
        self.compare(MINI)

    def test_compressed(self):
        with tempfile.TemporaryDirectory() as folder:
            model, plain = f"{folder}/m", f"{folder}/m.safetensors"
            options = ["--method", "rtn", "--format", "ternary-dict"]
            run(BUILD / "qmoe", "compress", *options, MINI, "-o", model)
            python("interop/dequantize.py", model, plain)
            self.compare(model, "--dequantized", plain)


class GoldenTest(unittest.TestCase):
    def test_made_anew(self):
        """The vectors in the repository are what the code computes."""
        with tempfile.TemporaryDirectory() as folder:
            python("golden/make_golden.py", "tied", "--out", folder)
            made = load_file(f"{folder}/tied/golden.safetensors")
        kept = load_file(ROOT / "tests" / "golden" / "tied" / "golden.safetensors")
        self.assertEqual(made.keys(), kept.keys())
        for name, value in kept.items():
            np.testing.assert_allclose(made[name], value, rtol=0, atol=1e-4)


class TorchFilesTest(unittest.TestCase):
    def test_zoo(self):
        python("tools/torch_zoo.py", BUILD)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)

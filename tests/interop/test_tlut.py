# SPDX-License-Identifier: Apache-2.0
"""Models in the formats "tlut-*", written here: what qmoe decodes is what
tlut.py decodes, bit for bit, and what section 9.6 of docs/format.md lists is
refused.  Run by test_interop.py."""

import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
import xxhash

import compressed
import tlut
from test_published import SWITCH_MINI, Scratch, make_published, qmoe, run

# Rows fill no tiles, columns no groups.
D_FF = 150
LARGE = 0x5E00  # 2^61


def write_model(directory, config, entries, tensors):
    """A compressed model of one shard with every digest of sections 2 and 3."""
    directory.mkdir(exist_ok=True)
    header, data = {"__metadata__": {"format": "qmoe"}}, b""
    for name, (dtype, array) in tensors.items():
        raw = array.tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        header["__metadata__"][f"xxh3:{name}"] = xxhash.xxh3_64_hexdigest(raw)
        data += raw
    text = json.dumps(header).encode()
    head = len(text).to_bytes(8, "little") + text
    (directory / "model.safetensors").write_bytes(head + data)
    file = {"bytes": len(head) + len(data), "header_xxh3": xxhash.xxh3_64_hexdigest(head)}
    q = {
        "quant_method": "qmoe", "version": 1, "tensors": entries, "files": {"model.safetensors": file},
        "config_xxh3": "0" * 16,
    }
    text = json.dumps(config | {"quantization_config": q})
    digest = xxhash.xxh3_64_hexdigest(text.encode())
    (directory / "config.json").write_text(text.replace(f'"{"0" * 16}"', f'"{digest}"'))


def random_scales(rng, shape):
    """bf16 bits of either sign, from 2^-60 to 2^60 here and there."""
    exponents = rng.integers(120, 134, shape)
    wide = rng.random(shape) < 0.02
    exponents[wide] = rng.integers(67, 188, shape)[wide]
    return (rng.integers(0, 2, shape) << 15 | exponents << 7 | rng.integers(0, 128, shape)).astype("<u2")


def make_model(source):
    """(config, entries, tensors): every rate in turn, every second stack rotated."""
    rng = np.random.default_rng(9)
    config = json.loads((source / "config.json").read_text())
    old = config.pop("quantization_config")["tensors"]
    tensors = {
        name: tensor
        for name, tensor in compressed.read_directory(source).items()
        if name.rsplit(".", 1)[0] not in old
    }
    entries = {}
    for i, (name, stack) in enumerate(old.items()):
        entry = {"format": list(tlut.RATES)[i % len(tlut.RATES)], "shape": stack["shape"]}
        if i % 3:
            entry |= {"rotation": 64 << i % 3, "rotation_seed": 2**32 - i}
        for suffix, (dtype, shape) in tlut.part_shapes(entry).items():
            random = rng.integers(0, 256, shape, np.uint8) if dtype == "U8" else random_scales(rng, shape)
            tensors[f"{name}.{suffix}"] = (dtype, random)
        entries[name] = entry
    return config, entries, tensors


class TlutTest(Scratch):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as scratch:
            published, source = (pathlib.Path(scratch) / n for n in ("published", "source"))
            with mock.patch.object(make_published, "D_FF", D_FF):
                make_published.make(published, "c-2048")
            run("import", published, "-o", source)
            cls.config, cls.entries, cls.tensors = make_model(source)

    def setUp(self):
        super().setUp()
        self.model = self.path / "model"

    def write(self):
        write_model(self.model, self.config, self.entries, self.tensors)

    def test_tables_are_those_of_the_document(self):
        self.assertEqual(tlut.tables_sha256(), tlut.TABLES_SHA256)
        self.assertIn(tlut.TABLES_SHA256, (tlut.TABLES.parent / "format.md").read_text())

    def check_decoded(self, stacks):
        """What the model decodes to, against `stacks` read here."""
        plain = self.path / "plain"
        run("export", self.model, "-o", plain, "--dequantize", "--dtype", "f32")
        decoded, rates = compressed.read_directory(plain), set()
        for stack in stacks:
            rates.add(stack.format)
            for mat in range(stack.n_mats):
                name = compressed.expert_name(stack, mat)
                expected = stack.matrix(mat)
                self.assertTrue(np.isfinite(expected).all())
                self.assertEqual(decoded[name][1].shape, expected.shape)
                np.testing.assert_array_equal(
                    decoded[name][1].view(np.uint32), expected.view(np.uint32), err_msg=f"{name}, {stack.format}"
                )
        return rates

    def test_every_bit_is_decoded_alike(self):
        self.write()
        run("verify", self.model)
        rates = self.check_decoded(compressed.stacks(self.model, self.tensors))
        self.assertEqual(rates, set(tlut.RATES))

    def test_what_qmoe_compresses_is_decoded_alike(self):
        run("compress", SWITCH_MINI, "-o", self.model, "--method", "rtn", "--format", "tlut-1.5")
        self.assertEqual(self.check_decoded(compressed.stacks(self.model)), {"tlut-1.5"})

    def refused(self, text):
        self.write()
        result = qmoe("verify", self.model)
        self.assertEqual(result.returncode, 4, result.stdout)
        self.assertIn(text, result.stdout + result.stderr)

    def changed(self, tensor, change):
        """The tensor with another dtype or array, while refused() is called."""
        return mock.patch.dict(self.tensors, {tensor: change(*self.tensors[tensor])})

    def test_tensors_of_other_shapes_are_refused(self):
        stack = next(iter(self.entries))
        for suffix in ("codes", "scales", "col_scales"):
            name = f"{stack}.{suffix}"
            for change in (
                lambda dtype, array: (dtype, array[..., :-1]),
                lambda dtype, array: (dtype, array[:-1]),
                lambda dtype, array: ("F16" if dtype == "BF16" else "I8", array),
            ):
                with self.subTest(name=suffix), self.changed(name, change):
                    self.refused(f"'{name}'")
            with mock.patch.dict(self.tensors):
                del self.tensors[name]
                self.refused(f"'{name}'")

    def test_parameters_out_of_range_are_refused(self):
        entry = next(iter(self.entries.values()))
        with mock.patch.dict(entry, {"format": "tlut-4"}):
            self.refused("codes'")
        for key, values in {"rotation": (3, 2048, -1, "x"), "rotation_seed": (-1, 2**32, 0.5)}.items():
            for value in values:
                with mock.patch.dict(entry, {key: value}):
                    self.refused("rotation")

    def test_scales_out_of_range_are_refused(self):
        stack = next(iter(self.entries))

        def put(bits):
            def change(dtype, array):
                array = array.copy()
                array[1, 5] = bits
                return dtype, array

            return change

        for suffix, kind in (("scales", "row"), ("col_scales", "column")):
            for bits in (LARGE, LARGE | 0x8000, 0x7F80, 0xFF80, 0x7FC0):
                with self.changed(f"{stack}.{suffix}", put(bits)):
                    self.refused(f"{suffix}: {kind} 5: 0x{bits:04x}")
            for bits in (LARGE - 1, LARGE - 1 | 0x8000, 1, 0x8000):
                with self.changed(f"{stack}.{suffix}", put(bits)):
                    self.write()
                    run("verify", self.model)

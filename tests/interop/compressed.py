# SPDX-License-Identifier: Apache-2.0
"""Reads compressed models in plain NumPy, written from docs/format.md.

Shares no code with qmoe: files are parsed by the safetensors package, the
dictionary is built here, rows are decoded here.
"""

import functools
import hashlib
import heapq
import json
import math
import pathlib

import numpy as np
import safetensors
import xxhash

import tlut

DICTIONARY_SIZE = 1 << 16
MAX_PAIRS = 14
MAX_NONZEROS = 3
GENERIC_P0 = 0.885
DICTIONARY_SHA256 = "c09862c453fe122634070a475357ff81a679aff65829d84a56f806c02a54ed45"
NUMPY_DTYPES = {
    "U8": "<u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",  # bits; see to_float32
    "F32": "<f4",
}


def to_float32(bits, dtype):
    """Values of an array as read_file returns it."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)


def to_bfloat16(values):
    """Bits of finite float32 values, rounded to nearest, ties to even."""
    u = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


# ---- files --------------------------------------------------------------------


def read_file(path):
    """{name: (dtype, array)} of one safetensors file; BF16 arrays hold bits."""
    tensors = {}
    for name, entry in safetensors.deserialize(pathlib.Path(path).read_bytes()):
        array = np.frombuffer(entry["data"], NUMPY_DTYPES[entry["dtype"]])
        tensors[name] = (entry["dtype"], array.reshape(entry["shape"]))
    return tensors


def read_directory(directory):
    """All tensors of a model directory, through its index when it has one."""
    directory = pathlib.Path(directory)
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for file in files:
        tensors.update(read_file(directory / file))
    return tensors


def quantization_config(directory):
    """None for a model that is not compressed."""
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    return config.get("quantization_config")


# ---- digests ------------------------------------------------------------------


def config_digest(text):
    """(stored, computed) digest of config.json's bytes (docs/format.md, 2.1)."""
    stored = json.loads(text)["quantization_config"]["config_xxh3"]
    digits = stored.encode()
    assert text.count(digits) == 1, "the digits of config_xxh3 occur twice"
    return stored, xxhash.xxh3_64_hexdigest(text.replace(digits, b"0" * 16))


def broken_files(directory):
    """Names of the files that are not what config.json records, and of files it
    does not know.  Of shards, size and header; their tensors have checksums."""
    directory = pathlib.Path(directory)
    text = (directory / "config.json").read_bytes()
    stored, computed = config_digest(text)
    broken = [] if stored == computed else ["config.json"]
    recorded = json.loads(text)["quantization_config"]["files"]
    for name, entry in recorded.items():
        data = (directory / name).read_bytes()
        key, part = "xxh3", data
        if name.endswith(".safetensors"):
            key, part = "header_xxh3", data[: 8 + int.from_bytes(data[:8], "little")]
        if entry != {"bytes": len(data), key: xxhash.xxh3_64_hexdigest(part)}:
            broken.append(name)
    there = {path.name for path in directory.iterdir()} - {"config.json"}
    return broken + sorted(there - set(recorded))


# ---- the dictionary -----------------------------------------------------------


def nonzeros(word):
    return sum((r % 3 != 0) + (r // 3 != 0) for r in word)


@functools.cache
def dictionary(p0):
    """The codewords in order, each a tuple of pair symbols 0..8.

    A heap gives the most probable sequence first and, among equals, the
    lexicographically smallest, because tuples compare that way.
    """
    one = (1 - p0) / 2
    single = [p0, one, one]
    pair = [single[r // 3] * single[r % 3] for r in range(9)]
    heap = [(-1.0, ())]
    words = []
    while len(words) < DICTIONARY_SIZE:
        key, word = heapq.heappop(heap)
        if word:
            words.append(word)
        if len(word) < MAX_PAIRS:
            for r in range(9):
                if nonzeros(word + (r,)) <= MAX_NONZEROS:
                    heapq.heappush(heap, (key * pair[r], word + (r,)))
    return words


def decode_table(p0):
    """The dictionary in the reference's packing, u32 [65536, 2]."""
    table = np.zeros((DICTIONARY_SIZE, 2), "<u4")
    for index, word in enumerate(dictionary(p0)):
        table[index] = len(word)
        for k, r in enumerate(word):
            table[index, k // 7] |= (r % 3 | r // 3 << 2) << (4 + 4 * (k % 7))
    return table


def dictionary_sha256(p0):
    return hashlib.sha256(decode_table(p0).tobytes()).hexdigest()


@functools.cache
def codeword_weights(p0):
    """Per codeword its number of weights and their codes, padded with zeros."""
    lengths = np.zeros(DICTIONARY_SIZE, np.int64)
    codes = np.zeros((DICTIONARY_SIZE, 2 * MAX_PAIRS), np.uint8)
    for index, word in enumerate(dictionary(p0)):
        lengths[index] = 2 * len(word)
        for k, r in enumerate(word):
            codes[index, 2 * k] = r % 3
            codes[index, 2 * k + 1] = r // 3
    return lengths, codes


# ---- ternary-dict -------------------------------------------------------------


class TernaryDictStack:
    """One stack of matrices in the format "ternary-dict"."""

    def __init__(self, tensors, name, shape, p0):
        self.name = name
        self.n_mats, self.n_rows, self.n_cols = shape
        self.p0 = p0
        self.expert_offsets = self._part(tensors, "expert_offsets", "U64")
        self.row_offsets = self._part(tensors, "row_offsets", "U32")
        self.levels = self._part(tensors, "levels", "BF16")
        self.codes = self._part(tensors, "codes", "U16")

    def _part(self, tensors, suffix, dtype):
        stored, array = tensors[f"{self.name}.{suffix}"]
        assert stored == dtype, f"{self.name}.{suffix} is {stored}, not {dtype}"
        return array

    def weight_codes(self, mat):
        """u8 [n_rows, n_cols]: 0 zero, 1 low level, 2 high level."""
        lengths, weights = codeword_weights(self.p0)
        begin, end = (int(self.expert_offsets[mat + i]) for i in (0, 1))
        words = self.codes[begin:end]
        offsets = self.row_offsets[mat].astype(np.int64)
        assert offsets[0] == 0 and offsets[-1] == len(words)
        width = 2 * math.ceil(self.n_cols / 2)
        # Rows may be decoded as one stream once each is known to be full.
        ends = np.concatenate([[0], np.cumsum(lengths[words])])
        assert (np.diff(ends[offsets]) == width).all(), self.name
        taken = np.arange(2 * MAX_PAIRS) < lengths[words][:, None]
        stream = weights[words][taken].reshape(self.n_rows, width)
        assert (stream[:, self.n_cols :] == 0).all(), "padding is not zero"
        return stream[:, : self.n_cols]

    def level_values(self, mat):
        """f32 [n_rows, 2]: low, high."""
        return to_float32(self.levels[mat], "BF16")

    def matrix(self, mat):
        """f32 [n_rows, n_cols]."""
        levels = self.level_values(mat)
        values = np.concatenate(
            [np.zeros((self.n_rows, 1), np.float32), levels], axis=1
        )
        return np.take_along_axis(values, self.weight_codes(mat), axis=1)


def stacks(directory, tensors=None):
    """The compressed stacks of a directory."""
    tensors = tensors if tensors is not None else read_directory(directory)
    for name, entry in quantization_config(directory)["tensors"].items():
        if entry["format"] in tlut.RATES:
            yield tlut.TlutStack(tensors, name, entry)
            continue
        assert entry["format"] == "ternary-dict", entry["format"]
        p0 = entry.get("p0", GENERIC_P0)
        yield TernaryDictStack(tensors, name, entry["shape"], p0)


def expert_name(stack, mat):
    """Name of a stack's matrix in the uncompressed checkpoint."""
    prefix, kind = stack.name.rsplit(".", 1)
    return f"{prefix}.expert_{mat}.{kind}.weight"

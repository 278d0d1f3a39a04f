#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the hostile files beside it, each with one rule broken, and
expected.txt: what the one error line must say.

    tests/hostile/make_hostile.py

Needs Python only; the same files every time.  README.md says which rule each
breaks."""

import json
import os
import pickletools
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
expected = []


def emit(reader, name, data, part):
    os.makedirs(os.path.join(HERE, reader), exist_ok=True)
    with open(os.path.join(HERE, reader, name), "wb") as f:
        f.write(data)
    expected.append(f"{reader}/{name}\t{part}\n")


# ---- zip ----

def local(name, data, extra=b"", method=0, flags=0):
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 0, 0, len(data), len(data),
                       len(name), len(extra)) + name + extra + data


def entry(name, size, at, extra=b"", method=0, flags=0, stored=None, disk=0):
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, flags, method, 0, 0, 0,
                       size if stored is None else stored, size, len(name), len(extra), 0, disk, 0, 0, at) + name + extra


def end(n, size, at, total=None, disk=0, comment=b"", comment_size=None):
    return struct.pack("<4s4H2IH", b"PK\5\6", disk, 0, n, n if total is None else total, size, at,
                       len(comment) if comment_size is None else comment_size) + comment


def archive(members, entries=None, tail=None):
    """members: [(name, data)]; entries, tail: another directory, another end."""
    body, places = b"", []
    for m in members:
        places.append(len(body))
        body += local(m[0], m[1], **(m[2] if len(m) > 2 else {}))
    directory = entries(places) if entries else b"".join(
        entry(m[0], len(m[1]), at) for m, at in zip(members, places))
    return body + directory + (tail(directory, len(body)) if tail else end(len(members), len(directory), len(body)))


# ---- pickle ----

P = b"\x80\x02"
OD = b"ccollections\nOrderedDict\n)R"


def text(s):
    b = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(b)) + b


def num(n):
    return b"K" + bytes([n]) if 0 <= n < 256 else b"\x8a\x08" + struct.pack("<q", n)


def tup(*items):
    return b"(" + b"".join(map(num, items)) + b"t"


def storage(key="0", cls=b"ctorch\nFloatStorage\n", count=4, word="storage"):
    return b"(" + text(word) + cls + text(key) + text("cpu") + num(count) + b"tQ"


def tensor(shape=(2, 2), strides=(2, 1), offset=0, store=None, grad=b"\x89", hooks=OD, more=b"", version=2):
    return (f"ctorch._utils\n_rebuild_tensor_v{version}\n(".encode() + (store or storage()) + num(offset) + tup(*shape) +
            tup(*strides) + grad + hooks + more + b"tR")


UNTYPED = b"ctorch.storage\nUntypedStorage\n"
F32 = b"ctorch\nfloat32\n"


def state(*items):
    return P + b"}(" + b"".join(text(n) + v for n, v in items) + b"u."


GOOD = state(("a", tensor()))
NEEDED = set("MARK EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_DICT SETITEMS SETITEM BUILD BINUNICODE GLOBAL REDUCE BINPERSID "
             "BININT BININT1 BININT2 LONG1 NONE NEWTRUE NEWFALSE BINPUT LONG_BINPUT BINGET LONG_BINGET STOP".split())


def pt(pickle=GOOD, data=b"0123456789abcdef", more=()):
    return archive([(b"m/data.pkl", pickle), (b"m/data/0", data), *more])


def torch_zip():
    e = lambda name, data, part: emit("torch", name, data, part)
    good = pt()
    e("empty", b"", "not a PyTorch (zip) file")
    e("text", b"not a model at all, but long enough", "not a PyTorch (zip) file")
    e("legacy", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "the legacy PyTorch format")
    e("preview", b"PYTORCH1" + b"\0" * 40, "the preview format PYTORCH1")
    e("truncated", good[:-1], "no end record")
    e("trailing", good + b"x", "no end record")
    e("comment", good[:-2] + struct.pack("<H", 3), "announces a comment")
    e("no-members", archive([(b"m/data.pkl", GOOD)], tail=lambda d, at: end(0, len(d), at)), "0 members announced")
    e("too-many-members", archive([(b"m/data.pkl", GOOD)], tail=lambda d, at: end(9000, len(d), at)),
      "9000 members announced")
    e("several-disks", archive([(b"m/data.pkl", GOOD)], tail=lambda d, at: end(1, len(d), at, disk=1)),
      "several disks")
    e("directory-gap", archive([(b"m/data.pkl", GOOD)], tail=lambda d, at: end(1, len(d), at - 1)),
      "does not end where the end record begins")
    e("directory-rest", archive([(b"m/data.pkl", GOOD), (b"m/data/0", b"0" * 16)],
                                tail=lambda d, at: end(1, len(d), at)), "goes on behind its last entry")
    one = [(b"m/data.pkl", GOOD)]
    e("no-entry", archive(one, entries=lambda p: b"\0" * 60), "holds no entry")
    e("long-name", archive(one, entries=lambda p: entry(b"m/data.pkl", 1, 0)[:28] + b"\xff\xff" +
                           entry(b"m/data.pkl", 1, 0)[30:]), "goes beyond the directory")
    e("no-name", archive(one, entries=lambda p: entry(b"", 1, 0)), "a name of 0 bytes")
    n = b"m/data.pkl"
    e("deflated", archive(one, entries=lambda p: entry(n, 9, 0, method=8)), "compressed (deflate, method 8)")
    e("encrypted", archive(one, entries=lambda p: entry(n, 9, 0, flags=1)), "encrypted")
    e("deflated-locally", archive([(n, GOOD, {"method": 8})]), "compressed (deflate")
    e("two-sizes", archive(one, entries=lambda p: entry(n, 9, 0, stored=8)), "its two sizes differ")
    e("other-disk", archive(one, entries=lambda p: entry(n, 9, 0, disk=1)), "lies on another disk")
    e("beyond", archive(one, entries=lambda p: entry(n, 1 << 30, 0)), "go beyond the members' part")
    e("local-offset", archive(one, entries=lambda p: entry(n, 9, 1)), "its local header is not at offset 1")
    e("local-beyond", archive(one, entries=lambda p: entry(n, 9, 1 << 30)), "its local header is not at")
    e("other-name", archive(one, entries=lambda p: entry(b"m/data.pkx", 9, 0)), "another name than the directory")
    e("no-folder", archive([(b"data.pkl", GOOD)]), "does not lie in a folder")
    e("two-folders", archive([(n, GOOD), (b"x/data/0", b"0" * 16)]), "not lie in the folder of the first")
    e("duplicate", archive([(n, GOOD), (b"m/data/0", b"0" * 16), (b"m/data/0", b"1" * 16)]), "two members have the name")
    e("shared-bytes", archive([(n, GOOD), (b"m/data/0", b"0" * 16)],
                              entries=lambda p: entry(n, len(GOOD), 0) * 2), "share bytes")
    e("zip64-short", archive(one, entries=lambda p: entry(n, 0xffffffff, 0, extra=b"\1\0\4\0abcd",
                                                          stored=0xffffffff)), "ZIP64 extra field is too short")
    e("zip64-size", archive(one, entries=lambda p: entry(n, 0xffffffff, 0, stored=0xffffffff,
                                                         extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63))),
      "go beyond the members' part")
    e("extra-beyond", archive(one, entries=lambda p: entry(n, 9, 0, extra=b"\1\0\xff\0")), "an extra field goes beyond")

    def end64(at64=0, size=44, n=1, cut=0):
        def tail(d, at):
            record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", size, 45, 45, 0, 0, n, n, len(d) - cut, at)
            return (record + struct.pack("<4sIQI", b"PK\6\7", 0, at + len(d) + at64, 1) +
                    end(0xffff, 0xffffffff, 0xffffffff))
        return tail
    e("zip64-locator", archive(one, tail=end64(at64=1)), "does not lead to a ZIP64 end record")
    e("zip64-locator-far", archive(one, tail=end64(at64=1 << 60)), "does not lead to a ZIP64 end record")
    e("zip64-end-size", archive(one, tail=end64(size=45)), "does not end at its locator")
    e("zip64-directory", archive(one, tail=end64(cut=1)), "where the ZIP64 end record begins")
    e("zip64-members", archive(one, tail=end64(n=2**62)), "members announced")
    e("no-pickle", archive([(b"m/data/0", b"x")]), "no member 'data.pkl'")
    e("big-endian", pt(more=[(b"m/byteorder", b"big")]), "big-endian weights are not read")
    for name, text in (("version", b"11\n"), ("version-zero", b"0"), ("version-empty", b""), ("version-text", b"three\n"),
                       ("version-long", b"3" * 40)):
        e(name, pt(more=[(b"m/version", text)]), "member 'version'")
    e("byte-order", pt(more=[(b"m/byteorder", b"middle")]), "member 'byteorder' is not 'little'")
    e("torchscript", archive([(n, GOOD), (b"m/code/m.py", b"x" * 9)], entries=lambda p: entry(n, len(GOOD), p[0]) +
                             entry(b"m/code/m.py", 9, p[1], method=8)), "a TorchScript program")
    e("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1240000000\n",
      "a Git LFS pointer")
    e("web-page", b"\r\n <!DOCTYPE html>\n<html></html>\n", "a web page")
    e("empty-folder-name", archive([(b"/data.pkl", GOOD)], entries=lambda p: entry(b"/", 1, 0)),
      "not lie in the folder of the first")
    e("only-a-folder", archive([(b"m/", b"")]), "not lie in the folder of the first")
    e("pickle-empty", archive([(n, b"")]), "does not begin with a protocol")
    e("cut-in-data", good[:len(good) // 2], "no end record")
    e("cut-in-directory", good[:-30], "no end record")


def torch_pickle():
    e = lambda name, pickle, part: emit("torch", name, pt(pickle), part)
    e("no-protocol", b"}.", "does not begin with a protocol")
    e("protocol-4", b"\x80\x04}.", "pickle protocol 4")
    e("no-end", P + b"}", "the pickle has no end")
    e("after-end", P + b"}..", "goes on after its end")
    # Every instruction of the pickle language but those a state dict needs.
    for op in pickletools.opcodes:
        if op.name not in NEEDED and op.proto <= 5:
            e("opcode-" + op.name.lower().replace("_", "-"), P + b"}" + op.code.encode("latin-1") + b"\1" + b"\0" * 8 + b"\n.",
              "is not one a state dict needs")
    e("opcode-none", P + b"}\xff.", "is not one a state dict needs")
    e("protocol-twice", P + P + b"}.", "is not one a state dict needs")
    e("opcode-reduce-os", P + b"cos\nsystem\n" + text("true") + b"\x85R.", "names 'os.system'")
    e("global-builtins", P + b"cbuiltins\neval\n.", "names 'builtins.eval'")
    e("global-torch", P + b"ctorch\nload\n.", "names 'torch.load'")
    for k, (module, name) in enumerate((
            ("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "getattr"), ("builtins", "exec"),
            ("__builtin__", "eval"), ("operator", "attrgetter"), ("runpy", "_run_code"), ("webbrowser", "open"),
            ("torch.storage", "_load_from_bytes"), ("torch.hub", "load"), ("torch.serialization", "load"),
            ("torch.jit", "load"), ("torch._utils", "_rebuild_qtensor"), ("torch._utils", "_rebuild_sparse_tensor"),
            ("torch._utils", "_rebuild_wrapper_subclass"), ("torch._tensor", "_rebuild_from_type_v2"),
            ("torch.nn.modules.linear", "Linear"), ("torch", "QUInt8Storage"), ("torch", "device"), ("torch", "Size"),
            ("numpy.core.multiarray", "_reconstruct"), ("numpy", "dtype"), ("_codecs", "encode"),
            ("collections", "defaultdict"), ("collections", "OrderedDict.fromkeys"), ("", ""), ("torch", ""),
            ("", "FloatStorage"))):
        e(f"global-{k:02}", P + f"c{module}\n{name}\n.".encode(), f"names '{module}.{name}', which no state dict needs")
    e("global-prefix", P + b"ctorch\nFloatStorageX\n.", "names 'torch.FloatStorageX'")
    e("global-endless", P + b"c" + b"a" * 400, "does not end within 256 bytes")
    e("global-cut", P + b"ctorch\nFlo", "does not end within")
    e("string-cut", P + b"X\xff\0\0\0abc", "ends within an instruction")
    e("string-long", P + b"X\xff\xff\xff\x7fabc", "a string of 2147483647 bytes")
    e("underflow", P + b"R.", "the stack holds too few values")
    e("no-mark", P + b"Nt.", "the stack holds no mark")
    e("tuple-over-mark", P + b"N(\x85.", "the stack holds too few values")
    e("items-odd", P + b"}(N" + b"u.", "in odd number")
    e("items-no-dict", P + b"(" + text("a") + b"Nu.", "without a dict")
    e("items-in-int", P + b"K\1(" + text("a") + b"Nu.", "an item is set in an integer")
    e("key-int", P + b"}K\1K\1s.", "the key of a dict is an integer")
    e("memo-unset", P + b"h\7.", "memo place 7 was never put")
    e("memo-huge", P + b"}r\xff\xff\xff\xff.", "memo place 4294967295 is out of order")
    e("long-wide", P + b"\x8a\x09" + b"\1" * 9 + b".", "an integer of 9 bytes")
    e("build-int", P + b"}K\1b.", "is set from an integer")
    e("call-int", P + b"K\1)R.", "an integer is called")
    e("call-storage", P + b"ctorch\nFloatStorage\n)R.", "a storage class or dtype is called")
    e("dict-arguments", P + b"ccollections\nOrderedDict\n(K\1tR.", "made with 1 values")
    e("result-int", P + b"K\1.", "holds an integer, not one dict")
    e("result-two", P + b"}}.", "several values")
    e("result-nested", state(("a", b"}")), "'a' is a dict, neither")
    e("result-none", state(("a", b"N")), "'a' is None, neither")
    e("result-storage", state(("a", storage())), "'a' is a storage, neither")
    e("id-int", state(("a", b"K\1Q")), "a persistent id is not")
    e("id-word", state(("a", storage(word="module"))), "a persistent id is not")
    e("id-class", state(("a", storage(cls=b"ccollections\nOrderedDict\n"))), "a persistent id is not")
    e("id-count", state(("a", storage(count=-1))), "a persistent id is not")
    e("key-path", state(("a", tensor(store=storage(key="../0")))), "not a number")
    e("key-empty", state(("a", tensor(store=storage(key="")))), "not a number")
    e("storage-missing", state(("a", tensor(store=storage(key="7")))), "member 'data/7', is missing")
    e("storage-size", state(("a", tensor(store=storage(count=5)))), "has 16 bytes, not 5 elements")
    e("storage-overflow", state(("a", tensor(store=storage(count=2**61)))), "has 16 bytes, not")
    e("beyond-shape", state(("a", tensor((3, 2)))), "lead beyond its storage")
    e("beyond-offset", state(("a", tensor(offset=1))), "lead beyond its storage")
    e("beyond-stride", state(("a", tensor((2, 2), (3, 1)))), "lead beyond its storage")
    e("beyond-empty", state(("a", tensor((0,), (1,), 5))), "lead beyond its storage")
    e("negative-shape", state(("a", tensor((-1, 2)))), "not an integer in [0, 2^62)")
    e("negative-stride", state(("a", tensor((2, 2), (2, -1)))), "not an integer in [0, 2^62)")
    e("negative-offset", state(("a", tensor(offset=-1))), "not made from (storage")
    e("overflow-shape", state(("a", tensor((2**40, 2**40), (1, 1)))), "its size overflows")
    e("overflow-stride", state(("a", tensor((2**33, 1), (2**33, 1)))), "its size overflows")
    e("expanded", state(("a", tensor((2**30, 1), (0, 1)))), "it repeats elements")
    e("rank-9", state(("a", tensor((1,) * 9, (1,) * 9))), "has 9 entries, more than 8")
    e("rank-differs", state(("a", tensor((2, 2), (1,)))), "has 2 sizes, but 1 strides")
    e("shape-int", state(("a", tensor().replace(tup(2, 2), b"K\2", 1))), "is an integer, not a tuple")
    e("few-arguments", state(("a", b"ctorch._utils\n_rebuild_tensor_v2\n(K\1tR")), "made from 1 values")
    good = tensor()
    e("grad-int", state(("a", tensor(grad=b"K\1"))), "not made from (storage")
    e("hooks-none", state(("a", tensor(hooks=b"N"))), "not made from (storage")
    e("storage-int", state(("a", good.replace(storage(), b"K\1", 1))), "not made from (storage")
    e("offset-text", state(("a", good.replace(storage() + num(0), storage() + text("0"), 1))), "not made from (storage")
    e("strides-int", state(("a", good.replace(tup(2, 1), b"K\2", 1))), "is an integer, not a tuple")
    e("stride-text", state(("a", good.replace(tup(2, 1), b"(K\2" + text("1") + b"t", 1))), "not an integer in [0, 2^62)")
    e("many-arguments", state(("a", tensor(more=b"NN"))), "made from 8 values")
    e("metadata", state(("a", tensor(more=b"}(" + text("neg") + b"\x88u"))), "conjugated or negated")
    e("metadata-v3", state(("a", tensor(store=storage(cls=UNTYPED, count=16), more=F32 + b"}", version=3))),
      "conjugated or negated")
    e("v3-typed", state(("a", tensor(more=F32, version=3))), "cannot lie in such a storage")
    e("v3-no-dtype", state(("a", tensor(store=storage(cls=UNTYPED, count=16), more=b"N", version=3))), "bool, dict, dtype")
    e("v3-few", state(("a", tensor(store=storage(cls=UNTYPED, count=16), version=3))), "made from 6 values")
    e("v3-beyond", state(("a", tensor((5, 1), (1, 1), store=storage(cls=UNTYPED, count=16), more=F32, version=3))),
      "lead beyond its storage")
    e("v2-untyped", state(("a", tensor(store=storage(cls=UNTYPED, count=16)))), "cannot lie in such a storage")
    e("other-class", state(("a", tensor()), ("b", tensor(store=storage(cls=b"ctorch\nDoubleStorage\n")))),
      "has 16 bytes, not 4 elements of F64")
    e("scalar-beyond", state(("a", tensor((), (), 4))), "lead beyond its storage")
    e("overflow-offset", state(("a", tensor((1,), (1,), 2**61))), "lead beyond its storage")
    e("overflow-reach", state(("a", tensor((3,) * 8, (2**61,) * 8))), "its size overflows")
    e("wide-number", state(("a", tensor(offset=2**62))), "not made from (storage")
    e("parameter-int", state(("a", b"ctorch._utils\n_rebuild_parameter\n(" + tensor() + b"K\1}tR")),
      "a parameter is not made from")
    e("parameter-of-parameter-class", state(("a", b"ctorch._utils\n_rebuild_parameter\n")), "a class or function, neither")
    e("id-short", state(("a", b"(" + text("storage") + b"tQ")), "a persistent id is not")
    e("id-dtype", state(("a", storage(cls=F32))), "a persistent id is not")
    e("id-huge", state(("a", storage(count=2**62))), "a persistent id is not")
    e("key-long", state(("a", tensor(store=storage(key="0" * 21)))), "not a number")
    e("key-sign", state(("a", tensor(store=storage(key="-0")))), "not a number")
    e("key-zeros", state(("a", tensor(store=storage(key="00")))), "member 'data/00', is missing")
    e("call-dtype", P + F32 + b")R.", "a storage class or dtype is called")
    e("call-with-dict", P + b"ccollections\nOrderedDict\n}R.", "is called with a dict")
    e("key-none", P + b"}NK\1s.", "the key of a dict is None")
    e("key-tensor", P + b"}" + tensor() + b"K\1s.", "the key of a dict is a tensor")
    e("root-mark", P + b"(.", "the stack holds too few values")
    e("root-nothing", P + b".", "the stack holds too few values")
    e("root-tuple", P + b"}\x85.", "holds a tuple, not one dict")
    e("root-int-on-dict", P + b"}K\1.", "several values")
    e("result-text", state(("a", text("b"))), "'a' is a string, neither")
    e("result-bool", state(("a", b"\x88")), "'a' is a bool, neither")
    e("result-tuple", state(("a", b")")), "'a' is a tuple, neither")
    e("name-twice-mixed", state(("a", tensor()), ("a", b"K\1")), "a tensor and an integer have the name")
    e("parameter", state(("a", b"ctorch._utils\n_rebuild_parameter\n(K\1\x89}tR")), "a parameter is not made from")
    e("name-empty", state(("", tensor())), "is empty, not UTF-8")
    e("name-nul", state((b"a\0b", tensor())), "holds a NUL")
    e("name-utf8", state((b"\xff\xfe", tensor())), "not UTF-8")
    e("name-twice", state(("a", tensor()), ("a", tensor())), "duplicate name")
    e("integer-twice", state(("a", b"K\1"), ("a", b"K\2")), "two integers have the name 'a'")
    # Names for the same bytes are cheap here; their copies would not be.
    many = b"".join(text(f"t{i}") + b"h\0" for i in range(9000))
    first = text("t") + tensor((1024, 8), (8, 1), 0, storage(count=8192)) + b"q\0"
    emit("torch", "shared-endlessly", pt(P + b"}(" + first + many + b"u.", b"\0" * 32768),
         "64 times the bytes of the file")
    views = b"".join(text(f"v{i}") + tensor((8, 100 + i), (1, 8), 0, storage(count=8192)) for i in range(60))
    emit("torch", "views-endlessly", pt(P + b"}(" + views + b"u.", b"\0" * 32768), "more bytes than the file")
    emit("torch", "memo", pt(P + b"}" + b"".join(b"r" + struct.pack("<I", i) for i in range(0, 50000, 5)) + b"}."),
         "several values")
    emit("torch", "tuples", pt(P + b"N" + b"\x85" * 60000 + b"."), "holds a tuple, not one dict")
    emit("torch", "marks", pt(P + b"(" * 60000 + b"."), "too few values")
    emit("torch", "dicts", pt(P + b"}" * 60000 + b"."), "several values")


def safetensors():
    def st(header, data=b"", n=None):
        h = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(h) if n is None else n) + h + data
    t = lambda begin, finish, dtype="U8", shape=None: {"dtype": dtype, "shape": shape or [finish - begin],
                                                       "data_offsets": [begin, finish]}
    e = lambda name, data, part: emit("safetensors", name, data, part)
    e("empty", b"", "too few")
    e("length-huge", st(b"{}", n=2**64 - 196), "above the limit")
    e("length-beyond", st(b"{}", n=1000), "goes beyond the file")
    e("not-utf8", st(b"\xff"), "not UTF-8")
    e("bad-json", st(b"{"), "not a valid JSON object")
    e("nested", st(b'{"a":' + b"[" * 50000), "not an object")
    e("one-range", st({f"t{i}": t(0, 4) for i in range(10)}, b"abcd"), "overlap")
    e("overlap", st({"a": t(0, 3), "b": t(2, 5)}, b"abcdef"), "overlap")
    e("gap", st({"a": t(0, 2), "b": t(3, 4)}, b"abcd"), "a gap of 1 bytes")
    e("trailing", st({"a": t(0, 2)}, b"abc"), "1 extra bytes")
    e("short", st({"a": t(0, 4)}, b"ab"), "end beyond the file")
    e("backwards", st({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"a"), "end before they begin")
    e("size", st({"a": t(0, 4, "I32", [2, 2])}, b"abcd"), "not the size of its shape")
    e("overflow", st({"a": t(0, 4, "I32", [2, 2**52, 2**52])}, b"abcd"), "overflows")
    e("number", st(b'{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}}'), "below 2^53")
    e("bits", st({"a": t(0, 1, "F4", [3])}, b"a"), "not a whole number of bytes")
    e("dtype", st({"a": t(0, 1, "X9")}, b"a"), "unknown dtype 'X9'")
    e("twice", st(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],'
                  b'"data_offsets":[0,0]}}'), "duplicate name")
    e("metadata", st(b'{"__metadata__":{"a":1}}'), "not a map of strings")
    e("metadata-list", st(b'{"__metadata__":[]}'), "not a map of strings")
    e("metadata-twice", st(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate name '__metadata__'")
    e("metadata-key-twice", st(b'{"__metadata__":{"a":"1","a":"2"}}'), "duplicate")
    e("seven-bytes", b"\2\0\0\0\0\0\0", "too few")
    e("no-header", struct.pack("<Q", 60), "goes beyond the file")
    e("header-empty", st(b""), "not a valid JSON object")
    e("header-list", st(b"[]"), "not a valid JSON object")
    e("header-bom", st(b"\xef\xbb\xbf{}"), "not a valid JSON object")
    e("header-rest", st(b"{}{}"), "not a valid JSON object")
    e("header-zeros", st(b"{}" + b"\0" * 6), "not a valid JSON object")
    e("header-comma", st(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}'), "not a valid JSON object")
    e("entry-list", st(b'{"a":[]}'), "not an object")
    e("entry-unknown-key", st({"a": {**t(0, 1), "strides": [1]}}, b"a"), "unknown key 'strides'")
    e("entry-key-twice", st(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "duplicate key 'dtype'")
    for key in ("dtype", "shape", "data_offsets"):
        e("no-" + key.replace("_", "-"), st({"a": {k: v for k, v in t(0, 1).items() if k != key}}, b"a"), key + " is missing")
    e("dtype-number", st(b'{"a":{"dtype":8,"shape":[0],"data_offsets":[0,0]}}'), "dtype")
    e("dtype-lower-case", st({"a": t(0, 1, "u8")}, b"a"), "unknown dtype 'u8'")
    e("shape-negative", st(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}'), "shape")
    e("shape-fraction", st(b'{"a":{"dtype":"U8","shape":[0.5],"data_offsets":[0,0]}}'), "shape")
    e("shape-text", st(b'{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}', b"a"), "shape")
    e("shape-number", st(b'{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', b"a"), "shape")
    e("shape-rank-9", st({"a": t(0, 1, "U8", [1] * 9)}, b"a"), "shape")
    e("offsets-three", st({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"a"), "data_offsets")
    e("offsets-one", st({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, b"a"), "not a pair")
    e("offsets-negative", st(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}', b"a"), "data_offsets")
    e("offsets-huge", st({"a": {"dtype": "U8", "shape": [2**52], "data_offsets": [0, 2**52]}}, b"a"), "end beyond the file")
    e("first-gap", st({"a": t(1, 2)}, b"ab"), "a gap of 1 bytes")
    e("two-bytes-missing", st({"a": t(0, 4), "b": t(4, 8)}, b"abcdef"), "end beyond the file")
    e("overflow-bytes", st(b'{"a":{"dtype":"I32","shape":[2,2251799813685248,2048,512],"data_offsets":[0,0]}}'), "overflows")
    e("name-empty-twice", st(b'{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"":{"dtype":"U8","shape":[0],'
                             b'"data_offsets":[0,0]}}'), "duplicate name")
    e("name-nul", st(b'{"a\\u0000b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "not a valid JSON object")
    e("many-names", st({f"t{i}": t(0, 1) for i in range(2000)}, b"a"), "overlap")
    e("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1240000000\n",
      "a Git LFS pointer")
    e("web-page", b"<!doctype HTML>" + b" " * 40, "a web page")


def json_files():
    e = lambda name, data, part: emit("json", name, data, part)
    for name, data in (("empty", b""), ("brace", b"{"), ("nul", b'"a\\u0000"'), ("control", b'"a\x01"'), ("zero", b"01"),
                       ("bom", b"\xef\xbb\xbf{}"), ("two", b"{} {}"), ("comma", b"[1,]"), ("single", b"{'a':1}"),
                       ("comment", b"{}//x"), ("nan", b"NaN"), ("cut-escape", b'"\\u12"'), ("surrogate", b'"\\ud800"')):
        e(name, data, "not valid JSON")
    e("utf8", b'"\xc3\x28"', "UTF-8")
    e("twice", b'{"a":1,"\\u0061":2}', "duplicate key 'a'")
    e("deep", b"[" * 60000, "valid JSON")


def configs():
    good = {"model_type": "switch_transformers", "vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_heads": 4,
            "num_experts": 4, "num_layers": 2, "num_decoder_layers": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2,
            "dense_act_fn": "relu"}

    def e(name, part, **changes):
        tree = {k: v for k, v in {**good, **changes}.items() if v is not ...}
        emit("config", name, json.dumps(tree).encode(), part)
    for key in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_experts", "num_layers"):
        e(key + "-missing", f"'{key}'", **{key: ...})
        e(key + "-zero", f"'{key}'", **{key: 0})
        e(key + "-negative", f"'{key}'", **{key: -1})
        e(key + "-huge", f"'{key}'", **{key: 2**40})
    e("fraction", "'d_model'", d_model=16.5)
    e("text", "'d_model'", d_model="16")
    e("list", "'d_model'", d_model=[16])
    e("beyond-integers", "'d_model'", d_model=2**53)
    e("null", "'num_heads'", num_heads=None)
    e("inner-huge", "num_heads * d_kv", num_heads=2**20, d_kv=2**20)
    e("blocks-huge", "'num_decoder_layers'", num_decoder_layers=1025)
    e("step-negative", "'encoder_sparse_step'", encoder_sparse_step=-1)
    e("step-text", "'decoder_sparse_step'", decoder_sparse_step="2")
    e("sparse-count", "'num_sparse_encoder_layers'", num_sparse_encoder_layers=-3)
    e("full-sparse", "'is_full_sparse'", is_full_sparse="yes")
    e("buckets", "'relative_attention_num_buckets'", relative_attention_num_buckets=3)
    e("distance", "'relative_attention_max_distance'", relative_attention_max_distance=31)
    e("epsilon", "'layer_norm_epsilon'", layer_norm_epsilon="small")
    for name, value in (("negative", -1), ("zero", 0), ("tiny", 1e-40), ("large", 1e308)):
        e("epsilon-" + name, "layer_norm_epsilon is", layer_norm_epsilon=value)
    e("tied", "'tie_word_embeddings'", tie_word_embeddings=1)
    e("pad", "'pad_token_id'", pad_token_id=64)
    e("end", "'eos_token_id'", eos_token_id=-1)
    e("start", "'decoder_start_token_id'", decoder_start_token_id=1 << 33)
    e("activation", "not 'gelu'", dense_act_fn="gelu")
    e("projection", "gated-gelu", feed_forward_proj="gated-gelu")
    e("gated", "(gated)", is_gated_act=True)
    e("gated-text", "'is_gated_act'", is_gated_act="no")
    e("router-bias", "router_bias is not supported", router_bias=True)
    e("activation-number", "'dense_act_fn'", dense_act_fn=1)


def spiece():
    def vi(n):
        out = b""
        while n >= 0x80:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    f = lambda number, data: vi(number << 3 | 2) + vi(len(data)) + data
    piece = lambda s, score=0.0: f(1, f(1, s) + b"\x15" + struct.pack("<f", score))
    norm = lambda charsmap: f(3, f(2, charsmap))
    e = lambda name, data, part: emit("spiece", name, data, part)
    e("empty", b"", "not a SentencePiece model")
    e("text", b"this is no model", "broken protocol buffer")
    e("cut", piece(b"abc")[:-2], "broken protocol buffer")
    e("no-normalizer", piece(b"abc"), "no normalizer")
    e("piece-empty", piece(b"") + norm(b""), "piece 0 is empty")
    e("piece-utf8", piece(b"\xff") + norm(b""), "piece 0 is not UTF-8")
    e("piece-nul", piece(b"a\0b") + norm(b""), "piece 0 is not UTF-8")
    e("piece-score", piece(b"a", float("nan")) + norm(b""), "score that is not finite")
    e("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 791656\n",
      "a Git LFS pointer")
    e("no-pieces", norm(b""), "it has no pieces")
    e("varint-endless", b"\x08" + b"\xff" * 20, "broken protocol buffer")
    e("field-zero", b"\0\0", "broken protocol buffer")
    e("field-huge", vi(2**40) + b"\0", "broken protocol buffer")
    e("group", b"\x0b\x0c", "broken protocol buffer")
    e("piece-beyond", b"\x0a\xff\x7f", "broken protocol buffer")
    e("piece-broken", f(1, b"\x0a\x7f") + norm(b""), "broken protocol buffer")
    e("piece-long", piece(b"a" * 600) + norm(b""), "piece 0")
    trie = lambda *units: struct.pack("<256I", *units, *[0] * (256 - len(units)))
    chars = lambda units, texts: norm(struct.pack("<I", 1024) + trie(*units) + texts)
    e("charsmap-unit-beyond", piece(b"a") + chars([0x3ff << 10 | 0x200], b"\0"), "points outside of the trie")
    e("charsmap-text-beyond", piece(b"a") + chars([0x500, 5], b"\0"), "lies outside of the file")
    e("charsmap-text-endless", piece(b"a") + chars([0x500], b"x" * 40), "a replacement is too long")
    e("charsmap-text-utf8", piece(b"a") + chars([0x500], b"\xff\0"), "a replacement is not UTF-8")
    e("charsmap-odd-size", piece(b"a") + norm(struct.pack("<I", 1020) + b"\0" * 1100), "is impossible")
    e("charsmap-short", piece(b"a") + norm(b"\1\2"), "character map")
    e("charsmap-beyond", piece(b"a") + norm(struct.pack("<I", 1 << 30) + b"\0" * 64), "character map")


# ---- GGUF ----

GU32, GF32, GBOOL, GSTRING, GARRAY, GU64 = 4, 6, 7, 8, 9, 10


def gtext(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(b)) + b


def gvalue(kind, value):
    if kind == GSTRING:
        return gtext(value)
    if kind == GARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(gvalue(inner, v) for v in items)
    return struct.pack({GU32: "<I", 5: "<i", GF32: "<f", GBOOL: "<B", GU64: "<Q"}[kind], value)


def gfile(values, tensors, version=3, n_values=None, n_tensors=None, alignment=32, tail=b"", magic=b"GGUF"):
    """values: [(key, kind, value or bytes)]; tensors: [(name, shape in C order, type, bytes[, offset])]"""
    out = magic + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
                              len(values) if n_values is None else n_values)
    for key, kind, value in values:
        out += gtext(key) + struct.pack("<I", kind) + (value if isinstance(value, bytes) and kind != GSTRING
                                                       else gvalue(kind, value))
    data = b""
    for name, shape, kind, content, *offset in tensors:
        out += gtext(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape[::-1])
        out += struct.pack("<IQ", kind, offset[0] if offset else len(data))
        data += content + b"\0" * (-len(content) % alignment)
    return out + b"\0" * (-len(out) % alignment) + data + tail


def gguf_files():
    e = lambda name, data, part: emit("gguf", name, data, part)
    tiny = [("t", (2, 4), 0, b"\0" * 32)]
    e("empty", b"", "but empty")
    e("text", b"a model", "not a GGUF file")
    e("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n", "a Git LFS pointer")
    e("web-page", b"<!doctype HTML>" + b" " * 40, "a web page")
    e("magic-cut", b"GGU", "not a GGUF file")
    e("version-cut", b"GGUF\3", "beyond the file")
    e("version-1", gfile([], [], version=1), "version 1 of GGUF")
    e("version-4", gfile([], [], version=4), "version 4 of GGUF")
    e("big-endian", gfile([], [], version=0x03000000), "big-endian")
    e("counts-cut", b"GGUF\3\0\0\0\1\0\0", "beyond the file")
    e("values-huge", gfile([], [], n_values=2**63), "values are more than")
    e("values-some", gfile([], [], n_values=3), "values are more than")
    e("tensors-huge", gfile([], [], n_tensors=2**62), "tensors are more than")
    e("values-more", gfile([("a", GU32, 1), ("b", GSTRING, "long enough for two")], [], n_values=3, alignment=1), "beyond the file")
    e("key-empty", gfile([("", GU32, 1)], []), "a key has 0 bytes")
    e("key-long", gfile([("k" * 5000, GU32, 1)], []), "a key has 5000 bytes")
    e("key-huge", gfile([], [], n_values=1, tail=struct.pack("<Q", 2**64 - 1) + b"0" * 32)[:24] +
      struct.pack("<Q", 2**64 - 1) + b"0" * 32, "a key goes beyond the file")
    e("key-utf8", gfile([(b"\xff", GU32, 1)], []), "a key is not UTF-8")
    e("key-nul", gfile([("a\0b", GU32, 1)], []), "a key is not UTF-8 without NUL")
    e("key-twice", gfile([("a", GU32, 1), ("b", GU32, 2), ("a", GU32, 1)], []), "key 'a' is there twice")
    e("kind", gfile([("a", 13, b"\0" * 8)], []), "no kind of value has number 13")
    e("kind-huge", gfile([("a", 2**32 - 1, b"\0" * 8)], []), "no kind of value")
    e("bool", gfile([("a", GBOOL, 2)], []), "2 is no truth value")
    e("string-beyond", gfile([("a", GU64, 1), ("b", GSTRING, "xx")], [], alignment=1)[:-1], "beyond the file")
    e("string-huge", gfile([("a", GSTRING, "")], [], alignment=1)[:-8] + struct.pack("<Q", 2**63), "beyond the file")
    e("array-kind", gfile([("a", GARRAY, struct.pack("<IQ", 14, 0))], []), "no kind of value")
    e("array-of-arrays", gfile([("a", GARRAY, struct.pack("<IQ", GARRAY, 1) + b"\0" * 12)], []), "an array of arrays")
    e("array-huge", gfile([("a", GARRAY, struct.pack("<IQ", GU64, 2**61))], []), "beyond the file")
    e("array-overflow", gfile([("a", GARRAY, struct.pack("<IQ", GU64, 2**61 + 1))], []), "beyond the file")
    e("array-beyond", gfile([("a", GARRAY, struct.pack("<IQ", GU32, 9))], []), "beyond the file")
    e("array-strings-huge", gfile([("a", GARRAY, struct.pack("<IQ", GSTRING, 2**64 - 1))], []), "beyond the file")
    e("array-string-beyond", gfile([("a", GARRAY, struct.pack("<IQQ", GSTRING, 1, 2**40))], []), "beyond the file")
    for name, kind, value in (("zero", GU32, 0), ("odd", GU32, 24), ("text", GSTRING, "32"), ("array", GARRAY, (GU32, [32]))):
        e("alignment-" + name, gfile([("general.alignment", kind, value)], tiny), "'general.alignment' is no power of two")
    e("alignment-huge", gfile([("general.alignment", GU64, 2**62)], tiny), "beyond the file")
    e("name-empty", gfile([], [("", (4,), 0, b"\0" * 16)]), "the name of a tensor has 0 bytes")
    e("name-utf8", gfile([], [(b"\xc0\x80", (4,), 0, b"\0" * 16)]), "the name of a tensor is not UTF-8")
    e("name-twice", gfile([], tiny * 2), "duplicate name")
    e("rank-0", gfile([], [("t", (), 0, b"\0" * 4)]), "0 dimensions")
    e("rank-5", gfile([], [("t", (1,) * 5, 0, b"\0" * 4)]), "5 dimensions")
    e("rank-huge", gfile([], tiny)[:-64][:24 + 9] + struct.pack("<I", 2**31) + b"\0" * 64, "dimensions")
    e("shape-overflow", gfile([], [("t", (2**32, 2**32), 0, b"")]), "element count of its shape overflows")
    e("shape-overflow-late", gfile([], [("t", (0, 2**40, 2**40), 0, b"")]), "element count of its shape overflows")
    e("shape-huge", gfile([], [("t", (2**59,), 0, b"\0" * 32)]), "go beyond the file")
    e("type-unused", gfile([], [("t", (4,), 31, b"\0" * 32)]), "no known type of numbers has id 31")
    e("type-huge", gfile([], [("t", (4,), 2**31, b"\0" * 32)]), "no known type of numbers")
    for kind, name in ((9, "Q8_1"), (17, "IQ2_XS"), (26, "I32"), (34, "TQ1_0"), (39, "MXFP4")):
        e("type-" + name, gfile([], [("t", (256,), kind, b"\0" * 320)]), f"numbers of type {name} are not supported")
    e("blocks", gfile([], [("t", (2, 48), 8, b"\0" * 128)]), "rows of 48 elements are not whole blocks of 32 of type Q8_0")
    e("blocks-k", gfile([], [("t", (8, 32), 12, b"\0" * 144)]), "not whole blocks of 256 of type Q4_K")
    e("offset-gap", gfile([], [("t", (8,), 0, b"\0" * 32), ("u", (8,), 0, b"\0" * 64, 64)]), "begin at 64, not at 32")
    e("offset-same", gfile([], [("t", (8,), 0, b"\0" * 32), ("u", (8,), 0, b"\0" * 32, 0)]), "begin at 0, not at 32")
    e("offset-odd", gfile([], [("t", (4,), 0, b"\0" * 32), ("u", (4,), 0, b"\0" * 32, 16)]), "begin at 16, not at 32")
    e("offset-huge", gfile([], [("t", (8,), 0, b"\0" * 32, 2**64 - 32)]), "not at 0, where")
    e("data-cut", gfile([], tiny)[:-1], "go beyond the file")
    e("no-data", gfile([], tiny)[:-64], "beyond the file")
    e("trailing", gfile([], tiny, tail=b"x"), "1 extra bytes")

    # What a model needs: sizes, tensors, a tokenizer.
    def sizes(**changes):
        keys = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 16,
                "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5} | changes
        return [("general.architecture", GSTRING, "llama")] + [
            ("llama." + k, *v) if isinstance(v, tuple) else ("llama." + k, GF32 if isinstance(v, float) else GU32, v)
            for k, v in keys.items() if v is not ...]

    def words(**changes):
        keys = {"model": (GSTRING, "gpt2"), "pre": (GSTRING, "gpt-2"), "tokens": (GARRAY, (GSTRING, ["a", "b", "ab", "<e>"])),
                "token_type": (GARRAY, (5, [1, 1, 1, 3])), "merges": (GARRAY, (GSTRING, ["a b"])),
                "eos_token_id": (GU32, 3)} | changes
        return [("tokenizer.ggml." + k, *v) for k, v in keys.items() if v is not ...]

    def plain(name, *shape):
        n = 4
        for k in shape:
            n *= k
        return name, shape, 0, b"\0" * n

    def tensors(*without, **changes):
        all_ = {"token_embd": (4, 8), "output_norm": (8,)} | {
            "blk.0." + k: v for k, v in {
                "attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (8, 8), "attn_v": (8, 8),
                "attn_output": (8, 8), "ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16)}.items()}
        all_ |= {k.replace("_0_", ".0."): v for k, v in changes.items()}
        return [plain(k + ".weight", *v) for k, v in all_.items() if k not in without]

    def m(name, part, keys=None, text=None, parts=None):
        e("model-" + name, gfile((sizes() if keys is None else keys) + (words() if text is None else text),
                                 tensors() if parts is None else parts), part)
    m("architecture-missing", "'general.architecture' is missing", keys=sizes()[1:])
    m("architecture-number", "'general.architecture' is no text", keys=[("general.architecture", GU32, 1)] + sizes()[1:])
    m("architecture-nul", "is not UTF-8 without NUL", keys=[("general.architecture", GSTRING, "lla\0ma")] + sizes()[1:])
    m("architecture", "architecture 'grok' with 0 experts", keys=[("general.architecture", GSTRING, "grok")] + sizes()[1:])
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"):
        m(key + "-missing", f"'llama.{key}' is missing", keys=sizes(**{key: ...}))
        m(key + "-zero", f"'llama.{key}' is out of range", keys=sizes(**{key: 0}))
        m(key + "-huge", f"'llama.{key}' is out of range", keys=sizes(**{key: 2**32 - 1}))
        m(key + "-real", f"'llama.{key}' is no integer", keys=sizes(**{key: 8.5}))
    m("epsilon-missing", "epsilon of the norms is missing", keys=sizes(**{"attention.layer_norm_rms_epsilon": ...}))
    m("epsilon-nan", "no finite number", keys=sizes(**{"attention.layer_norm_rms_epsilon": float("nan")}))
    m("theta", "base of the rotary frequencies", keys=sizes(**{"rope.freq_base": -1.0}))
    m("heads-per-block", "'llama.attention.head_count' differs between blocks",
      keys=sizes(**{"attention.head_count": (GARRAY, (GU32, [2, 4]))}))
    m("heads-none", "'llama.attention.head_count' is no integer", keys=sizes(**{"attention.head_count": (GARRAY, (GU32, []))}))
    m("heads-odd", "heads of 2 elements with 3 for keys", keys=sizes(**{"attention.head_count": 4, "attention.head_count_kv": 3}))
    m("head-width-odd", "2 heads of 3 elements", keys=sizes(**{"attention.key_length": 3, "attention.value_length": 3,
                                                            "rope.dimension_count": 3}))
    m("experts-unused", "'llama.expert_used_count' is missing", keys=sizes(expert_count=2))
    m("experts-over", "'llama.expert_used_count' is out of range", keys=sizes(expert_count=2, expert_used_count=3))
    m("experts-huge", "'llama.expert_count' is out of range", keys=sizes(expert_count=2**20))
    m("unknown-key", "'llama.attention.sliding_window' is not known", keys=sizes(**{"attention.sliding_window": 16}))
    m("scaling", "'su' is not supported", keys=sizes(**{"rope.scaling.type": (GSTRING, "su")}))
    m("scaling-factor", "scaling.factor' is out of range", keys=sizes(**{"rope.scaling.factor": -2.0}))
    m("no-embedding", "'token_embd.weight' is missing or no matrix", parts=tensors("token_embd"))
    m("no-norm", "'output_norm.weight' is missing", parts=tensors("output_norm"))
    m("no-tensor", "'blk.0.ffn_up.weight' is missing", parts=tensors("blk.0.ffn_up"))
    m("shape", "'blk.0.ffn_up.weight' does not have the shape", parts=tensors(blk_0_ffn_up=(8, 16)))
    m("left-over", "'blk.1.ffn_up.weight' has no place", parts=tensors() + [plain("blk.1.ffn_up.weight", 16, 8)])
    m("divisors", "'rope_freqs.weight' does not follow", parts=tensors() + [plain("rope_freqs.weight", 2)])
    m("parts", "one of 2 parts", keys=sizes() + [("split.count", GU32, 2)])
    m("parts-huge", "'split.count' is out of range", keys=sizes() + [("split.count", GU32, 2**31)])
    m("tokens-missing", "tokens' is no list of tokens", text=words(tokens=...))
    m("tokens-numbers", "tokens' is no list of tokens", text=words(tokens=(GARRAY, (GU32, [1, 2, 3, 4]))))
    m("tokens-text", "tokens' is no array", text=words(tokens=(GSTRING, "abc")))
    m("token-utf8", "token 1 is not UTF-8", text=words(tokens=(GARRAY, (GSTRING, ["a", b"\xff", "ab", "c"]))))
    m("token-nul", "token 0 is not UTF-8 without NUL", text=words(tokens=(GARRAY, (GSTRING, ["a\0", "b", "ab", "c"]))))
    m("token-long", "a token of more than", text=words(tokens=(GARRAY, (GSTRING, ["a" * 1025, "b", "ab", "c"]))))
    m("token-twice", "tokens 1 and 3 have the same text", text=words(tokens=(GARRAY, (GSTRING, ["a", "b", "ab", "b"]))))
    m("tokens-few", "3 tokens, but 4 rows", text=words(tokens=(GARRAY, (GSTRING, ["a", "b", "ab"])),
                                                       token_type=(GARRAY, (5, [1, 1, 1])), eos_token_id=...))
    m("types-few", "no number for each token", text=words(token_type=(GARRAY, (5, [1, 1]))))
    m("types-texts", "no type of tokens", text=words(token_type=(GARRAY, (GSTRING, list("abcd")))))
    m("types-none", "no type of tokens", text=words(token_type=(GARRAY, (5, [1, 1, 1, 0]))))
    m("merges-numbers", "is no list of texts", text=words(merges=(GARRAY, (GU32, [1]))))
    m("merge-unknown", "number 0 does not join", text=words(merges=(GARRAY, (GSTRING, ["b a"]))))
    m("merge-empty", "number 0 does not join", text=words(merges=(GARRAY, (GSTRING, [""]))))
    m("merge-space", "number 0 does not join", text=words(merges=(GARRAY, (GSTRING, ["a "]))))
    m("merge-long", "number 0 does not join", text=words(merges=(GARRAY, (GSTRING, ["a " + "b" * 9000]))))
    m("scores-missing", "neither keys", text=words(model=(GSTRING, "llama"), merges=...))
    m("scores-few", "neither keys", text=words(model=(GSTRING, "llama"), merges=..., scores=(GARRAY, (GF32, [1, 2]))))
    m("scores-nan", "holds something that is no number",
      text=words(model=(GSTRING, "llama"), merges=..., scores=(GARRAY, (GF32, [1, float("nan"), 2, 3]))))
    m("end-beyond", "eos_token_id' is out of range", text=words(eos_token_id=(GU32, 4)))
    m("no-start", "a token is added to every text that has no id", text=words(add_bos_token=(GBOOL, 1)))
    m("add-number", "'tokenizer.ggml.add_bos_token' is no truth value", text=words(add_bos_token=(GU32, 1)))
    m("kind", "tokenizers of kind 'bert'", text=words(model=(GSTRING, "bert")))
    m("split", "splitting 'klingon'", text=words(pre=(GSTRING, "klingon")))
    m("split-missing", "splitting '(missing)'", text=words(pre=...))
    m("template", "'tokenizer.chat_template' is no text", text=words() + [("tokenizer.chat_template", GU32, 1)])
    m("sampling", "no finite number", text=words() + [("general.sampling.temp", GSTRING, "hot")])


def main():
    torch_zip()
    torch_pickle()
    safetensors()
    json_files()
    configs()
    spiece()
    gguf_files()
    wanted = {line.split("\t")[0] for line in expected}
    for reader in {name.split("/")[0] for name in wanted}:
        for name in os.listdir(os.path.join(HERE, reader)):
            if f"{reader}/{name}" not in wanted:
                os.remove(os.path.join(HERE, reader, name))
    if len(wanted) != len(expected):
        raise SystemExit("a name was used twice")
    with open(os.path.join(HERE, "expected.txt"), "w") as f:
        f.writelines(expected)
    print(len(expected), "files")
    return 0


if __name__ == "__main__":
    sys.exit(main())

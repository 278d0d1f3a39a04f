#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one call of the system after the other fail under every verb.

    walk.py QMOE SHIM SOURCE_DIR [--all] [--case NAME] [--group NAME]

SHIM is the library of tests/tools/fault.c.  Whatever fails, the tool must not
crash or hang; it ends with exit code 0 only if its result is right, else with
one error line; its source is as it was; its output is whole or absent, and
what it replaces old or new.  Some points of each walk are tried, with --all
every one.  Ends with exit code 77 where a library cannot be preloaded."""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile

TIMEOUT_S = 60
FEW = 2

# What fails, and how: group of calls, error, all calls from that one on.
FAULTS = [
    ("open", "EIO", False),
    ("write", "ENOSPC", False),
    ("write", "ENOSPC", True),
    ("write", "EINTR", False),
    ("write", "short", False),
    ("read", "EIO", False),
    ("read", "EINTR", False),
    ("read", "short", False),
    ("sync", "EIO", False),
    ("truncate", "ENOSPC", False),
    ("rename", "EIO", False),
    ("unlink", "EIO", False),
    ("mmap", "ENOMEM", False),
    ("malloc", "ENOMEM", False),
    ("malloc", "ENOMEM", True),
    ("thread", "EAGAIN", False),
]


class Case:
    def __init__(self, name, arguments, source, old=None):
        self.name = name
        self.arguments = arguments
        self.source = source  # must stay as it is
        self.old = old  # what stands in the place of the output before
        self.writes = "-o" in arguments
        self.reads_text = arguments[0] in ("generate", "eval")


def make_cases(mini):
    plan = ["--rate", "1e6", "--memory-rate", "1G", "--memory", "1G"]
    run = [mini, "-b", "cpu", "-t", "2"]
    return [
        Case("compress", ["compress", "tied", "--method", "rtn",
                          "--no-tokenizer", "-t", "2", "-o", "out"], "tied"),
        Case("replace", ["compress", "tied", "--method", "rtn", "--force",
                         "--no-tokenizer", "-t", "2", "-o", "out"], "tied",
             old="model"),
        Case("export", ["export", "model", "--dequantize", "-t", "2", "-o",
                        "out"], "model"),
        Case("publish", ["export", "model", "--layout", "qmoe", "-o", "out"],
             "model"),
        Case("import", ["import", "published", "-o", "out"], "published"),
        Case("gguf", ["import", "gguf/m.gguf", "-o", "out"], "gguf"),
        Case("verify", ["verify", "model", "-t", "2"], "model"),
        Case("inspect", ["inspect", "model"], "model"),
        Case("plan", ["plan", "tied"] + plan, "tied"),
        Case("generate", ["generate"] + run + ["-p", "x", "--max-new-tokens",
                                               "2"], "tied"),
        Case("eval", ["eval"] + run + ["--text", "text", "--samples", "1"],
             "tied"),
    ]


def same_tree(a, b, lines=()):
    """Two directories with the same files, byte for byte; `a` may have others
    that a line names."""
    if not (os.path.isdir(a) and os.path.isdir(b)):
        return False
    names = sorted(os.listdir(b))
    more = set(os.listdir(a)) - set(names)
    if not all(any(name in line for line in lines) for name in more):
        return False
    return all(os.path.exists(os.path.join(a, n)) and
               filecmp.cmp(os.path.join(a, n), os.path.join(b, n), False)
               for n in names)


def without_times(text):
    return re.sub(rb"(?m)^.*\b(time|seconds)\b.*$", b"", text)


class Walk:
    def __init__(self, options):
        self.options = options
        self.n_points = self.n_failures = 0

    def run(self, case, fault=None, at=0):
        # Start-up code of drivers is not ours: no modules.
        environment = dict(os.environ, LC_ALL="C", QMOE_BACKEND_PATH="no-modules")
        if fault is not None:
            group, error, on = fault
            environment.update(
                LD_PRELOAD=os.path.abspath(self.options.shim),
                QMOE_FAULT_GROUP=group, QMOE_FAULT_ERROR=error,
                QMOE_FAULT_AT=str(at), QMOE_FAULT_COUNT="count")
            if on:
                environment["QMOE_FAULT_ON"] = "1"
        try:
            return subprocess.run(
                [self.options.qmoe] + case.arguments, env=environment,
                stdin=subprocess.DEVNULL, capture_output=True,
                timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return None

    def begin(self, case):
        for name in os.listdir("."):
            if name.startswith("out") or name.startswith(".out"):
                shutil.rmtree(name)
        if case.old is not None:
            shutil.copytree(case.old, "out")

    def prepare(self):
        source = os.path.join(self.options.source, "tests/golden/tied")
        shutil.copytree(source, "tied")
        os.mkdir("gguf")
        shutil.copy(os.path.join(self.options.source,
                                 "tests/fuzz/corpus/gguf/model"), "gguf/m.gguf")
        with open("text", "w", encoding="ascii") as file:
            file.write("In the beginning the earth was without form.\n")
        for arguments in (
                ["compress", "tied", "--method", "rtn", "--no-tokenizer",
                 "--format", "ternary-dict", "-o", "model"],
                ["export", "model", "--layout", "qmoe", "-o", "published"]):
            subprocess.run([self.options.qmoe] + arguments, check=True,
                           stdout=subprocess.DEVNULL)
        for name in ("tied", "model", "published", "gguf"):
            shutil.copytree(name, name + ".kept")

    def complaint(self, case, done, known):
        """What is wrong after one run, or None."""
        if done is None:
            return "it hangs"
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if line.startswith("qmoe: error: ")]
        if done.returncode not in range(7):
            return f"it ended with {done.returncode}: {lines[-1:]}"
        if done.returncode == 0:
            if case.writes and not same_tree("out", "expected"):
                return "exit code 0, but the output is wrong"
            if not case.writes and without_times(done.stdout) != known:
                return "exit code 0, but what was printed is wrong"
        elif len(errors) != 1:
            return f"exit code {done.returncode}, not one error line: {lines}"
        if not same_tree(case.source, case.source + ".kept"):
            return "the source was changed"
        if case.writes and os.path.lexists("out"):
            old = case.old is not None and same_tree("out", case.old, errors)
            if not old and not same_tree("out", "expected", errors):
                return "the output is neither whole nor absent"
        elif case.old is not None:
            return "what was to be replaced is gone"
        for name in os.listdir("."):
            if name in self.files or name in ("out", "out.partial"):
                continue
            if not any(name in line for line in lines):
                return f"{name} was left behind silently"
        return None

    def points(self, n):
        if self.options.all or n <= FEW:
            return range(1, n + 1)
        return [1 + (2 * i + 1) * n // (2 * FEW) for i in range(FEW)]

    def walk(self, case, fault):
        self.begin(case)
        counted = self.run(case, fault)
        if counted is None or counted.returncode != 0:
            self.note(case, fault, 0, "it fails with the library preloaded")
            return
        with open("count", encoding="ascii") as file:
            n = int(file.read())
        known = without_times(counted.stdout)
        shutil.rmtree("expected", ignore_errors=True)
        if case.writes:
            os.rename("out", "expected")
        self.files = set(os.listdir(".")) | {"expected"}
        for at in self.points(n):
            self.begin(case)
            text = self.complaint(case, self.run(case, fault, at), known)
            self.n_points += 1
            if text is not None:
                self.note(case, fault, at, text)
                self.restore(case)

    def restore(self, case):
        shutil.rmtree(case.source)
        shutil.copytree(case.source + ".kept", case.source)

    def note(self, case, fault, at, text):
        self.n_failures += 1
        on = " and all after it" if fault[2] else ""
        print(f"{case.name}: {fault[0]} call {at}{on}, {fault[1]}: {text}",
              flush=True)

    def main(self):
        self.prepare()
        mini = os.path.join(self.options.source, "models/switch-mini")
        for case in make_cases(mini):
            if self.options.case not in (None, case.name):
                continue
            before = self.n_points
            for fault in FAULTS:
                # SentencePiece goes on with a reserve that is set free for
                # it, which a library that refuses everything refuses, too.
                if case.reads_text and fault[0] == "malloc" and fault[2]:
                    continue
                if self.options.group in (None, fault[0]):
                    self.walk(case, fault)
            print(f"{case.name}: {self.n_points - before} points", flush=True)
        print(f"{self.n_points} points, {self.n_failures} failures")
        return 0 if self.n_points != 0 and self.n_failures == 0 else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("qmoe")
    parser.add_argument("shim")
    parser.add_argument("source")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--case")
    parser.add_argument("--group")
    options = parser.parse_args()
    options.qmoe = os.path.abspath(options.qmoe)
    options.shim = os.path.abspath(options.shim)
    options.source = os.path.abspath(options.source)
    with open(options.qmoe, "rb") as program:
        content = program.read()
        if b"__asan_init" in content or b"__tsan_init" in content:
            print("skipped: sanitizers and a preloaded allocator exclude each "
                  "other")
            return 77
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return Walk(options).main()
        finally:
            os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())

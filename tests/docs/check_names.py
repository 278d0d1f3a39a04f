#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that what the documents name exists.

In every Markdown file of the repository: relative links lead to a file,
`folder/...` in backquotes is a path of the tree, and `qmi_...` and the like is
a name of the sources.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = "backends bench ci cli cmake core docs exchange include lib models plan quant scripts tests"
SOURCES = ("*.[ch]", "*.sh", "*.cpp", "*.cu", "*.cl", "CMakeLists.txt", "*.cmake")
LINK = re.compile(r"\[[^\]]*\]\(([^)#: ]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS.split())})/[A-Za-z0-9_./-]*\Z")
NAME = re.compile(r"\b(?:qmoe|qmi|qcpu|QMOE|QMI)_[A-Za-z0-9_]*[A-Za-z0-9]\b")


def tracked(patterns, folders):
    for folder in folders:
        for pattern in patterns:
            yield from (ROOT / folder).rglob(pattern)


def documents():
    yield from ROOT.glob("*.md")
    yield from tracked(("*.md",), FOLDERS.split())


def source_names():
    names = set()
    files = [ROOT / "CMakeLists.txt", *tracked(SOURCES, FOLDERS.split())]
    for path in files:
        names.update(NAME.findall(path.read_text(errors="replace")))
        # Options of one kind share a loop.
        for parts in re.findall(r"foreach\(part ([A-Z ]+)\)", path.read_text()):
            names.update(f"QMOE_{part}" for part in parts.split())
    # Status names are pasted together by a macro.
    header = (ROOT / "include/qmoe/qmoe.h").read_text()
    names.update(f"QMOE_{name}" for name in re.findall(r"X\((\w+), -?\d", header))
    return names


def problems(document, names):
    text = document.read_text()
    for target in LINK.findall(text):
        if not (document.parent / target).exists():
            yield f"link to {target}: no such file"
    for code in CODE.findall(text):
        for word in code.split():
            if PATH.match(word) and not (ROOT / word).exists():
                yield f"{word}: no such file"
        for name in NAME.findall(code):
            if name not in names:
                yield f"{name}: not in the sources"


def main():
    names = source_names()
    n_problems = n_documents = 0
    for document in sorted(set(documents())):
        n_documents += 1
        for problem in problems(document, names):
            print(f"{document.relative_to(ROOT)}: {problem}")
            n_problems += 1
    print(f"{n_documents} documents, {n_problems} problems")
    return 1 if n_problems or not n_documents else 0


if __name__ == "__main__":
    sys.exit(main())

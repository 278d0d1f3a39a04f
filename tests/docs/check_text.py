#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the form of the documents.

Every word of WORDS is defined once in docs/glossary.md, and no document uses
a phrase of the glossary's last table.  Links lead to headings that are there.
No line is longer than WIDTH, except in tables and code, and where a word such
as an address is longer than that.
"""

import re
import sys

from check_names import ROOT, documents

WIDTH = 100
WORDS = """
    batch, block, case, format, graph, group, harness, item, job, journal,
    launch run, method, mutant, part, pass, portion, probe, program,
    quantiser, role, room, round, sample, sequence, session, slot, stack,
    stage, step, sweep, synthetic checkpoint, team, trial, variant
"""
GLOSSARY = ROOT / "docs/glossary.md"
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#: ]*)#([^) ]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
LIST_ITEM = re.compile(r" *([-*]|\d+\.) ")


def without_fences(text):
    """The text with fenced code blanked, line by line."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def rows(text, title):
    """First cells of the tables below a heading; all tables without one."""
    if title is not None:
        text = text.split(f"## {title}\n", 1)[1]
    else:
        text = text.split("## Phrases", 1)[0]
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield line.split("|")[1].strip()


def anchors(text):
    """The anchors of headings as GitHub makes them, and explicit ones."""
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in HEADING.findall(without_fences(text)):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        anchor = base = plain.replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{base}-{number}"
        found.add(anchor)
    return found


def glossary_problems(text):
    defined = [
        word.strip()
        for cell in rows(text, None)
        if cell != "word"
        for word in cell.split(",")
    ]
    for word in sorted(set(defined)):
        if defined.count(word) > 1:
            yield f"{word}: defined {defined.count(word)} times"
    for word in (word.strip() for word in WORDS.split(",")):
        if word not in defined:
            yield f"{word}: not defined"


def wide_lines(text):
    """Numbers of lines of prose that a break at a space would shorten."""
    in_list = False
    for number, line in enumerate(without_fences(text).split("\n"), 1):
        if LIST_ITEM.match(line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        code = line.startswith(" " * (6 if in_list else 4))
        if code or line.startswith(("|", "<", "#")) or len(line) <= WIDTH:
            continue
        words = CODE.sub(lambda code: "_" * len(code[0]), line).strip()
        if " " in words.lstrip("-* "):
            yield number


def phrases_used(text, phrases):
    prose = " ".join(CODE.sub("", without_fences(text)).lower().split())
    for phrase in phrases:
        if re.search(rf"\b{re.escape(phrase)}\b", prose):
            yield phrase


def problems(document, text, phrases):
    for target, anchor in LINK.findall(text):
        path = document.parent / target if target else document
        if path.exists() and anchor not in anchors(path.read_text()):
            yield f"link to {target}#{anchor}: no such heading"
    for number in wide_lines(text):
        yield f"line {number} is longer than {WIDTH}"
    if document != GLOSSARY:
        for phrase in phrases_used(text, phrases):
            yield f'"{phrase}": see the last table of docs/glossary.md'


def main():
    glossary = GLOSSARY.read_text()
    phrases = [
        phrase.strip()
        for cell in rows(glossary, "Phrases not used")
        if cell != "instead of"
        for phrase in cell.split(",")
    ]
    found = [f"docs/glossary.md: {p}" for p in glossary_problems(glossary)]
    checked = sorted(set(documents()))
    for document in checked:
        for problem in problems(document, document.read_text(), phrases):
            found.append(f"{document.relative_to(ROOT)}: {problem}")
    print("\n".join([*found, f"{len(checked)} documents, {len(found)} problems"]))
    return 1 if found or not checked or not phrases else 0


if __name__ == "__main__":
    sys.exit(main())

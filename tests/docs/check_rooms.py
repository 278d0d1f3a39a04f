#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints which room includes which, and compares it with docs/architecture.md.

A room is a folder of product code; programs/ in it are not part of it.  ROOMS lists them from the ground up: an
include may only point to a room that comes earlier.  Inside a room no files
may include each other in a circle; a source and the header of its name count
as one file.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = """core/base core/formats core/ops core/files core/text core/model core/run
    backends/cpu backends/opencl backends/cuda
    quant/quantisers quant/output quant/experts quant/backward quant/job
    exchange plan bench lib cli""".split()
INCLUDE = re.compile(r'^\s*#\s*include "([^"]+)"', re.M)
LISTED = re.compile(r"^```rooms\n(.*?)^```", re.M | re.S)
# Rooms that must not see each other although one comes earlier.
APART = [("backends/opencl", "backends/cpu"), ("backends/cuda", "backends/cpu"),
         ("backends/cuda", "backends/opencl"), ("quant/", "backends/"), ("cli", "")]


def sources(room):
    for path in sorted((ROOT / room).rglob("*")):
        if "programs" not in path.parts and path.suffix in (".c", ".h", ".cpp", ".cu", ".cuh"):
            yield path


def read():
    """{(room, file stem): {(room, file stem) it includes}}"""
    room_of, headers = {}, {}
    for room in ROOMS:
        for path in sources(room):
            room_of[path] = room
            if path.suffix in (".h", ".cuh"):
                headers.setdefault(path.name, []).append(path)
    graph = {}
    for path, room in room_of.items():
        targets = graph.setdefault((room, path.stem), set())
        for name in INCLUDE.findall(path.read_text()):
            if name.startswith("qmoe/"):  # public, seen by all
                continue
            if name.startswith("qmoe/"):
                continue
            found = headers.get(pathlib.PurePath(name).name, [])
            own = [h for h in found if room_of[h] == room]
            for header in (own or found)[:1]:
                if (room_of[header], header.stem) != (room, path.stem):
                    targets.add((room_of[header], header.stem))
    return graph


def room_lines(graph):
    seen = {room: set() for room in ROOMS}
    for (room, _), targets in graph.items():
        seen[room].update(other for other, _ in targets if other != room)
    for room in ROOMS:
        below = sorted(seen[room], key=ROOMS.index)
        yield f"{room} -> {' '.join(below)}" if below else room


def forbidden(graph):
    for (room, name), targets in sorted(graph.items()):
        for other, header in sorted(targets):
            if ROOMS.index(other) > ROOMS.index(room):
                yield f"{room}/{name} includes {header}.h of {other}, which stands above it"
            elif other != room and any(room.startswith(a) and other.startswith(b) for a, b in APART):
                yield f"{room}/{name} includes {header}.h of {other}, which it must not see"


def circles(graph):
    """Circles of includes between the files of one room, each once."""
    state, path = {}, []

    def visit(node):
        state[node] = "open"
        path.append(node)
        for target in sorted(graph.get(node, ())):
            if target[0] != node[0]:
                continue
            if state.get(target) == "open":
                names = [name for _, name in path[path.index(target):]]
                yield f"{node[0]}: circle of {' -> '.join(names + names[:1])}"
            elif target not in state:
                yield from visit(target)
        path.pop()
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            yield from visit(node)


def main():
    graph = read()
    lines = list(room_lines(graph))
    print("\n".join(lines))
    problems = [*forbidden(graph), *circles(graph)]
    document = LISTED.search((ROOT / "docs/architecture.md").read_text())
    if document is None or document.group(1).splitlines() != lines:
        problems.append("docs/architecture.md: its list of rooms is not this one")
    for problem in problems:
        print(problem)
    print(f"{len(ROOMS)} rooms, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

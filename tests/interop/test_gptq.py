#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The quantisers against the paper's algorithm, written out plainly.

The reference below follows the textbook: damp the Hessian, invert it, take the
upper Cholesky factor U, and walk over the columns, spreading error / U_jj along
row j of U.  The built tool never inverts anything and works in another order,
so values differ by rounding: a code may differ only where the reference's own
value lies next to a threshold, and only that row may go another way after it.

    python3 tests/interop/test_gptq.py BUILD_DIR
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

DAMPING = 0.1
DAMPING_FLOOR = 1e-6
# Distance of a value from a threshold, in units of the row's largest weight,
# below which float32 may decide either way.
NOISE = 2e-4
# Rows allowed to go another way, of all rows.
MOST_UNDECIDED = 0.02
RELATIVE_ERROR = 1e-3


# ---- the algorithm ----------------------------------------------------------


def to_bfloat16(values):
    """float32 rounded to bfloat16, half to even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


class Ternary:
    """Per row {min, 0, max}; above max / 2 is max, below min / 2 is min."""

    n_codes = 3

    def __init__(self, weights):
        self.low = np.minimum(weights.min(axis=1), np.float32(0))
        self.high = np.maximum(weights.max(axis=1), np.float32(0))

    def choose(self, column):
        code = np.where(column > self.high / 2, 2, column < self.low / 2)
        # A level that is zero and zero itself are one value: one code.
        return np.where(self.values(code) == 0, 0, code)

    def values(self, code):
        return np.choose(code, [np.zeros_like(self.low), self.low, self.high])

    def margin(self, column):
        to_high = np.abs(column - self.high / 2)
        gap = np.minimum(to_high, np.abs(column - self.low / 2))
        return gap / np.maximum(np.maximum(self.high, -self.low), 1e-30)


class TwoBit:
    """Four even steps between the row's extremes; zero is one of them."""

    n_codes = 4

    def __init__(self, weights):
        low = np.minimum(weights.min(axis=1), np.float32(0))
        high = np.maximum(weights.max(axis=1), np.float32(0))
        dead = (low == 0) & (high == 0)
        low[dead], high[dead] = -1, 1
        self.scale = ((high - low) / np.float32(3)).astype(np.float32)
        self.zero = np.round(-low / self.scale)

    def choose(self, column):
        code = np.round(column / self.scale) + self.zero
        return np.clip(code, 0, 3).astype(int)

    def values(self, code):
        return self.scale * (code - self.zero).astype(np.float32)

    def margin(self, column):
        steps = column / self.scale
        return np.abs(steps - np.floor(steps) - 0.5) / 3


def upper_factor(inputs):
    """U with U^T U = (H + d I)^-1."""
    n_tokens, width = inputs.shape
    inputs = inputs.astype(np.float64)
    hessian = inputs.T @ inputs * (n_tokens / 2) if n_tokens else np.eye(width)
    damping = max(DAMPING * np.mean(np.diag(hessian)), DAMPING_FLOOR)
    inverse = np.linalg.inv(hessian + damping * np.eye(width))
    return np.linalg.cholesky(inverse).T


def gptq(weights, factor, grid):
    """Codes, and how close each value was to a threshold."""
    rest = weights.astype(np.float64)
    codes = np.zeros(weights.shape, int)
    margins = np.zeros(weights.shape)
    for j in range(weights.shape[1]):
        column = rest[:, j]
        codes[:, j] = grid.choose(column)
        margins[:, j] = grid.margin(column)
        error = (column - grid.values(codes[:, j])) / factor[j, j]
        rest[:, j:] -= np.outer(error, factor[j, j:])
    return codes, margins


def output_error(difference, inputs):
    return np.sum((inputs.astype(np.float64) @ difference.T.astype(np.float64)) ** 2)


# ---- the tool ---------------------------------------------------------------


@dataclasses.dataclass
class Result:
    decoded: np.ndarray
    report: dict


class Tool:
    def __init__(self, build, directory):
        self.program = build / "tests" / "gptq_tool"
        self.directory = pathlib.Path(directory)

    def run(self, method, kind, weights, inputs):
        paths = [self.directory / name for name in ("weights", "inputs", "decoded")]
        weights.astype("<f4").tofile(paths[0])
        inputs.astype("<f4").tofile(paths[1])
        n_rows, n_cols = weights.shape
        command = [self.program, method, kind, "minmax", 0, n_rows, n_cols, *paths]
        process = subprocess.run(
            [str(argument) for argument in command],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode != 0:
            raise SystemExit(process.stderr.strip())
        decoded = np.fromfile(paths[2], "<f4").reshape(weights.shape)
        return Result(decoded, json.loads(process.stdout))


# ---- cases ------------------------------------------------------------------

SHAPES = [
    (1, 1),
    (3, 1),
    (1, 9),
    (5, 129),
    (33, 16),
    (37, 131),
    (64, 128),
    (70, 257),
    (96, 300),
    (40, 515),
]


def random_inputs(rng, kind, n_tokens, width):
    mixing = rng.normal(size=(width, width)) / np.sqrt(width) + np.eye(width)
    inputs = rng.normal(size=(n_tokens, width)) @ mixing
    if kind == "relu":
        inputs = np.maximum(inputs - 0.5, 0)
        inputs[:, ::3] = 0
    elif kind == "mean":
        inputs = 0.1 * inputs + 3 * rng.normal(size=width)
    elif kind == "uneven":
        inputs *= np.exp(rng.normal(size=width))
    return inputs.astype(np.float32)


def cases(rng):
    """(name, weights, inputs) of every shape and kind of inputs."""
    for shape in SHAPES:
        for kind in ("mixed", "relu", "mean", "uneven", "few", "none"):
            n_tokens = {"few": 3, "none": 0}.get(kind, 2 * shape[1] + 7)
            weights = rng.normal(size=shape).astype(np.float32)
            if rng.random() < 0.5:
                weights = to_bfloat16(weights)
            weights[rng.integers(shape[0])] *= 0 if rng.random() < 0.2 else 1
            if rng.random() < 0.2:
                row = rng.integers(shape[0])
                weights[row] = np.abs(weights[row])
            inputs = random_inputs(rng, kind, n_tokens, shape[1])
            yield f"{shape[0]}x{shape[1]} {kind}", weights, inputs


# ---- comparison -------------------------------------------------------------

KINDS = {"ternary-dict": Ternary, "q2": TwoBit}


def compare(name, result, weights, grid, codes, margins):
    """Number of rows that went another way; raises where they must not."""
    every_code = [np.full(len(weights), code) for code in range(grid.n_codes)]
    stored = np.stack([to_bfloat16(grid.values(code)) for code in every_code]).T
    n_undecided = 0
    for row, (values, row_codes) in enumerate(zip(result.decoded, codes)):
        different = np.flatnonzero(values != stored[row][row_codes])
        if not len(different):
            continue
        n_undecided += 1
        first = different[0]
        if margins[row, first] > NOISE:
            raise AssertionError(
                f"{name}: row {row}, column {first}: {values[first]} instead of "
                f"{stored[row][row_codes[first]]}, "
                f"{margins[row, first]:.2g} from a threshold"
            )
        if not np.isin(values, stored[row]).all():
            raise AssertionError(f"{name}: row {row} holds values off its grid")
    return n_undecided


def check_error(name, result, weights, inputs):
    """The reported error is that of the decoded matrix."""
    difference = weights - result.decoded
    if not np.any(inputs):  # nothing is known: all outputs count alike
        inputs = np.eye(weights.shape[1])
    energy = output_error(weights, inputs)
    expected = {"error": output_error(difference, inputs), "energy": energy}
    for what, value in expected.items():
        gap = abs(result.report[what] - value)
        if gap > RELATIVE_ERROR * value + 1e-6 * energy:
            raise AssertionError(f"{name}: {what} {result.report[what]}, not {value}")


def check_case(tool, name, weights, inputs):
    """Rows, and rows that went another way, over both formats."""
    n_undecided = 0
    for kind, make_grid in KINDS.items():
        grid = make_grid(weights)
        for method in ("rtn", "gptq"):
            label = f"{name} {method} {kind}"
            if method == "gptq":
                codes, margins = gptq(weights, upper_factor(inputs), grid)
            else:
                codes = np.stack([grid.choose(column) for column in weights.T], axis=1)
                margins = np.ones(weights.shape)  # rounding is exact
            result = tool.run(method, kind, weights, inputs)
            n_undecided += compare(label, result, weights, grid, codes, margins)
            no_data = method == "gptq" and not np.any(inputs)
            if result.report["fell_back"] != no_data:
                raise AssertionError(f"{label}: fell back: {not no_data}")
            check_error(label, result, weights, inputs)
    return len(KINDS) * len(weights), n_undecided


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    rng = np.random.default_rng(2024)
    n_cases, totals = 0, np.zeros(2, int)
    with tempfile.TemporaryDirectory() as directory:
        tool = Tool(pathlib.Path(sys.argv[1]), directory)
        for name, weights, inputs in cases(rng):
            totals += check_case(tool, name, weights, inputs)
            n_cases += 1
    n_rows, n_undecided = totals
    print(
        f"{n_cases} matrices, {n_rows} rows by GPTQ: {n_undecided} went another way "
        "at a value next to a threshold, all others have the same codes"
    )
    if n_undecided > MOST_UNDECIDED * n_rows:
        raise SystemExit("too many rows went another way")


if __name__ == "__main__":
    main()

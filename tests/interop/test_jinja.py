#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Chat templates against jinja2, set up as transformers does it.

    python tests/interop/test_jinja.py [BUILD [CASES]]
"""

import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import warnings

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

import jinja_cases

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
N_CASES = 3000
UNSUPPORTED = -60  # QMOE_E_UNSUPPORTED


class Generation(jinja2.ext.Extension):
    """{% generation %}: rendered like a call block without arguments."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(0).strftime(f)
    return env


def theirs(env, template, variables):
    """The text, or None and the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return env.from_string(template).render(**variables), None
    except Exception as error:  # of any type that a template can cause
        return None, repr(error)


def ours(all_cases):
    """What build/tests/jinja_tool says to each case."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for template, data, plain in all_cases:
            case = {
                "template": template,
                "data": json.dumps(data),
                "plain": json.dumps(plain),
            }
            print(json.dumps(case), file=file)
        file.flush()
        done = subprocess.run(
            [BUILD / "tests" / "jinja_tool", file.name], capture_output=True
        )
    if done.returncode != 0:
        raise AssertionError(f"jinja_tool ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def wrong_marks(template, text, literal):
    """The data has no ASCII but in the dicts, whose ASCII is letters only."""
    data = "".join(str(int(byte >= 0x80)) for byte in text.encode())
    if not re.search(r"\b(d|l|messages|tools)\b", template):
        return literal != data and "\\u" not in text
    marked = zip(text.encode(), data, literal)
    return any(
        (b == "1" and a == "0") if c >= 0x80 else a == "1" and chr(c) in "<|>{}[]:;"
        for c, b, a in marked
    )


def difference(template, got, text, error):
    """Empty when both agree; what we do not support agrees with anything."""
    if got.get("status") == UNSUPPORTED:
        return ""
    if "error" in got:
        return "" if text is None else f"we fail ({got['error']}), it gives {text!r}"
    if text is None:
        return f"it fails ({error}), we give {got['text']!r}"
    if got["text"] != text:
        return f"it gives {text!r}, we {got['text']!r}"
    if wrong_marks(template, text, got["literal"]):
        return f"marks of {text!r}: {got['literal']}"
    return ""


class RandomTest(unittest.TestCase):
    def test_cases(self):
        env = environment()
        templates = jinja_cases.cases(N_CASES)
        data, plain = jinja_cases.VARIABLES, jinja_cases.PLAIN
        results = ours([(template, data, plain) for template in templates])
        self.assertEqual(len(results), len(templates))
        wrong, n_refused, n_failed = [], 0, 0
        for template, got in zip(templates, results):
            text, error = theirs(env, template, {**data, **plain})
            n_failed += text is None
            n_refused += got.get("status") == UNSUPPORTED and text is not None
            what = difference(template, got, text, error)
            if what:
                wrong.append(f"{template!r}: {what}")
        print(
            f"{len(templates)} templates, {n_failed} errors of jinja2, "
            f"{n_refused} more not supported here"
        )
        if wrong:
            self.fail(f"{len(wrong)} differ:\n" + "\n".join(wrong[:20]))
        self.assertLess(n_refused, len(templates) // 10)
        self.assertLess(n_failed, len(templates) // 2)


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather, <now> & \"soon\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rom"]},
                "days": {"type": ["integer", "null"], "default": 1.0},
                "more": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["city"],
        },
    },
}
CALL = {"function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}}
DIALOGUES = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": " Sys\n"},
        {"role": "user", "content": "Hi <|im_end|> é"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYo"},
        {"role": "user", "content": "Bye"},
    ],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "content": "sunny"},
        {"role": "assistant", "content": "Sun", "reasoning_content": "\neasy\n"},
    ],
    [],
]
SETTINGS = [{}, {"enable_thinking": False}, {"reasoning_effort": "high"}]


class FamiliesTest(unittest.TestCase):
    """Templates with the constructs of the published ones."""

    def check(self, path):
        template = path.read_text(encoding="utf-8")
        all_cases = []
        for messages in DIALOGUES:
            for tools in (None, [TOOL]):
                for number, setting in enumerate(SETTINGS):
                    data = {"messages": messages, "tools": tools, **setting}
                    plain = {"add_generation_prompt": number != 1}
                    plain.update(bos_token="<s>", eos_token="</s>")
                    all_cases.append((template, data, plain))
        env, n_texts = environment(), 0
        for (template, data, plain), got in zip(all_cases, ours(all_cases)):
            text, error = theirs(env, template, {**data, **plain})
            n_texts += text is not None
            self.assertNotEqual(got.get("status"), UNSUPPORTED, got)
            self.assertEqual(got.get("text"), text, (error, got, data))
        self.assertGreaterEqual(n_texts, 6)

    def test_families(self):
        paths = sorted((ROOT / "tests" / "chat").glob("*.jinja"))
        self.assertGreaterEqual(len(paths), 11)
        for path in paths:
            with self.subTest(path.stem):
                self.check(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        N_CASES = int(sys.argv.pop(1))
    unittest.main(verbosity=2)

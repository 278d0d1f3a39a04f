# SPDX-License-Identifier: Apache-2.0
"""Random templates in the subset of core/text/jinja.h, for test_jinja.py.

User data is written with characters beyond ASCII and templates without them, so
that the mask of a result can be read off its bytes.
"""

import random

VARIABLES = {
    "messages": [
        {"role": "ü", "content": "ä\u2003ö"},
        {"role": "é", "content": " λλ\n", "n": 2},
        {"role": "ü", "content": [{"type": "é", "text": "日本"}]},
        {"role": "é", "content": None, "tool_calls": [{"name": "д", "n": 1.5}]},
    ],
    "s": "äöüäö",
    "t": "\u2003é\u2003",
    "d": {"é": 1, "k": "ж", "items": [1, "я", None], "f": 1.0, "b": False},
    "l": [3, 1, 2, "ы", None, True, 2.5, [1, "э"], {"a": "ю"}],
    "words": ["б", "а", "в", "", "бб"],
    "tools": [{"type": "ф", "function": {"name": "ц", "parameters": {"x": [1, 2]}}}],
}
PLAIN = {
    "n": 7,
    "m": -3,
    "x": 2.5,
    "yes": True,
    "no": False,
    "nil": None,
    "a": "Some text",
    "eos": "</s>",
    "nums": [5, 3, 9, 3, -1],
    "rows": [
        {"k": "b", "v": 2, "on": True},
        {"k": "a", "v": 1, "on": False},
        {"k": "B", "v": 3},
    ],
}


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.locals = []

    def pick(self, *items):
        return self.r.choice(items)

    def chance(self, p):
        return self.r.random() < p

    # ---- expressions ----

    def literal(self):
        words = ["", "a", "ab", "Hello World", " x ", "a,b,c", "<|im|>", "\\n", "it\\'s"]
        words += ["\\x41\\u0042\\t", "two\\nlines\\n", "{{", "%}", 'q"q', "\\d", "a-b c"]
        word = self.r.choice(words)
        return '"' + word.replace('"', '\\"') + '"' if self.chance(0.3) else f"'{word}'"

    def small(self):
        return str(self.r.choice([-4, -3, -2, -1, 0, 1, 2, 3, 5, 10]))

    def ascii(self, depth):
        """A string without user data."""
        if depth <= 0 or self.chance(0.4):
            return self.pick(self.literal(), "a", "eos", self.literal())
        inner = self.ascii(depth - 1)
        return self.pick(
            f"({inner})|{self.pick('upper', 'lower', 'title', 'capitalize', 'trim')}",
            f"({inner}).{self.pick('upper', 'lower', 'title', 'capitalize')}()",
            f"({inner} + {self.literal()})",
            f"({inner} * {self.small()})",
            f"({inner})|e",
            f"({inner})|indent({self.pick('', '2', '1, true', '2, first=true, blank=true')})",
        )

    def string(self, depth):
        if depth <= 0:
            return self.pick(self.literal(), "s", "t", "a", "messages[0].content")
        d = depth - 1
        e = self.string(d)
        return self.r.choice(
            [
                lambda: f"({e} + {self.string(d)})",
                lambda: f"({e} ~ {self.any(d)} ~ {self.any(d)})",
                lambda: f"{e}|trim",
                lambda: f"({e})|trim({self.literal()})",
                lambda: f"({e}).{self.pick('strip', 'lstrip', 'rstrip')}({self.pick('', self.literal(), 's')})",
                lambda: f"({e})|replace({self.string(0)}, {self.string(0)}{self.pick('', ', 1')})",
                lambda: f"({e}).replace({self.string(0)}, {self.string(0)}{self.pick('', ', 1')})",
                lambda: f"({e}){self.slice()}",
                lambda: f"({e})[{self.small()}]",
                lambda: f"({self.list(d)})|join({self.pick('', self.literal(), 's')})",
                lambda: f"({self.string(0)}).join({self.pick('words', 'words', self.list(d))})",
                lambda: f"({self.any(d)})|string",
                lambda: f"({self.any(d)})|tojson{self.pick('', '', '', '(indent=2)', '(ensure_ascii=true)', '(indent=1, separators=[*,*, *:*])'.replace('*', chr(39)))}",
                lambda: f"({self.pick('tools', 'd', 'messages')})|tojson{self.pick('', '(indent=4)')}",
                lambda: f"({e} if {self.bool(d)} else {self.string(d)})",
                lambda: f"({self.any(d)})|default({self.string(0)}{self.pick('', ', true')})",
                lambda: f"({e}).split({self.literal()})[{self.pick('0', '-1')}]",
                lambda: f"({e})|{self.pick('first', 'last', 'reverse')}",
                lambda: f"({e}).{self.pick('removeprefix', 'removesuffix')}({self.literal()})",
                lambda: f"({e})|safe",
                lambda: self.ascii(depth),
                lambda: f"d[{self.pick(chr(39) + 'k' + chr(39), 's', self.literal())}]",
            ]
        )()

    def slice(self):
        def part():
            return self.pick("", "", self.small())

        return f"[{part()}:{part()}{self.pick('', '', ':' + part())}]"

    def int(self, depth):
        if depth <= 0:
            return self.pick(self.small(), "n", "m", "nums[0]", "0x1f", "1_000", "x", "2.5", "1e3")
        d = depth - 1
        return self.r.choice(
            [
                lambda: f"({self.int(d)} {self.pick('+', '-', '*', '/', '//', '%')} {self.int(d)})",
                lambda: f"({self.int(d)} ** {self.pick('2', '3', '0', '-1', '0.5')})",
                lambda: f"{self.pick('-', '+')}{self.int(d)}",
                lambda: f"({self.any(d)})|{self.pick('length', 'count')}",
                lambda: f"({self.any(d)})|{self.pick('int', 'float', 'int(4)', 'float(1.5)')}",
                lambda: f"{self.pick('12', ' 7 ', '1.5', '1e2', 'x', '-3', '1_0', '')!r}|{self.pick('int', 'float')}",
                lambda: f"({self.int(d)})|abs",
                lambda: f"({self.int(d)})|round({self.pick('', '1', '2', 'method=' + chr(39) + 'floor' + chr(39), '1, ' + chr(39) + 'ceil' + chr(39))})",
                lambda: f"({self.string(d)}).{self.pick('find', 'count', 'index')}({self.string(0)})",
                lambda: f"({self.pick('nums', self.list(d))})|{self.pick('sum', 'min', 'max')}",
                lambda: f"rows|sum(attribute='v')",
            ]
        )()

    def bool(self, depth):
        if depth <= 0:
            return self.pick("true", "False", "yes", "no", "nil", "s", "nope", "[]", "{}", "0")
        d = depth - 1
        names = ["defined", "undefined", "none", "string", "number", "integer", "float"]
        names += ["boolean", "true", "false", "mapping", "sequence", "iterable", "odd", "even"]
        names += ["eq(1)", "equalto 'a'", "in [1, 2]", "divisibleby 3", "lt 4", "ge(2)", "callable"]
        return self.r.choice(
            [
                lambda: f"({self.any(d)} {self.pick('==', '!=')} {self.any(d)})",
                lambda: f"({self.int(d)} {self.pick('<', '<=', '>', '>=')} {self.int(d)})",
                lambda: f"({self.string(d)} {self.pick('<', '>=')} {self.string(d)})",
                lambda: f"({self.int(d)} < {self.int(d)} {self.pick('<', '!=')} {self.int(d)})",
                lambda: f"({self.any(d)} {self.pick('in', 'not in')} {self.pick(self.list(d), 'd', self.string(d))})",
                lambda: f"({self.bool(d)} {self.pick('and', 'or')} {self.any(d)})",
                lambda: f"(not {self.any(d)})",
                lambda: f"({self.any(d)} is {self.pick('', 'not ')}{self.r.choice(names)})",
                lambda: f"({self.pick('nope', 'd.nope', 'd.k', 's.upper', 'l[99]', 'messages[0].role')} is {self.pick('', 'not ')}{self.r.choice(names)})",
                lambda: f"({self.string(d)}).{self.pick('startswith', 'endswith')}({self.pick(self.string(0), '(' + self.literal() + ', s)')})",
                lambda: f"({self.ascii(d)}).{self.pick('isdigit', 'isalpha', 'isalnum', 'isupper', 'islower', 'isspace')}()",
            ]
        )()

    def list(self, depth):
        if depth <= 0:
            return self.pick("l", "words", "nums", "rows", "messages", "[1, 'b', 3]", "[]", "(1, 'x')", "range(4)", "('y',)", "nope")
        d = depth - 1
        return self.r.choice(
            [
                lambda: f"[{self.any(d)}, {self.any(d)}]",
                lambda: f"({self.any(d)}, {self.any(d)})",
                lambda: f"({self.list(d)}){self.slice()}",
                lambda: f"({self.list(d)} + {self.list(d)})",
                lambda: f"({self.list(d)})|{self.pick('list', 'reverse|list', 'sort', 'sort(reverse=true)', 'reverse')}",
                lambda: f"({self.string(d)}).{self.pick('split', 'rsplit')}({self.pick('', self.literal(), 's', self.literal() + ', 1', 'none, 1')})",
                lambda: f"({self.string(d)}).splitlines({self.pick('', 'true')})",
                lambda: f"({self.string(d)})|list",
                lambda: f"d.{self.pick('keys()|list', 'values()|list', 'items()|list', 'items()', 'nope')}",
                lambda: f"d|{self.pick('items|list', 'items', 'dictsort', 'list')}",
                lambda: f"({self.list(d)})|{self.pick('select', 'reject')}({self.pick('', chr(39) + 'string' + chr(39), chr(39) + 'eq' + chr(39) + ', 3', chr(39) + 'none' + chr(39))})|list",
                lambda: f"{self.pick('rows', 'messages')}|{self.pick('selectattr', 'rejectattr')}({self.pick('*k*', '*on*', '*on*, *defined*', '*v*, *gt*, 1', '*role*, *equalto*, s', '*content*, *string*')})|list".replace("*", "'"),
                lambda: f"{self.pick('rows', 'messages')}|map(attribute='{self.pick('k', 'role', 'content', 'v', 'nope', 'content.0.text')}'{self.pick('', ', default=' + self.literal())})|list",
                lambda: f"({self.list(d)})|map('{self.pick('string', 'trim', 'tojson', 'length', 'int', 'upper')}')|list",
                lambda: f"rows|{self.pick('sort', 'min', 'max')}(attribute='{self.pick('k', 'v')}')",
                lambda: f"range({self.small()}, {self.small()}, {self.pick('1', '2', '-1', '-3')})",
                lambda: f"({self.list(d)} * {self.pick('0', '2')})",
            ]
        )()

    def dict(self, depth):
        d = depth - 1
        return self.r.choice(
            [
                lambda: "d",
                lambda: "messages[0]",
                lambda: f"{{'a': {self.any(d)}, {self.pick(self.literal(), '1', 'true', 's')}: {self.any(d)}}}",
                lambda: f"dict(a={self.any(d)}, b=1)",
            ]
        )()

    def any(self, depth):
        if depth <= 0:
            return self.pick(self.string(0), self.int(0), self.bool(0), "nope", "none", "l", "d")
        return self.r.choice(
            [self.string, self.string, self.int, self.bool, self.list, self.dict, self.odd]
        )(depth)

    def odd(self, depth):
        """What is often an error."""
        d = depth - 1
        return self.r.choice(
            [
                lambda: f"({self.any(d)}).{self.pick('k', 'items', 'role', 'upper', 'nope', 'content')}",
                lambda: f"({self.any(d)})[{self.any(d)}]",
                lambda: f"({self.any(d)})[{self.pick('0', '-1', '1')}]",
                lambda: f"({self.any(d)} {self.pick('+', '-', '*', '%', '<', '~')} {self.any(d)})",
                lambda: f"-{self.any(d)}",
                lambda: f"d.get({self.any(d)}{self.pick('', ', ' + self.any(d))})",
                lambda: f"nope.{self.pick('x', 'x.y')}",
                lambda: f"loop.{self.pick('index', 'first', 'last', 'revindex0', 'length', 'previtem', 'nextitem', 'cycle(1, 2)')}",
                lambda: f"v",
                lambda: f"ns.{self.pick('a', 'b', 'nope')}",
                lambda: f"f({self.any(d)}{self.pick('', ', ' + self.any(d), ', q=1', ', p=1')})",
                lambda: f"({self.any(d)}, {self.any(d)})",
                lambda: f"raise_exception({self.string(0)})" if self.chance(0.1) else "1",
                lambda: f"l.{self.pick('append(1)', 'index(1)', 'count(2)', 'pop()')}",
            ]
        )()

    # ---- statements ----

    def text(self):
        return self.pick("", " ", "\n", "x", " y \n", "\n\n  ", "  \n  z", "\t", "<|s|>\n", "\r\n", "a\n ")

    def begin(self):
        return self.pick("{%", "{%", "{%-", "{%-", "{%+")

    def end(self):
        return self.pick(" %}", " %}", " -%}", " -%}", " +%}", "%}")

    def tag(self, inside):
        return f"{self.begin()} {inside}{self.end()}"

    def print(self, depth):
        return f"{self.pick('{{', '{{ ', '{{- ')} {self.any(depth)} {self.pick('}}', ' -}}', '}}')}"

    def body(self, depth):
        return "".join(
            self.text() + self.statement(depth) for _ in range(self.r.randint(1, 3))
        ) + self.text()

    def target(self):
        return self.pick("v", "w", "v, w", "s", "(v, w)")

    def statement(self, depth):
        d = depth - 1
        if depth <= 0 or self.chance(0.35):
            return self.print(2)
        jump = self.tag(f"if {self.bool(1)}") + self.tag(self.pick("break", "continue")) + self.tag("endif")
        return self.r.choice(
            [
                lambda: self.tag(f"if {self.bool(2)}") + self.body(d) + self.pick("", self.tag(f"elif {self.bool(1)}") + self.body(d)) + self.pick("", self.tag("else") + self.body(d)) + self.tag("endif"),
                lambda: self.tag(f"for {self.pick('v', 'v', 'v, w')} in {self.list(2)}") + self.body(d) + self.pick("", jump) + self.text() + self.pick("", self.tag("else") + self.text()) + self.tag("endfor"),
                lambda: self.tag(f"for v in {self.list(1)} if {self.pick(self.bool(1), 'v', 'v is string', 'loop is defined')}") + self.print(1) + self.pick("{{ loop.index }}", "{{ loop.last }}") + self.tag("endfor"),
                lambda: self.tag(f"for k, v in d.items()") + "{{ k }}={{ v }}" + self.body(d) + self.tag("endfor"),
                lambda: self.tag(f"set {self.target()} = {self.any(2)}"),
                lambda: self.tag(f"set v, w = {self.any(1)}, {self.any(1)}"),
                lambda: self.tag(f"set v{self.pick('', ' | trim', '|upper | replace(1, 2)')}") + self.body(d) + self.tag("endset"),
                lambda: self.tag(f"set ns = namespace(a={self.any(1)}, b=0)") + self.tag(f"for i in range(3)") + self.tag("set ns.b = ns.b + i") + self.tag("endfor") + "{{ ns.b }}{{ ns.a }}",
                lambda: self.tag("set ns.a = " + self.any(1)),
                lambda: self.tag(f"macro f(p{self.pick('', ', q', ', q=2', '=1, q=p')})") + "[{{ p }}|{{ q }}" + self.body(d) + "]" + self.tag("endmacro") + f"{{{{ f({self.pick('', self.any(1), self.any(1) + ', ' + self.any(1), 'q=3')}) }}}}",
                lambda: self.tag(f"with v = {self.any(1)}, w = v") + self.body(d) + self.tag("endwith"),
                lambda: self.tag(f"filter {self.pick('trim', 'upper', 'replace(1, 2) | trim')}") + self.body(d) + self.tag("endfilter"),
                lambda: self.tag("generation") + self.body(d) + self.tag("endgeneration"),
                lambda: self.pick("{#", "{#-", "{#+") + self.pick(" note ", "{{ x }}", "") + self.pick("#}", "-#}", "+#}"),
                lambda: self.begin() + " raw " + self.pick("%}", "-%}") + self.text() + "{{ x }}" + self.text() + self.begin() + " endraw " + self.end().strip(),
                lambda: self.pick("{{ v }}", "{{ w }}", "{{ s }}"),
            ]
        )()

    def template(self):
        if self.chance(0.5):
            return "".join("{{ " + self.any(3) + " }};" for _ in range(self.r.randint(1, 2)))
        return self.body(3)


def cases(n, seed=20261201):
    """n templates, the same for the same seed."""
    generator = Generator(seed)
    return [generator.template() for _ in range(n)]


# SPDX-License-Identifier: Apache-2.0
"""Text that tokenizers find difficult, made from a seed.

Words and sentences of many scripts, code, numbers, emoji, combining marks in
and out of order, runs of white space of every kind, control characters, text
of random code points, and long runs without a place to split.  Only code points
that Unicode 14 assigns: libraries differ on later ones.
"""

import random
import unicodedata

# Ranges of code points by script, letters mostly.
SCRIPTS = {
    "latin": [(0x61, 0x7A)],
    "latin1": [(0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0xFF), (0x61, 0x7A)],
    "extended": [(0x100, 0x24F), (0x1E00, 0x1EFF)],
    "greek": [(0x391, 0x3A1), (0x3A3, 0x3CE), (0x1F00, 0x1F15)],
    "cyrillic": [(0x410, 0x44F)],
    "armenian": [(0x561, 0x586)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BD)],
    "arabic": [(0x621, 0x64A), (0x64B, 0x652)],
    "devanagari": [(0x904, 0x939), (0x93E, 0x94D)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "hangul": [(0xAC00, 0xD7A3)],
    "jamo": [(0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2)],
    "kana": [(0x3041, 0x3096), (0x30A1, 0x30FA), (0x30FC, 0x30FE)],
    "han": [(0x4E00, 0x9FA5), (0x3005, 0x3007), (0x20000, 0x2A6D6)],
    "cherokee": [(0x13A0, 0x13F5)],
    "deseret": [(0x10400, 0x1044F)],
}
DIGITS = "0123456789٠١٢३४५Ⅷ½²①𝟘๔〇"
SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x2000,
                           0x2003, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)]
NO_SPACES = ["\u180e", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\x1c", "\x1f"]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~…—–€£¥§¶«»“”‘’、。，！？（）「」·•№™©®°±×÷√∞≈←→│█"
MARKS = "".join(chr(c) for c in (0x300, 0x301, 0x302, 0x303, 0x308, 0x30A, 0x323, 0x327, 0x328, 0x345, 0x1AB0, 0x20D0, 0xFE0F))
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "❤️", "🇩🇪", "1️⃣", "🤷‍♀️", "\U0001f9d1\u200d\U0001f4bb"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'ſ", "’s", "'x"]
CODE = [
    "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n",
    "def f(x):\n    return [y ** 2 for y in x if y != 3.14e-10]\n\n\n",
    "#include <stdio.h>\r\n\r\nint main(void)\r\n{\r\n    printf(\"%d\\n\", 0x1F);\r\n}\r\n",
    "SELECT * FROM t WHERE id>=100 AND name LIKE '%x_%';--comment\n",
    "<div class=\"a b\"><!-- x --></div>\n  <p>&amp;</p>\n",
    "std::vector<std::pair<int,int>> v{{1,2},{3,4}};//\n",
    "http://www.example.com/a/b?c=d&e=f#g user@example.org ~/.config/x.yaml\n",
    "getHTTPResponseCode2XML fooBar_baz FOOBar iPhone McDonald's XMLHttpRequest\n",
    "$\\frac{a_1}{b^2}$ \\begin{equation}\n",
    "-----\n=====\n*****\n||||||\n////\n",
]
ENGLISH = ("the of and to in a is that it was for on are as with his they at be this from have or by one had not but "
           "what all were when we there can an your which their said if do will each about how up out them then she "
           "many some so these would other into has more her two like him see time could no make than first been its "
           "who now people my made over did down only way find use may water long little very after words called "
           "Moses LORD unto Paris France capital Internationalization antidisestablishmentarianism").split()


def assigned(code):
    return unicodedata.category(chr(code)) not in ("Cn", "Cs")


class Mixed:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.any = [c for a, b in ((1, 0x2FFF), (0xA000, 0xABFF), (0xF900, 0x107FF), (0x1D400, 0x1FAFF))
                    for c in range(a, b) if assigned(c)]

    def word(self, script=None, longest=10):
        ranges = SCRIPTS[script or self.random.choice(list(SCRIPTS))]
        out = []
        for _ in range(self.random.randint(1, longest)):
            low, high = self.random.choice(ranges)
            code = self.random.randint(low, high)
            if assigned(code):
                out.append(chr(code))
        text = "".join(out)
        return self.random.choice([text, text, text.upper(), text.title(), unicodedata.normalize("NFD", text)])

    def english(self):
        words = [self.random.choice(ENGLISH) for _ in range(self.random.randint(3, 20))]
        if self.random.random() < 0.3:
            words[self.random.randrange(len(words))] += self.random.choice(CONTRACTIONS)
        return " ".join(words).capitalize() + self.random.choice([". ", ".\n", "! ", "?\n\n", ", "])

    def sentence(self):
        script = self.random.choice(list(SCRIPTS))
        joint = self.random.choice([" ", " ", "", "  ", "-", ", "])
        return joint.join(self.word(script) for _ in range(self.random.randint(1, 12))) + self.random.choice(PUNCTUATION)

    def marks(self):
        base = self.random.choice(["e", "a", "O", "n", " ", "", "가", "あ", "न", "ﬁ", "Å", "ö"])
        return base + "".join(self.random.choice(MARKS) for _ in range(self.random.randint(1, 4)))

    def spaces(self):
        kind = self.random.random()
        if kind < 0.3:
            return " " * self.random.randint(1, 40)
        if kind < 0.5:
            return "\n" * self.random.randint(1, 5) + " " * self.random.randint(0, 9)
        if kind < 0.6:
            return "\t" * self.random.randint(1, 6)
        return "".join(self.random.choice(SPACES + NO_SPACES[:2]) for _ in range(self.random.randint(1, 8)))

    def number(self):
        return "".join(self.random.choice(DIGITS[:10] if self.random.random() < 0.8 else DIGITS)
                       for _ in range(self.random.randint(1, 12)))

    def noise(self):
        return "".join(chr(self.random.choice(self.any)) for _ in range(self.random.randint(1, 16)))

    def control(self):
        return "".join(self.random.choice([chr(c) for c in range(1, 32)] + ["\x7f", "\x80", "\x9f"] + NO_SPACES)
                       for _ in range(self.random.randint(1, 4)))

    def long_run(self):
        unit = self.random.choice(["a", "ab", "=", "-", "é", "中", "🙂", "0", " \n", "<", "the", "\u0301"])
        return unit * self.random.randint(20, 400)

    def document(self, specials=()):
        makers = [self.english, self.english, self.english, self.sentence, self.sentence, self.number, self.spaces,
                  self.marks, self.noise, self.control, lambda: self.random.choice(CODE),
                  lambda: self.random.choice(EMOJI), lambda: self.random.choice(PUNCTUATION) * self.random.randint(1, 4),
                  lambda: self.word() + self.random.choice(CONTRACTIONS)]
        parts = []
        for _ in range(self.random.randint(1, 120)):
            parts.append(self.random.choice(makers)())
            if self.random.random() < 0.3:
                parts.append(" ")
            if specials and self.random.random() < 0.03:
                parts.append(self.random.choice(specials))
        if self.random.random() < 0.05:
            parts.append(self.long_run())
        return "".join(parts)


def documents(n_bytes, seed, specials=()):
    """Documents of at least n_bytes of UTF-8 together."""
    mixed = Mixed(seed)
    total = 0
    yield ""
    while total < n_bytes:
        text = mixed.document(specials)
        total += len(text.encode())
        yield text

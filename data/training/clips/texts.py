"""Texts to train on: those of the synthetic streams, with characters that are easily taken for others drawn on purpose."""

import random

from kvlib.lab.study import synthetic

LOOKALIKES = [
    "rn m nn ru", "l I 1 i | ! ] [", "O 0 o Q D", "cl d el", "vv w W", "5 S s $", "8 B 3 &", "2 Z z ?", "6 G b", "9 g q y", "u v n",
    "c e o C G", "f t r", "h b n k", "a o e", ". , ; : '", "' ` \" ^ *", "- _ ~ = +", "( [ { < C", ") ] } >", "/ | \\ l", "E F P R",
    "X K x", "7 T 1 ?", "4 A", "@ a Q", "# H", "M N W", "U V Y", "j i ;", "p q g"
]  # fmt: skip
TANGLED, RANDOM = 0.25, 0.08  # shares of lines: with lookalikes, and of random characters beyond those of `synthetic`
SWAPPED = 0.35  # share of the characters of a tangled line that are swapped
ALIKE: dict[str, list[str]] = {}  # what may be taken for a character; several groups may have it
for _group in map(str.split, LOOKALIKES):
    for _part in _group:
        ALIKE.setdefault(_part, []).extend(other for other in _group if other != _part)


def draw_line(rng: random.Random, split: str, max_length: int) -> str:
    """A line of 1 to `max_length` characters of the given split, as `synthetic.draw_line`, sometimes made harder to read."""
    while True:
        line = synthetic.draw_line(rng, split, max_length)
        kind = rng.random()
        if kind < TANGLED:
            line = tangle(rng, line)
        elif kind < TANGLED + RANDOM:
            line = "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, max_length)))
        line = line[:max_length].strip()
        if line and synthetic.is_held_out(line) == (split == "held_out"):
            return line


def tangle(rng: random.Random, line: str) -> str:
    """The line with some characters swapped for ones that look alike."""
    swapped = "".join(rng.choice(ALIKE[c]) if c in ALIKE and rng.random() < SWAPPED else c for c in line)
    return " ".join(swapped.split())


def draw_text(rng: random.Random, split: str, max_length: int) -> str:
    """One line, or in three of ten cases two lines joined by a newline."""
    return "\n".join(draw_line(rng, split, max_length) for _ in range(2 if rng.random() < 0.3 else 1))


def draw_next(rng: random.Random, text: str, split: str, max_length: int) -> str:
    """What the screen shows after `text`: in half of the cases a new text, else one that keeps a part of the old one."""
    kind = rng.choice(["new", "new", "new", "longer", "line", "end"])
    lines = text.split("\n")
    if kind == "longer" and len(lines) == 1:  # a second line appears below the first
        lines.append(draw_line(rng, split, max_length))
    elif kind == "line" and len(lines) == 2:  # one of two lines is replaced
        lines[rng.randrange(2)] = draw_line(rng, split, max_length)
    elif kind == "end" and len(lines[-1]) > 3:  # the last line goes on differently
        kept = lines[-1][: rng.randrange(1, len(lines[-1]) - 1)]
        lines[-1] = (kept + draw_line(rng, split, max_length))[:max_length].strip()
    else:
        return draw_text(rng, split, max_length)
    if any(synthetic.is_held_out(line) != (split == "held_out") for line in lines):
        return draw_text(rng, split, max_length)
    return "\n".join(lines)

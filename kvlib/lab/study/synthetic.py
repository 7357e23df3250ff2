"""Synthetic streams with known answers: what each scene shows, the questions about it and their true answers.

A stream is a list of `Scene`s, one per chunk (or per temporal grid). A scene shows up to two lines of text, either on a
neutral background or, as a *card*, on one of eight named colours; a scene without text is blank. Everything is a function
of integer seeds. The embedded reader was trained on the "train" split; the "held_out" split has texts, fonts and layouts
that training never used, so it measures reading and not memory. `clips.py` renders scenes and encodes them.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_LINE = 24  # characters in a line
BLANK_ANSWER = "No text visible"

COLORS = {  # name -> RGB of the card's background
    "red": (205, 35, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (238, 208, 50),
    "purple": (125, 50, 170),
    "orange": (242, 130, 25),
    "pink": (243, 135, 190),
    "cyan": (45, 195, 210),
}

QUESTIONS = {  # kind -> phrasings; the first is the one that the workbook uses
    "now": [
        "Read all text, lyrics, subtitles, or captions currently visible on screen. Output them verbatim. "
        "If there is no text, say 'No text visible'. Do NOT repeat previously mentioned text.",
        "What text is on screen now?",
        "Read the text on screen.",
        "What does the current frame say?",
    ],
    "title": [
        "What is the title of this video?",
        "What did the first frame say?",
        "Which text was shown at the very beginning?",
    ],
    "card": [
        "What did the {color} card say?",
        "Read the text of the {color} card.",
        "What was written on the last {color} card?",
    ],
    "summary": [
        "Briefly describe what you saw in the entire video.",
        "Summarize the video in one sentence.",
    ],
}

PAST_QUESTION = "What did the screen say {ago} chunks ago?"
MAX_AGO = 8  # chunks

TRAIN_LAYOUTS = ("flat", "gradient", "noise", "stripes", "vignette", "panel", "bars", "shapes", "texture")
HELD_OUT_LAYOUTS = ("subtitle_band", "diagonal_outline", "checker_outline")

WORDS = (
    "the and you that was for are with his they this have from one had word but not what all were when your can said there "
    "use each which she how their will other about out many then them these some her would make like him into time has look "
    "two more write see number way could people my than first water been call who oil its now find long down day did get "
    "come made may part love heart night light sun moon star sky river mountain valley ocean summer winter spring autumn "
    "morning evening song sing dance dream sleep wake home road wind rain snow fire gold silver green blue red white black "
    "young old dear sweet gentle bright dark deep high low far near ever never always again away stay leave remember forget "
    "hope fear joy sorrow tears smile eyes hand voice soul mind time hour year world earth heaven angel king queen child "
    "mother father sister brother friend stranger soldier sailor captain farmer garden rose lily bird lark dove horse ship "
    "sail shore island bridge tower window door table bread wine apple honey music drum bell fiddle chapter scene act "
    "welcome goodbye hello please thank sorry where why because before after under over between through across behind"
).split()


@dataclass(frozen=True)
class Scene:
    """What one chunk shows.

    text: up to two lines joined by a newline, "" for a blank screen. color: the card's colour, a key of `COLORS`; None for no
    card. font: path of a font file. layout: one of `TRAIN_LAYOUTS` or `HELD_OUT_LAYOUTS`. seed: decides everything else, such
    as the background, the font's size and where the text stands. size: the font's size as a share of the picture's height; None
    lets the seed decide.
    """

    text: str
    color: str | None
    font: str
    layout: str
    seed: int
    size: float | None = None


def dejavu_fonts() -> list[str]:
    """Paths of the DejaVu text faces that matplotlib ships: never trained on, and present wherever matplotlib is."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(str(path) for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)


def is_held_out(line: str) -> bool:
    """Whether a line of text belongs to the held-out split (a tenth of all lines, by checksum)."""
    return zlib.crc32(line.encode()) % 10 == 0


def draw_line(rng: random.Random, split: str, max_length: int = MAX_LINE) -> str:
    """A line of 1 to `max_length` printable ASCII characters of the given split, without outer or double spaces."""
    while True:
        line = _any_line(rng, rng.randint(1, max_length))
        if line and is_held_out(line) == (split == "held_out"):
            return line


def draw_text(rng: random.Random, split: str, max_length: int = MAX_LINE) -> str:
    """One line, or in three of ten cases two lines joined by a newline."""
    lines = [draw_line(rng, split, max_length) for _ in range(2 if rng.random() < 0.3 else 1)]
    return "\n".join(lines)


def draw_stream(n_chunks: int, seed: int, split: str = "held_out", fonts: Sequence[str] | None = None) -> list[Scene]:
    """A stream of `n_chunks` scenes in one font and layout: a title, then lyric lines, a third cards, a tenth blank.

    split: "train" or "held_out"; it chooses texts and layouts. fonts: font files to choose from, DejaVu by default.
    Raises ValueError for another split or no chunks.
    """
    if split not in ("train", "held_out") or n_chunks < 1:
        raise ValueError(f"split={split!r}, n_chunks={n_chunks}: give 'train' or 'held_out', and at least one chunk")
    rng = random.Random(f"{split} {seed}")
    font = rng.choice(list(fonts or dejavu_fonts()))
    layout = rng.choice(TRAIN_LAYOUTS if split == "train" else HELD_OUT_LAYOUTS)
    scenes = []
    for index in range(n_chunks):
        kind = "plain" if index == 0 else rng.choices(["plain", "card", "blank"], [0.57, 0.33, 0.10])[0]
        text = "" if kind == "blank" else draw_text(rng, split)
        color = rng.choice(list(COLORS)) if kind == "card" else None
        scenes.append(Scene(text, color, font, layout, rng.getrandbits(32)))
    return scenes


def answer(scenes: Sequence[Scene], kind: str, color: str | None = None) -> str:
    """The true answer after the stream `scenes` to a question of `kind` (a key of QUESTIONS; `color` for "card")."""
    last = scenes[-1].text
    if kind == "now":
        return last or BLANK_ANSWER
    if kind == "title":
        return scenes[0].text or BLANK_ANSWER
    if kind == "card":
        return next((s.text for s in reversed(scenes) if s.color == color), f"No {color} card seen")
    if kind == "summary":
        return summary(scenes[0].text, last)
    raise ValueError(f"kind={kind!r}: give one of {sorted(QUESTIONS)}")


def summary(title: str, last: str) -> str:
    """The one-sentence description of a stream with this title and this text on screen at the end."""
    end = f'the last text on screen is "{last}"' if last else "there is no text on screen now"
    return f'A video titled "{title}"; {end}.'.replace("\n", " ")


def _any_line(rng: random.Random, length: int) -> str:
    if rng.random() < 0.06:  # no words at all: any printable characters
        return " ".join("".join(chr(rng.randint(32, 126)) for _ in range(length)).split())
    case = rng.choices([str.lower, str.capitalize, str.title, str.upper], [0.4, 0.2, 0.25, 0.15])[0]
    words = []
    while sum(map(len, words)) + len(words) < length:
        words.append(_any_word(rng))
    line = case(" ".join(words))[:length].strip()
    if rng.random() < 0.3:
        line = line[: length - 1] + rng.choice(".,!?;:-")
    return line.strip()


def _any_word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        word = rng.choice(WORDS)
    elif kind < 0.88:  # pronounceable, but in no dictionary
        syllables = range(rng.randint(1, 4))
        word = "".join(rng.choice("bcdfghjklmnpqrstvwxyz") + rng.choice("aeiouy") for _ in syllables)
        word += rng.choice(["", "", *"bcdfghjklmnpqrstvwxz"])
    elif kind < 0.96:
        word = str(rng.randint(0, 10 ** rng.randint(1, 5)))
    else:
        word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(1, 6)))
    if rng.random() < 0.08:
        left, right = rng.choice(
            ["()", '""', "''", "[]", "{}", "<>", "# ", "@ ", "$ ", " %", "& ", "+ ", " *", "= ", "/ ", "~ "]
        )
        word = (left + word + right).replace(" ", "")
    return word + "'s" if rng.random() < 0.03 else word

"""Synthetic streams with known answers: texts, colour cards, layouts, rendering and H.264.

A stream is a list of `Scene`s, one per chunk (or per temporal grid). A scene shows up to two lines of text, either on a
neutral background or, as a *card*, on one of eight named colours; a scene without text is blank. Everything is a function
of integer seeds. The embedded reader was trained on the "train" split; the "held_out" split has texts, fonts and layouts
that training never used, so it measures reading and not memory.
"""

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_LINE = 24  # characters in a line
OUTLINED = 0.12  # share of training scenes whose letters have an outline
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
    """What one chunk shows. `text`: up to two lines joined by a newline, "" for blank; `color`: the card's colour or None;
    `font`: path of a font file; `layout`: one of TRAIN_LAYOUTS or HELD_OUT_LAYOUTS; `seed` decides the rest."""

    text: str
    color: str | None
    font: str
    layout: str
    seed: int


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


def render(scene: Scene, width: int, height: int, frames: int = 1) -> np.ndarray:
    """The scene as uint8 RGB [frames, height, width, 3]; all frames are equal."""
    return np.repeat(compose(scene, width, height)[0][None], frames, axis=0)


def compose(scene: Scene, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The scene as uint8 RGB [height, width, 3], and the centres (x, y) in pixels of its text's characters: float
    [len(scene.text), 2], newlines NaN."""
    rng = np.random.default_rng(scene.seed)
    picture = _background(scene, rng, width, height)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    centres = _draw_text(image, scene, rng) if scene.text else np.empty((0, 2))
    return np.asarray(image), centres


def write_video(path, frames: Iterable[np.ndarray], fps: float, crf: int = 23) -> None:
    """Encode uint8 RGB frames [height, width, 3] (even sizes) as H.264 yuv420p in MP4, at `fps` frames per second.

    path: a file name or a writable binary file. crf: x264's quality, 0 (best) to 51. Raises ValueError for no frames.
    """
    import av

    stream = None
    with av.open(path if hasattr(path, "write") else str(path), "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "yuv420p"
                stream.options = {"crf": str(crf), "preset": "veryfast"}
                stream.codec_context.thread_count = 1  # the same bytes on every machine
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError("no frames to write: give at least one")
        container.mux(stream.encode())


def read_video(path) -> np.ndarray:
    """All frames of a short video, uint8 RGB [frames, height, width, 3]; path: a file name or a readable binary file."""
    import av

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


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


def _background(scene: Scene, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Float RGB [height, width, 3] around 0..255: the card's colour or a neutral one, in the layout's pattern."""
    if scene.color:
        base = np.array(COLORS[scene.color]) + rng.uniform(-12, 12, 3)
    else:
        base = rng.choice([rng.uniform(0, 70), rng.uniform(0, 255), rng.uniform(185, 255)]) + rng.uniform(-10, 10, 3)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    strength, angle = rng.uniform(0.05, 0.25), rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    if scene.layout == "flat":
        shade = np.zeros_like(x)
    elif scene.layout in ("gradient", "panel"):
        shade = slope
    elif scene.layout == "noise":
        shade = _enlarge(rng.uniform(-127.5, 127.5, (rng.integers(2, 6), rng.integers(3, 9))), width, height) / 127.5
    elif scene.layout == "stripes":
        shade = 0.5 * np.sin(2 * np.pi * rng.uniform(2, 12) * (x if rng.random() < 0.5 else y))
    elif scene.layout == "bars":
        shade = np.sign(np.sin(2 * np.pi * rng.uniform(1, 8) * (slope + 0.1 * rng.uniform(-1, 1) * np.sin(6 * x))))
    elif scene.layout == "shapes":
        shade = _shapes(rng, width, height)
    elif scene.layout == "texture":
        octaves = [rng.normal(0, 60, (2**k, 2**k + 1)) for k in range(1, 7)]
        shade = sum(_enlarge(octave, width, height) for octave in octaves) / 200
    elif scene.layout == "vignette":
        shade = 0.7 - 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    elif scene.layout == "subtitle_band":
        shade = 0.5 * np.sin(9 * x + 4 * y + angle) + 0.5 * np.sin(5 * y - 7 * x * y)
    elif scene.layout == "diagonal_outline":
        shade = np.where(slope > rng.uniform(-0.2, 0.2), 0.7, -0.7)
    elif scene.layout == "checker_outline":
        cells = rng.integers(3, 7)
        shade = np.where((np.floor(x * cells * width / height) + np.floor(y * cells)) % 2 == 0, 0.4, -0.4)
    else:
        raise ValueError(f"layout={scene.layout!r}: give one of {TRAIN_LAYOUTS + HELD_OUT_LAYOUTS}")
    return base + (shade * strength)[..., None] * (60 + base)


def _enlarge(coarse: np.ndarray, width: int, height: int) -> np.ndarray:
    """Values of -128 to 127, bicubic to [height, width]."""
    picture = Image.fromarray((coarse + 127.5).clip(0, 255).astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)) - 127.5


def _shapes(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Two to nine overlapping rectangles, ellipses and triangles with hard edges: shades from -1 to 1 [height, width]."""
    picture = Image.new("L", (width, height), int(rng.uniform(60, 195)))
    drawing = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 10)):
        corners = rng.uniform(-0.2, 1.2, (3, 2)) * (width, height)
        box = [tuple(corners[:2].min(0)), tuple(corners[:2].max(0))]
        level, kind = int(rng.uniform(0, 255)), rng.integers(3)
        if kind == 0:
            drawing.rectangle(box, level)
        elif kind == 1:
            drawing.ellipse(box, level)
        else:
            drawing.polygon([tuple(corner) for corner in corners], level)
    return np.asarray(picture) / 127.5 - 1


def _draw_text(image: Image.Image, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Write the scene's lines onto the image, in a size that fits and a colour that can be read; returns the characters'
    centres."""
    lines = scene.text.split("\n")
    font = _fit_font(scene.font, lines, image.width, image.height, rng.uniform(0.12, 0.18))
    widths = [font.getlength(line) for line in lines]
    pitch = font.size * rng.uniform(1.15, 1.4)
    left, top = _place(scene, rng, image, max(widths), pitch * len(lines))
    align = 0.5 if scene.layout in HELD_OUT_LAYOUTS else rng.choice([0, 0.5, 1])
    box = [int(v) for v in (left - 4, top - 2, left + max(widths) + 4, top + pitch * len(lines) + 2)]
    if scene.layout == "subtitle_band":
        _tint(image, (0, box[1], image.width, box[3]), (0, 0, 0), 0.6)
    elif scene.layout == "panel":
        level = rng.choice([rng.uniform(0, 60), rng.uniform(195, 255)])
        _tint(image, box, COLORS[scene.color] if scene.color else (int(level),) * 3, 0.8 if not scene.color else 0.5)
    clipped = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    brightness = np.asarray(image.crop(clipped).convert("L")).mean()
    level = rng.uniform(0, 45) if brightness > 128 else rng.uniform(210, 255)
    color = tuple(int(v) for v in (level + rng.uniform(-30, 30, 3)).clip(0, 255))
    against = (0, 0, 0) if level > 128 else (255, 255, 255)
    shadows = rng.choice([0, 0, 1, 2, 3]) if scene.layout in TRAIN_LAYOUTS else 0
    offsets = rng.uniform(-1, 1, (shadows, 2)) * max(2, font.size / 12)
    shade = tuple(int(0.6 * a + 0.4 * brightness) for a in against) if shadows else None
    outline = scene.layout.endswith("outline") or (scene.layout in TRAIN_LAYOUTS and rng.random() < OUTLINED)
    drawing, centres = ImageDraw.Draw(image), []
    for number, (line, width) in enumerate(zip(lines, widths, strict=True)):
        at = (left + align * (max(widths) - width), top + number * pitch)
        for across, down in offsets:
            drawing.text((at[0] + across, at[1] + down), line, shade, font)
        stroke = max(1, round(font.size / 20)) if outline else 0
        drawing.text(at, line, color, font, stroke_width=stroke, stroke_fill=against)
        edges = at[0] + np.array([font.getlength(line[:end]) for end in range(len(line) + 1)])
        middle = at[1] + font.getmetrics()[0] - 0.3 * font.size  # between the baseline and the capitals' height
        centres += [*zip((edges[:-1] + edges[1:]) / 2, [middle] * len(line), strict=True), (np.nan, np.nan)]
    return np.array(centres[:-1])


def _fit_font(path: str, lines: list[str], width: int, height: int, share: float) -> ImageFont.FreeTypeFont:
    """The font at `share` of the height, or smaller until the longest line fits in 95% of the width."""
    font = _font(path, max(8, round(share * height)))
    longest = max(font.getlength(line) for line in lines)
    if longest > 0.95 * width:
        font = _font(path, max(8, int(font.size * 0.95 * width / longest)))
    return font


def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _place(scene: Scene, rng: np.random.Generator, image: Image.Image, width: float, height: float) -> tuple[float, float]:
    """Left and top of the text block: centred low for a subtitle band, centred for the other held-out ones, else anywhere."""
    free = image.width - width, image.height - height
    if scene.layout == "subtitle_band":
        return free[0] / 2, 0.94 * free[1]
    if scene.layout in HELD_OUT_LAYOUTS:
        return free[0] / 2, free[1] * rng.uniform(0.2, 0.8)
    margin = 0.015 * image.width
    across = rng.choice([margin, free[0] / 2, free[0] - margin, rng.uniform(margin, max(margin, free[0] - margin))])
    return max(0, min(across, free[0])), rng.uniform(0.02, 0.97) * free[1]


def _tint(image: Image.Image, box, color, alpha: float) -> None:
    """Blend a colour into a box of the image, in place."""
    box = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    region = image.crop(box)
    image.paste(Image.blend(region, Image.new("RGB", region.size, tuple(color)), alpha), box)

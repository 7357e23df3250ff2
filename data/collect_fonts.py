"""Collect font faces for the reader's training and evaluation, and split them by family.

    .venv/bin/python data/collect_fonts.py .fonts [folder with .ttf/.otf files ...]

A face is admitted when it has all 95 printable ASCII glyphs, when its 94 visible glyphs differ from each other at 32 px, and
when its name is not that of a script, blackletter, symbol, small-capitals or outline face. DejaVu and a tenth of the other
families, chosen by checksum, are held out (`is_held_out`). Held-out families that look like a training family are moved to
training (`separate_twins`); training families that look like DejaVu are dropped. Faces are reduced to ASCII without hinting
and written with `fonts.json` into the first folder.
"""

import json
import logging
import re
import sys
import zlib
from pathlib import Path

import numpy as np
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

logging.getLogger("fontTools").setLevel(logging.CRITICAL)

ASCII = [chr(code) for code in range(32, 127)]
# Letters and digits, without those that look alike within one design.
SHAPES = "".join(c for c in map(chr, range(48, 123)) if c.isalnum() and c not in "IOl")
TWIN = 0.97  # cosine of two faces' glyph pictures above which they count as one design
PER_FAMILY = 4  # at most so many faces of one family
EXCLUDED = re.compile(
    r"noto(?!(sans|serif|sansmono|sansdisplay|serifdisplay)$)|chorus|chancery|script|fraktur|symbol|dingb|emoji|icon|math|"
    r"music|braille|humor|outline|hollow|shadow|initial|smallcap|caps|unslanted|lmromandunh|fib|funny|ocr|pixel|bitmap|hermetic|"
    r"purisa|3270|ecolier|upright|d050000l|standardsymbols|lastresort|oldania|keyb|keyfont|monoisome|sc$|titling|decorative",
    re.I,
)
DEJAVU = ("dejavu", "bitstreamvera", "hack", "waree", "arev", "veranda")
CLONES = (  # the same classic designs under several names: all in training, so that none is held out too
    *("texgyre", "p052", "c059", "urw", "nimbus", "free", "liberation", "arimo", "cousine", "tinos", "carlito", "lato"),
    *("cmu", "latinmodern", "tlwg", "garuda", "loma", "kinnari", "norasi", "umpush", "laksaman", "gwmono", "century"),
    *("stix", "xits", "caslon", "centurycat", "gfs", "qt", "ae"),
)


def family_of(font: TTFont) -> str:
    """The family's name in lower case without the words for width, weight and optical size, as a key for faces that look
    alike."""
    name = str(font["name"].getBestFamilyName() or "?")
    name = re.sub(
        r"\b(sans ?mono|thin|light|medium|semibold|bold|black|condensed|narrow|display|caption|extra)\b",
        _keep_mono,
        name,
        flags=re.I,
    )
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _keep_mono(match: re.Match) -> str:
    return match.group() if "mono" in match.group().lower() else ""


def glyphs_distinct(path: Path) -> bool:
    """Whether the 94 visible ASCII characters give 94 different pictures at 32 px, none of them empty."""
    font = ImageFont.truetype(str(path), 32, layout_engine=ImageFont.Layout.BASIC)
    pictures = set()
    for char in ASCII[1:]:
        image = Image.new("L", (96, 80))
        ImageDraw.Draw(image).text((24, 16), char, 255, font)
        pictures.add(image.tobytes())
    return len(pictures) == 94 and Image.new("L", (96, 80)).tobytes() not in pictures


def is_held_out(family: str) -> bool:
    """True for DejaVu, for families with its letter shapes, and for a tenth of the others. The first five letters decide, so
    that related names are on the same side."""
    if family.startswith(DEJAVU):
        return True
    return not family.startswith(CLONES) and zlib.crc32(family[:5].encode()) % 10 == 0


def signature(path: Path) -> np.ndarray:
    """Pictures of `SHAPES` at equal cap height, fp32 [characters * 576] with norm 1. Equal designs have a cosine near 1."""
    probe = ImageFont.truetype(str(path), 48, layout_engine=ImageFont.Layout.BASIC).getbbox("H", anchor="ls")
    font = ImageFont.truetype(
        str(path), max(8, round(48 * 24 / max(1, probe[3] - probe[1]))), layout_engine=ImageFont.Layout.BASIC
    )
    pictures = []
    for char in SHAPES:
        image = Image.new("L", (48, 48))
        ImageDraw.Draw(image).text((24, 36), char, 255, font, anchor="ms")
        pictures.append(np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.float32).ravel())
    vector = np.concatenate(pictures)
    vector -= vector.mean()
    return vector / np.linalg.norm(vector)


def separate_twins(split: dict, folder: Path) -> None:
    """Separate families that look alike under two names, in place: training families that look like DejaVu are dropped, and
    other held-out families that look like a training family move to training."""
    signatures = {
        family: np.stack([signature(folder / face) for face in faces])
        for families in split.values()
        for family, faces in families.items()
    }

    def twins_of(family: str) -> list[str]:
        return [other for other in split["train"] if (signatures[family] @ signatures[other].T).max() >= TWIN]

    moved = True
    while moved:
        moved = False
        for family in list(split["held_out"]):
            twins = twins_of(family)
            if twins and family.startswith(DEJAVU):
                for twin in twins:
                    del split["train"][twin]
            elif twins:
                split["train"][family] = split["held_out"].pop(family)
                moved = True


def cut_to_ascii(font: TTFont, target: Path) -> None:
    """Write the face with only its printable ASCII glyphs to `target`."""
    options = subset.Options(hinting=False, notdef_outline=True, layout_features=["kern"], name_IDs=[1, 2, 4, 16, 17])
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(ASCII))
    cutter.subset(font)
    font.save(target)


def collect(folders: list[Path], out: Path) -> dict:
    """Admit, split and write the faces found in `folders`; returns {"train" or "held_out": {family: [file names]}}."""
    out.mkdir(parents=True, exist_ok=True)
    split: dict = {"train": {}, "held_out": {}}
    seen = set()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
        try:
            font = TTFont(path, lazy=True)
            family = family_of(font)
            has_all = set(map(ord, ASCII)) <= set(font.getBestCmap() or {})
        except Exception:
            continue  # a broken or bitmap-only file
        if not has_all or EXCLUDED.search(family) or EXCLUDED.search(path.stem) or path.stem.lower() in seen:
            continue
        members = split["held_out" if is_held_out(family) else "train"].setdefault(family, [])
        if len(members) >= PER_FAMILY or "fvar" in font:
            continue
        target = out / f"{family}-{path.stem}{path.suffix.lower()}"
        try:
            cut_to_ascii(font, target)
            admitted = glyphs_distinct(target)
        except Exception:
            admitted = False
        if admitted:
            seen.add(path.stem.lower())
            members.append(target.name)
        else:
            target.unlink(missing_ok=True)
    split = {part: {family: faces for family, faces in families.items() if faces} for part, families in split.items()}
    separate_twins(split, out)
    split = {part: dict(sorted(families.items())) for part, families in split.items()}
    (out / "fonts.json").write_text(json.dumps(split, indent=1))
    return split


if __name__ == "__main__":
    given = [Path(p) for p in sys.argv[2:]] or [Path("/usr/share/fonts"), Path("/usr/share/texmf/fonts")]
    result = collect(given, Path(sys.argv[1]))
    for part, families in result.items():
        print(part, len(families), "families,", sum(map(len, families.values())), "faces")

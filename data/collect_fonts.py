"""Collect font faces for the reader's training and evaluation, and split them by family.

    .venv/bin/python data/collect_fonts.py .fonts FOLDER [--more FOLDER]        # folders with .ttf and .otf files

A face is admitted when it has all 95 printable ASCII glyphs, when its 94 visible glyphs differ from each other at 32 px, and
when its name is not that of a blackletter, symbol, small-capitals or outline face. DejaVu and a tenth of the other families,
chosen by checksum, are held out (`is_held_out`). Held-out families that look like a training family are moved to training
(`separate_twins`); training families that look like DejaVu are dropped.

The fonts of `--more` and the scripts, typewriter and comic faces (`STYLED`) are for training only. They come after the split, so
the held-out families are the same with and without them; those that look like a held-out family are dropped.

Faces are reduced to ASCII without hinting and written with `fonts.json` into the first folder.
"""

import argparse
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator
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
    r"noto(?!(sans|serif|sansmono|sansdisplay|serifdisplay)$)|fraktur|symbol|dingb|emoji|icon|math|music|braille|outline|hollow|"
    r"shadow|initial|smallcap|caps|pixel|bitmap|d050000l|standardsymbols|lastresort|keyb|keyfont|sc$|titling|decorative",
    re.I,
)
STYLED = re.compile(
    r"chorus|chancery|script|humor|unslanted|lmromandunh|fib|funny|ocr|hermetic|purisa|3270|ecolier|upright|oldania|monoisome",
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


def admitted(folders: list[Path], out: Path, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Write the faces found in `folders` that are admitted into `out`; yields (family, file name), at most `PER_FAMILY` of a
    family. `seen` has the lower-case names of faces that were admitted before, and is added to."""
    counts: Counter = Counter()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
        try:
            font = TTFont(path, lazy=True)
            family = family_of(font)
            has_all = set(map(ord, ASCII)) <= set(font.getBestCmap() or {})
        except Exception:
            continue  # a broken or bitmap-only file
        if not has_all or EXCLUDED.search(family) or EXCLUDED.search(path.stem) or path.stem.lower() in seen:
            continue
        if counts[family] >= PER_FAMILY or "fvar" in font:
            continue
        target = out / f"{family}-{path.stem}{path.suffix.lower()}"
        try:
            cut_to_ascii(font, target)
            distinct = glyphs_distinct(target)
        except Exception:
            distinct = False
        if distinct:
            seen.add(path.stem.lower())
            counts[family] += 1
            yield family, target.name
        else:
            target.unlink(missing_ok=True)


def add_for_training(split: dict, extra: dict[str, list[str]], out: Path) -> None:
    """Add the families `extra` to those for training, in place, except faces that look like a held-out family."""
    held_out = np.concatenate([np.stack([signature(out / face) for face in faces]) for faces in split["held_out"].values()])
    for family, faces in extra.items():
        unlike = [face for face in faces if (held_out @ signature(out / face)).max() < TWIN]
        if unlike:
            split["train"].setdefault(family, []).extend(unlike)


def collect(folders: list[Path], more: list[Path], out: Path) -> dict:
    """Admit, split and write the faces found in `folders`, and those in `more` for training only; returns {"train" or
    "held_out": {family: [file names]}}."""
    out.mkdir(parents=True, exist_ok=True)
    split: dict = {"train": {}, "held_out": {}}
    extra: dict = {}
    seen: set[str] = set()
    for family, name in admitted(folders, out, seen):
        styled = STYLED.search(family) or STYLED.search(name)
        part = extra if styled else split["held_out" if is_held_out(family) else "train"]
        part.setdefault(family, []).append(name)
    separate_twins(split, out)
    for family, name in admitted(more, out, seen):
        if family not in split["held_out"]:
            extra.setdefault(family, []).append(name)
    add_for_training(split, extra, out)
    split = {part: dict(sorted(families.items())) for part, families in split.items()}
    (out / "fonts.json").write_text(json.dumps(split, indent=1))
    return split


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder for the faces and fonts.json")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with fonts to train on and to hold out")
    parser.add_argument("--more", action="append", default=[], type=Path, help="a folder with fonts for training only")
    options = parser.parse_args()
    for part, families in collect(options.folders, options.more, options.out).items():
        print(part, len(families), "families,", sum(map(len, families.values())), "faces")

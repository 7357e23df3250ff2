"""Collect the font faces that the reader is trained on, by rule, and split them by family.

    python data/collect_fonts.py .fonts [folder with .ttf/.otf files ...]

A face is admitted when it has all 95 printable ASCII glyphs, its 94 visible glyphs are pairwise distinct at 32 px, and it is
no script, blackletter, symbol, comic or outline face by name. DejaVu and every family whose checksum falls into one tenth are
held out (`is_held_out`). Faces are cut down to ASCII, without hinting programs, and written with `fonts.json` into the first folder.
"""

import json
import re
import sys
import zlib
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

ASCII = [chr(code) for code in range(32, 127)]
PER_FAMILY = 4  # faces of one family, so that no foundry dominates
EXCLUDED = re.compile(
    r"noto(?!(sans|serif|sansmono|sansdisplay|serifdisplay)$)|chorus|chancery|script|fraktur|symbol|dingbat|emoji|icon|math|"
    r"music|braille|humor|outline|hollow|shadow|initial|smallcap|caps|unslanted|lmromandunh|fib|funny|ocr|pixel|bitmap|hermetic|"
    r"purisa|3270|ecolier|upright|d050000l|standardsymbols|lastresort|oldania|keyb|keyfont|monoisome",
    re.I,
)
CLONES = (  # redrawings of the same classic designs under several names: all in training, so none leaks into the held-out
    *("texgyre", "p052", "c059", "urw", "nimbus", "free", "liberation", "arimo", "cousine", "tinos", "carlito", "lato"),
    *("cmu", "latinmodern", "tlwg", "garuda", "loma", "kinnari", "norasi", "umpush", "laksaman", "gwmono", "century"),
    *("stix", "xits", "caslon", "centurycat", "gfs"),
)


def family_of(font: TTFont) -> str:
    """The family's name, without the words for widths, weights and optical sizes: one key for all that look alike."""
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
    """Whether the 94 visible ASCII glyphs give 94 different, non-empty pictures at 32 px."""
    font = ImageFont.truetype(str(path), 32, layout_engine=ImageFont.Layout.BASIC)
    pictures = set()
    for char in ASCII[1:]:
        image = Image.new("L", (96, 80))
        ImageDraw.Draw(image).text((24, 16), char, 255, font)
        pictures.add(image.tobytes())
    return len(pictures) == 94 and Image.new("L", (96, 80)).tobytes() not in pictures


def is_held_out(family: str) -> bool:
    """DejaVu, what shares its letter shapes, and a tenth of the other families; names alike in five letters stay together."""
    if family.startswith(("dejavu", "bitstreamvera", "hack", "waree", "arev")):
        return True
    return not family.startswith(CLONES) and zlib.crc32(family[:5].encode()) % 10 == 0


def cut_to_ascii(font: TTFont, target: Path) -> None:
    """Write the face with its printable ASCII glyphs only."""
    options = subset.Options(hinting=False, notdef_outline=True, layout_features=["kern"], name_IDs=[1, 2, 4, 16, 17])
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(ASCII))
    cutter.subset(font)
    font.save(target)


def collect(folders: list[Path], out: Path) -> dict:
    """Admit, split and write; returns {"train"|"held_out": {family: [file names]}}."""
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
    split = {part: {f: m for f, m in sorted(families.items()) if m} for part, families in split.items()}
    (out / "fonts.json").write_text(json.dumps(split, indent=1))
    return split


if __name__ == "__main__":
    given = [Path(p) for p in sys.argv[2:]] or [Path("/usr/share/fonts"), Path("/usr/share/texmf/fonts")]
    result = collect(given, Path(sys.argv[1]))
    for part, families in result.items():
        print(part, len(families), "families,", sum(map(len, families.values())), "faces")

"""Sizes that the parts of the training share, and what a run is told."""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from kvlib.lab.study import synthetic

PATCH, MERGE = 14, 2  # pixels on a side of a patch; patches on a side of a merged patch
MERGED_SIDE = PATCH * MERGE  # pixels
# Rows and columns of merged patches, and the share of the clips that have them. The first is the default resolution, 280x140;
# 5x9 is 16:9, 6x8 is 4:3, 7x7 a square, 4x11 a wide film and 9x5 an upright telephone, each as the image processor sizes it.
GRIDS = {
    (5, 10): 0.56, (5, 9): 0.14, (6, 8): 0.06, (4, 8): 0.06, (7, 7): 0.04, (4, 11): 0.04, (6, 10): 0.04, (6, 12): 0.04, (9, 5): 0.02
}  # fmt: skip
DEFAULT = (5, 10)
BLOCK, SHOT = 48, 4  # clips in a block of a rendering worker; clips in a row that share font, background and placement
GLYPHS = 95  # kinds of character: the 94 visible ASCII characters, and 0 for none
LONGEST = 2 * synthetic.MAX_LINE + 1  # characters of a text: two lines and the line break
IN_VIEW = 44  # temporal grids of a stream at most
MONITORED = 20  # every so many font families one is for monitoring and not for training


@dataclass(frozen=True)
class Settings:
    """What a run needs.

    fonts: the folder that `collect_fonts.py` wrote, None for the DejaVu fonts alone. out: folder for the checkpoint and log.jsonl. seconds: of training
    in all. size: a key of `SIZES`. clips: different clips in a batch, of each GPU. workers: rendering processes of each GPU.
    capacity: clips kept on each GPU. resume: whether to go on from the checkpoint in `out`. grids: the sizes of clips with their
    shares. step_s: the seconds that a step counts as, None for as long as it takes. every: seconds between two checkpoints. first:
    clips that are there before training begins. warm_up: steps over which the learning rate rises.
    """

    fonts: Path | None
    out: Path
    seconds: float
    size: str = "11M"
    clips: int = 1024
    workers: int = 12
    capacity: int = 100_000
    resume: bool = False
    grids: dict[tuple[int, int], float] = field(default_factory=lambda: GRIDS)
    step_s: float | None = None
    every: float = 60
    first: int = 3000
    warm_up: int = 300


def font_families(fonts: Path | None) -> dict[str, list[list[str]]]:
    """The font files of every training family in the folder that `collect_fonts.py` wrote: most families for training, one in
    `MONITORED` to watch how it goes. Without a folder the DejaVu fonts are both.

    Raises FileNotFoundError when the folder has no fonts.json.
    """
    if fonts is None:
        return {part: [[font] for font in synthetic.dejavu_fonts()] for part in ("train", "monitor")}
    split: dict[str, list] = {"train": [], "monitor": []}
    for family, faces in json.loads((fonts / "fonts.json").read_text())["train"].items():
        part = "monitor" if zlib.crc32(family.encode()) % MONITORED == 0 else "train"
        split[part].append([str(fonts / face) for face in faces])
    return split

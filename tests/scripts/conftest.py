"""A block of clips as a rendering worker of the reader's training writes it."""

import sys

import pytest

from kvlib.lab.report import paths
from kvlib.lab.study import synthetic

sys.path.insert(0, str(paths.ROOT / "data"))

from training.clips import rings, scenes  # noqa: E402
from training.settings import BLOCK  # noqa: E402

GRID = (4, 8)  # the smallest


@pytest.fixture(scope="session")
def block():
    """48 clips, and their texts, colours and centres."""
    fonts = [[path] for path in synthetic.dejavu_fonts()]
    clips, drawn, centres = scenes.make_clips(0, fonts, "train", GRID, BLOCK, 8)
    colors = [list(synthetic.COLORS).index(s.color) if s.color else -1 for s in drawn]
    return clips, [(scene.text, c, at.tolist()) for scene, c, at in zip(drawn, colors, centres, strict=True)]


@pytest.fixture
def ring(block):
    """A ring of 96 places that holds `block`."""
    made = rings.Ring(GRID, 2 * BLOCK, "cpu")
    made.add(*block)
    return made

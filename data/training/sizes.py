"""Sizes that the parts of the training share."""

from kvlib.lab.study import synthetic

PATCH, MERGE = 14, 2  # pixels on a side of a patch; patches on a side of a merged patch
MERGED_SIDE = PATCH * MERGE  # pixels
GRIDS = [(5, 10), (4, 8), (6, 10), (6, 12), (5, 9)]  # rows and columns of merged patches; the first is the default resolution
GLYPHS = 95  # kinds of character: the 94 visible ASCII characters, and 0 for none
LONGEST = 2 * synthetic.MAX_LINE + 1  # characters of a text: two lines and the line break

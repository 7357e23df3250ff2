"""From a decoded frame to the picture that a player shows: colours, pixel shape, and the display matrix."""

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

UNSPECIFIED = 2  # of a frame's colour space
HD_HEIGHT, HD_WIDTH = 720, 1280  # from which on players take untagged colours for BT.709
SPACES = {  # ITU-T H.273, matrix coefficients -> libswscale
    1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020, 10: Colorspace.BT2020,
}  # fmt: skip


def as_shown(frame: av.VideoFrame, pixel_aspect: float) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a decoded frame whose pixels are `pixel_aspect` times as wide as high."""
    space = frame.colorspace
    if space == UNSPECIFIED:
        hd = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
        space = 1 if hd else 5
    width = max(1, round(frame.width * pixel_aspect))
    picture = rgb(frame, width=width, src_colorspace=SPACES.get(space))
    return np.ascontiguousarray(oriented(picture, display_matrix(frame)))


def rgb(frame: av.VideoFrame, **how) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a decoded frame, converted in this thread; how: for `VideoReformatter.reformat`.

    `frame.to_ndarray` starts a thread per core for every single frame, and they live as long as the frame: a machine with many
    cores runs out of threads. On two cores it also takes twice as long for 1920 x 1080, and several times for small frames.
    """
    return VideoReformatter().reformat(frame, format="rgb24", threads=1, **how).to_ndarray()


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d), each -1, 0 or 1: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return 1, 0, 0, 1
    numbers = np.frombuffer(bytes(side), np.int32)
    return tuple(int(np.sign(round(numbers[place] / 2**16))) for place in (0, 1, 3, 4))


def oriented(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """A picture [H, W, 3] rotated and mirrored by a `display_matrix`; one that is neither stays as it is."""
    a, b, c, d = matrix
    if abs(a) == abs(d) == 1:
        across, down = a, d
    elif abs(b) == abs(c) == 1:
        picture, across, down = picture.swapaxes(0, 1), c, b
    else:
        return picture
    return picture[::down, ::across]

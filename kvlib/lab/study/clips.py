"""Scenes as pictures and as H.264: rendering, writing and reading short videos.

The `seed` of a `Scene` decides everything that its other fields leave open, so a scene is always rendered the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from tempfile import NamedTemporaryFile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kvlib.lab.study.synthetic import COLORS, HELD_OUT_LAYOUTS, TRAIN_LAYOUTS, Scene
from kvlib.video import VideoChunk, VideoChunks
from kvlib.video.picture import rgb

SOURCE_SIZE = (560, 280)  # width and height of the synthetic streams, in pixels
OUTLINED = 0.12  # share of training scenes whose letters have an outline


def render(scene: Scene, width: int, height: int, frames: int = 1) -> np.ndarray:
    """The scene as uint8 RGB [frames, height, width, 3]; all frames are equal."""
    return np.repeat(compose(scene, width, height)[0][None], frames, axis=0)


def compose(scene: Scene, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The scene as a picture, and where its characters are.

    Returns uint8 RGB [height, width, 3] and float [len(scene.text), 2]: the centre (x, y) of every character in pixels, NaN for
    a newline. Raises ValueError for an unknown layout.
    """
    return compose_shot([scene], width, height)[0]


def compose_shot(scenes: Sequence[Scene], width: int, height: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scenes that differ in nothing but their texts, each as `compose` does it; their background is drawn once."""
    rng = np.random.default_rng(scenes[0].seed)
    background = _background(scenes[0], rng, width, height).clip(0, 255).astype(np.uint8)
    state, composed = rng.bit_generator.state, []
    for scene in scenes:
        image = Image.fromarray(background.copy())
        rng.bit_generator.state = state
        centres = _draw_text(image, scene, rng) if scene.text else np.empty((0, 2))
        composed.append((np.asarray(image), centres))
    return composed


def write_video(path, frames: Iterable[np.ndarray], fps: float, crf: int = 23, preset: str = "veryfast") -> None:
    """Encode uint8 RGB frames [height, width, 3] (even sizes) as H.264 yuv420p in MP4, at `fps` frames per second.

    path: a file name or a writable binary file. crf: x264's quality, 0 (best) to 51. preset: x264's name for its speed.
    Raises ValueError for no frames.
    """
    import av

    stream = None
    with av.open(path if hasattr(path, "write") else str(path), "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "yuv420p"
                stream.options = {"crf": str(crf), "preset": preset}
                stream.codec_context.thread_count = 1  # the same bytes on every machine
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError("no frames to write: give at least one")
        container.mux(stream.encode())


def read_video(path) -> np.ndarray:
    """All frames of a short video, uint8 RGB [frames, height, width, 3]; path: a file name or a readable binary file."""
    import av

    with av.open(path) as container:
        return np.stack([rgb(frame) for frame in container.decode(video=0)])


def encode_and_decode(scenes: Sequence[Scene]) -> Iterator[np.ndarray]:
    """Encode the scenes as H.264 and decode them again: yields uint8 RGB [2, 280, 560, 3] for each, sampled at 2 frames/s.

    Raises OSError as `chunks_of_whole` does.
    """
    with NamedTemporaryFile(suffix=".mp4") as file:
        write_video(file.name, (frame for scene in scenes for frame in render(scene, *SOURCE_SIZE, 2)), fps=2)
        for chunk in chunks_of_whole(file.name, 2, 2):
            yield chunk.frames


def chunks_of_whole(path, chunk_frames: int, fps: float) -> Iterator[VideoChunk]:
    """The chunks of a video that a study has written itself, all of them: as `VideoChunks` gives them.

    Raises OSError, after the chunks that are there, when the file could not be read to its end: the questions of a study are
    about frames that would be missing.
    """
    chunks = VideoChunks(path, chunk_frames, fps)
    yield from chunks
    if chunks.trouble is not None:
        raise OSError(
            f"{chunks.trouble}: look for what this machine lacks, such as memory, threads or space for temporary files"
        )


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
    """Write the scene's lines onto the image, in a size that fits and a colour that contrasts with the background.

    Returns the characters' centres as `compose` does.
    """
    lines = scene.text.split("\n")
    size = rng.uniform(0.12, 0.18)
    font = _fit_font(scene.font, lines, image.width, image.height, size if scene.size is None else scene.size)
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

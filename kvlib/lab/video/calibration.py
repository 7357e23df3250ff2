"""How long a chunk will take on this device and how much memory it needs: predicted before any weight is loaded.

The work of a chunk is counted in floating-point operations (a multiplication and an addition are two). The rates are measured
in about a second, on one layer of random weights with the model's own shapes. Decoding the video is not part of the prediction:
it runs in a thread of its own.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from math import prod

import torch
from transformers import PretrainedConfig

from kvlib.encoding import count_tokens
from kvlib.families import family_of
from kvlib.lab.video.source import VideoSource, height_within
from kvlib.ops.attention import chunk_attention
from kvlib.ops.language import run
from kvlib.ops.pixels import grid_of, patchify
from kvlib.ops.positions import text_positions

GIB, MIB = 2**30, 2**20
ROUNDING = 28  # pixels that a side loses at most where it is rounded to merged patches
TRY_S = 0.1  # seconds that one timed call may take: on a slow device the shapes are cut down to that
TIMES = 3  # calls that are timed, of which the fastest counts


@dataclass(frozen=True)
class Work:
    """A chunk's floating-point operations, by part, and the pixels that are resized; or, as rates, how many of each a device
    does in a second."""

    linear: float
    attention: float
    vision: float
    pixels: float


@dataclass(frozen=True)
class Forecast:
    """What chunks of one `size` (frames, height, width) will cost on `device`. `seen`: height and width after the image
    settings. `first_tokens`: of the first chunk, with the system turn. `seconds`: of a chunk at a full budget. `video_s`:
    seconds of video in a chunk. `budget`: tokens; bytes are those of keys and values."""

    size: tuple[int, int, int]
    seen: tuple[int, int]
    device: torch.device
    tokens: int
    first_tokens: int
    seconds: float
    video_s: float
    token_bytes: int
    budget: int

    chunk_bytes = property(lambda self: self.tokens * self.token_bytes, doc="Bytes of a chunk's keys and values.")
    budget_bytes = property(lambda self: self.budget * self.token_bytes, doc="Bytes of keys and values of a full budget.")
    chunks_in_budget = property(lambda self: self.budget // self.tokens, doc="Chunks that a full budget holds.")
    tokens_per_s = property(lambda self: self.tokens / self.video_s, doc="Tokens for each second of video.")
    load = property(lambda self: self.seconds / self.video_s, doc="Seconds of computation for each second of video.")
    keeps_up = property(lambda self: self.load <= 1, doc="Whether chunks are processed as fast as the video plays.")

    def text(self, chunks: int, drop_static: float = 0.0) -> str:
        """The forecast in words, with the total time of so many `chunks`. With `drop_static` above 0 it says that it counts the
        tokens that will be dropped too."""
        frames, height, width = self.size
        shrunk = self.seen[0] < height - ROUNDING and self.seen[1] < width - ROUNDING
        shrunk = f" (which the checkpoint's pixel limit reduces to {self.seen[1]}x{self.seen[0]})" if shrunk else ""
        pace = "keeps up with real time" if self.keeps_up else "slower than real time"
        return (
            f"Forecast: a chunk of {frames} frames of {width}x{height}{shrunk} is {self.tokens:,} tokens "
            f"({self.tokens_per_s:,.0f} for each second of video), {self.chunk_bytes / MIB:.3g} MiB of keys and values, and "
            f"takes about {self.seconds:.2g} s with a full cache: {self.load:.2g} s for each second of video ({pace}). "
            f"{chunks:,} chunks: about {duration(chunks * self.seconds)} in all. A full budget of {self.budget:,} tokens holds "
            f"{self.chunks_in_budget:,} such chunks in {self.budget_bytes / GIB:.3g} GiB."
            f"{self._on_dropping(drop_static) if drop_static else ''}"
        )

    def _on_dropping(self, drop_static: float) -> str:
        least = self.first_tokens + self.tokens
        counted = f" All tokens are counted here, and drop_static={drop_static:g} drops some of them."
        if least <= self.budget:
            return counted
        return f"{counted} Without that the first chunk and one more, {least:,} tokens, would not fit into the budget."


def announce(config, processor, source: VideoSource, budget: int, device: torch.device, drop_static: float = 0.0) -> Forecast:
    """Print how long `source` will take with a budget of `budget` tokens and whether that keeps up; return the forecast.

    config: the model's (`model.config`). drop_static: that of the engine, see `Forecast.text`. Takes about a second.
    Raises what `VideoChunks` raises.
    """
    made = forecast(config, processor, *first_frames(source), budget, device)
    print(made.text(source.count_chunks(), drop_static))
    return made


def first_frames(source: VideoSource) -> tuple[tuple[int, int, int], float]:
    """Size (frames, height, width) and rate of the first chunk, which is decoded for it."""
    chunk = next(iter(source))
    return tuple(chunk.frames.shape[:3]), chunk.fps


def forecast(config, processor, size: tuple[int, int, int], fps: float, budget: int, device: torch.device) -> Forecast:
    """What chunks of `size` (frames, height, width), sampled at `fps` frames per second, will cost on `device`.

    config: that of a model of `kvlib.families`. processor: its tokenizer and image settings.
    """
    number = number_bytes(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    grid, tokens, first_tokens = chunk_tokens(config, processor, size)
    work = chunk_work(config, grid, tokens, max(budget, tokens), size)
    rates = measure(config, processor.image_processor, size, tokens, max(budget, tokens), device, dtype)
    patch = processor.image_processor.patch_size
    return Forecast(
        size=tuple(size),
        seen=(grid[1] * patch, grid[2] * patch),
        device=device,
        tokens=tokens,
        first_tokens=first_tokens,
        seconds=predict(work, rates),
        video_s=size[0] / fps,
        token_bytes=bytes_per_token(config, number),
        budget=budget,
    )


def predict(work: Work, rates: Work) -> float:
    """Seconds that `work` takes at `rates`."""
    return sum(done / rate for done, rate in zip(astuple(work), astuple(rates), strict=True))


def chunk_tokens(config, processor, size: tuple[int, int, int]) -> tuple[tuple[int, int, int], int, int]:
    """Of a chunk of `size` (frames, height, width): its grid in patches, its tokens, and its tokens as a stream's first one.
    Where a chunk says its time, a later one is counted as after an hour."""
    frames = torch.empty(*size, 3, dtype=torch.uint8, device="meta")
    later, first = (count_tokens(config, processor, frames, first, time) for first, time in ((False, 3600.0), (True, None)))
    return grid_of_size(config, processor.image_processor, size), later, first


def number_bytes(device: torch.device) -> int:
    """Bytes of a number as `kvlib.lab.study.runs.load` loads weights: bf16 on CUDA, fp32 on a CPU."""
    return 2 if device.type == "cuda" else 4


def bytes_per_token(config: PretrainedConfig, number: int) -> int:
    """Bytes of a token's keys and values in all layers, at `number` bytes each."""
    text = config.text_config
    return text.num_hidden_layers * 2 * text.num_key_value_heads * head_size(text) * number


def chunk_work(config, grid: tuple[int, int, int], tokens: int, keys: int, size: tuple[int, int, int]) -> Work:
    """What a chunk costs: `tokens` tokens that attend to `keys` stored ones, and frames of `size` that become `grid`."""
    text = config.text_config
    linear = text.num_hidden_layers * layer_work(text, tokens)
    attention = text.num_hidden_layers * attention_work(text, tokens, keys)
    return Work(linear, attention, vision_work(family_of(config), config.vision_config, grid), prod(size))


def layer_work(text, tokens: int) -> int:
    """Operations of the matrix products of one layer of the language model."""
    queries, keys = text.num_attention_heads * head_size(text), text.num_key_value_heads * head_size(text)
    weights = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    return 2 * tokens * weights


def attention_work(text, tokens: int, keys: int) -> int:
    """Operations of one layer's attention: products with keys and with values."""
    return 4 * tokens * keys * text.num_attention_heads * head_size(text)


def vision_work(family, vision, grid: tuple[int, int, int]) -> int:
    """Operations of the vision tower for a `grid` of patches (t, h, w)."""
    shape, patches, unit = family.vision_shape(vision), prod(grid), vision.spatial_merge_size**2
    width = shape.width
    embedding = patches * width * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    blocks = vision.depth * patches * width * (4 * width + shape.inner)
    window = min(shape.window, grid[1] * grid[2])
    attention = 2 * patches * width * (shape.whole * grid[1] * grid[2] + (vision.depth - shape.whole) * window)
    merger = patches // unit * unit * width * (unit * width + shape.output)
    return 2 * (embedding + blocks + attention + merger)


def head_size(text) -> int:
    """Numbers in a key of one head."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


@torch.no_grad()
def measure(config, settings, size: tuple[int, int, int], tokens: int, keys: int, device, dtype) -> Work:
    """Rates of this device: operations and pixels in a second.

    Timed are one layer of the language model without its attention, attention of `tokens` tokens to `keys` keys, two blocks
    of the vision tower (one with windows, one without) on frames of `size`, and the resizing of these frames. Where that
    would take long, with fewer tokens, keys and rows.
    """
    family, text, small = family_of(config), config.text_config, dict(device=device, dtype=dtype)
    whole = copy.deepcopy(config)
    whole.text_config, whole.vision_config = one_layer(text), family.reduced(config.vision_config)
    vision = whole.vision_config
    left, right = torch.ones(64, text.hidden_size, **small), torch.ones(text.hidden_size, text.intermediate_size, **small)
    flops = TRY_S * 2 * 64 * right.numel() / fastest(lambda: left @ right, device)  # of one timed call
    shorter = max(1, min(tokens, int(flops / layer_work(text, 1))))
    queried = max(1, min(tokens, int((flops / attention_work(text, 1, 1)) ** 0.5)))
    seen = max(queried, min(keys, int(flops / attention_work(text, queried, 1))))
    rows = max(56, min(size[1], int(size[1] * flops / vision_work(family, vision, grid_of_size(config, settings, size)))))
    frames = torch.zeros(size[0], rows, size[2], 3, dtype=torch.uint8)
    patches, grid = patchify(frames, settings, device, family.resize)
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            made = family.transformers_class(whole).eval()
        finally:
            torch.set_default_dtype(default)
    embeddings, positions = torch.ones(1, shorter, text.hidden_size, **small), text_positions(shorter, 0)
    head, tower = head_size(text), family.tower(made.model.visual, None)
    queries = torch.ones(1, text.num_attention_heads, queried, head, **small)
    past = torch.ones(1, text.num_key_value_heads, seen, head, **small)
    seconds = (
        fastest(lambda: run(made.model.language_model, [WithoutAttention()], embeddings, positions), device),
        fastest(lambda: chunk_attention(queries, past, past), device),
        fastest(lambda: tower(patches, grid), device),
        fastest(lambda: patchify(frames, settings, device, family.resize), device),
    )
    done = (
        layer_work(text, shorter),
        attention_work(text, queried, seen),
        vision_work(family, vision, grid),
        prod(frames.shape[:3]),
    )
    return Work(*(amount / taken for amount, taken in zip(done, seconds, strict=True)))


class WithoutAttention:
    """In the place of a layer of the cache: hands the queries back as their attention."""

    def append_and_attend(self, queries, keys, values):
        return queries


def grid_of_size(config, settings, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """The grid in patches of frames of `size` (frames, height, width)."""
    return grid_of(torch.empty(*size, 3, dtype=torch.uint8, device="meta"), settings, family_of(config).resize)


def one_layer(text):
    """The language model's configuration with one layer and next to no vocabulary."""
    without_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    values = text.to_dict() | dict(num_hidden_layers=1, vocab_size=8, **without_ids)
    if "layer_types" in values:
        values["layer_types"] = values["layer_types"][:1]
    return type(text)(**values)


def fastest(call: Callable, device: torch.device) -> float:
    """Seconds of the fastest of some calls, after one that is not timed."""
    taken = []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def resolutions(height: int, width: int, heights=(0, 720, 480, 360)) -> list[tuple[int, int]]:
    """(height, width) of a video of this size at each of `heights`, 0 = its own; none larger than its own, none twice."""
    chosen = dict.fromkeys(height_within(asked, height) for asked in heights)
    return [(each, round(width * each / height)) for each in chosen]


def duration(seconds: float) -> str:
    """A time for people: seconds below two minutes, else minutes, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

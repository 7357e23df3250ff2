"""How fast and in how much memory a stream is watched: this library against a plain transformers loop, in one run.

    python benchmarks/speed.py --shapes 3b --device cuda --out benchmarks/results/h200_3b.json
    python benchmarks/speed.py --shapes reader --device cpu --out benchmarks/results/cpu_reader.json

Three ways to watch the same random chunks: `plain`, as it is written by hand (transformers' whole model with `DynamicCache` and
sdpa); `re-rotated`, keys stored without rotation and all of them turned in every forward, as StreamingVLM keeps positions
contiguous (this library's mode "unrotated", so that nothing else differs); and `kvlib`, this library's mode "remap".
The weights of 3b and 7b are random ones of the true shapes; a CUDA process is held to the memory of a 24 GB card. Caches are
filled to a size with random keys and values. Writes one JSON object; `draw.py` judges and draws it.
"""

import argparse
import gc
import json
import statistics
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import shapes
import torch
from transformers import DynamicCache

from kvlib import EvictionConfig, VideoStreamingInference, stream
from kvlib.cache import EIGHT_BIT
from kvlib.lab.report import paths, report
from kvlib.lab.study import experiments
from kvlib.ops.attention import attend
from kvlib.ops.positions import chunk_positions, text_positions

SIZES = {"3b": (5_000, 54_000, 130_000), "7b": (54_000,), "reader": (250, 1_000, 4_000)}  # tokens in the cache
FRAMES = {"3b": (4, 1080, 1920), "7b": (4, 1080, 1920), "reader": (2, 112, 224)}  # of a chunk: number, height, width
LONG = {"3b": 500, "7b": 150, "reader": 5_000}  # chunks of the long stream
EARLY, SPAN = 100, 50  # the long stream's early chunk, and over how many chunks around it medians are taken
FPS = 2.0  # at which the frames of a chunk count as sampled
SMALL = (252, 448)  # height and width of the small frames
WINDOW_S = 16  # seconds that the small frames' window holds
QUESTION = "Which of the words on the screen have been there from the first frame on?"  # about 30 tokens with its turn
NEW_TOKENS = 17
SEARCHED = {"plain": (200_000, 240_000), "kvlib": (390_000, 430_000), "kvlib, 8-bit": (800_000, 860_000)}  # tokens
STEP = 10_000  # tokens between the sizes tried for the largest


class Clock:
    """Seconds of named stages, by device events on CUDA and the host's clock on a CPU."""

    def __init__(self, device: torch.device):
        self.device, self.spans = device, []

    def now(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def stage(self, name: str):
        began = self.now()
        yield
        self.spans.append((name, began, self.now()))

    @contextmanager
    def watching(self, owner, attribute: str, name: str):
        """Inside, every call of `owner.attribute` is a stage."""
        original = getattr(owner, attribute)

        def call(*args, **kwargs):
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, call)
        try:
            yield
        finally:
            setattr(owner, attribute, original)

    def seconds(self) -> dict[str, list[float]]:
        """All spans so far by name, and forget them."""
        found: dict[str, list[float]] = {}
        synchronize(self.device)
        for name, began, ended in self.spans:
            span = began.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - began
            found.setdefault(name, []).append(span)
        self.spans = []
        return found


class PlainLoop:
    """What is written by hand today: the whole model on every chunk, a cache that grows by concatenation, all logits."""

    def __init__(self, model, processor, device):
        self.model, self.processor, self.device = model, processor, device
        self.cache, self.next_position = DynamicCache(), 0
        self.helper = VideoStreamingInference(model, processor, device)  # for the turns' tokens

    def fill(self, tokens: int) -> None:
        for index, states in enumerate(random_states(self.model, tokens)):
            self.cache.update(*states, index)
        self.next_position = tokens

    def append(self, frames) -> None:
        patches, grid = stream.patchify(frames, self.processor.image_processor, self.device)
        before, after = self.helper._turn(False)
        cells = grid[0] * grid[1] * grid[2] // 4
        pads = torch.full((1, cells), self.model.config.video_token_id, device=before.device)
        merged = grid[0], grid[1] // 2, grid[2] // 2
        time_step = self.model.config.vision_config.tokens_per_second * 2 / FPS
        positions, self.next_position = chunk_positions(before.shape[1], merged, after.shape[1], self.next_position, time_step)
        self.model(
            input_ids=torch.cat([before, pads, after], dim=1),
            pixel_values_videos=patches.to(self.model.dtype),
            video_grid_thw=torch.tensor([grid], device=before.device),
            position_ids=positions[:, None].to(before.device),
            past_key_values=self.cache,
            use_cache=True,
        )

    def ask(self) -> dict:
        began, length = time.perf_counter(), self.cache.get_seq_length()
        step = self.helper._tokens(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
        prompt, position = step.shape[1], self.next_position
        for count in range(NEW_TOKENS):
            positions = text_positions(step.shape[1], position)[:, None].to(step.device)
            position += step.shape[1]
            out = self.model(input_ids=step, position_ids=positions, past_key_values=self.cache, use_cache=True)
            step = out.logits[:, -1].argmax(-1, keepdim=True)
            step.item()
            if not count:
                first = time.perf_counter()
        rate = (NEW_TOKENS - 1) / (time.perf_counter() - first)
        self.cache.crop(length - self.cache.get_seq_length())
        return {"ttft": first - began, "decode_tokens_per_s": rate, "prompt_tokens": prompt}

    def stages(self, clock: Clock) -> list:
        return [
            clock.watching(stream, "patchify", "prepare"),
            clock.watching(self.model.model.visual, "forward", "vision"),
            clock.watching(self.model.model.language_model, "forward", "language"),
        ]

    def after_chunk(self, tokens: int) -> None:
        self.cache.crop(tokens - self.cache.get_seq_length())  # as long again as it was


class Streaming:
    """This library in one position mode, held to a budget at which every chunk evicts one."""

    def __init__(self, model, processor, device, tokens: int, frames, mode: str, kv_dtype=None):
        probe = VideoStreamingInference(model, processor, device)
        self.chunk = probe.count_tokens(frames)
        budget = max(tokens, probe.count_tokens(frames, first=True)) + self.chunk
        self.engine = VideoStreamingInference(model, processor, device, EvictionConfig(budget, position_mode=mode), kv_dtype)
        self.frames = frames

    def fill(self, tokens: int) -> None:
        manager = self.engine.cache_manager
        self.engine.append_video_chunk(self.frames, FPS)
        span = manager.chunks[0]
        for layer in manager.cache.layers:
            layer.rope = None  # random keys need no turning
        while manager.get_seq_length() + self.chunk <= tokens:
            manager.make_room(self.chunk)
            for layer, states in zip(manager.cache.layers, random_states(self.engine.model, self.chunk), strict=True):
                layer.update(*states)
            start = manager.next_position
            positions = text_positions(self.chunk, start).clamp(max=start + span.stop - span.start - 1)
            manager.track_tokens(positions, start + span.stop - span.start)

    def append(self, frames) -> None:
        self.engine.append_video_chunk(frames, FPS)

    def ask(self) -> dict:
        return self.engine.ask(QUESTION, max_new_tokens=NEW_TOKENS, do_sample=False)[1]

    def stages(self, clock: Clock) -> list:
        return [
            clock.watching(stream, "patchify", "prepare"),
            clock.watching(self.engine, "_vision", "vision"),
            clock.watching(self.engine.cache_manager, "make_room", "evict"),
            clock.watching(self.engine, "_forward", "language"),
        ]

    def after_chunk(self, tokens: int) -> None:
        pass  # the next chunk evicts


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_states(model, tokens: int):
    """Random keys and values [1, KV heads, tokens, head dim] for every layer of the language model."""
    config = model.config.text_config
    shape = 1, config.num_key_value_heads, tokens, config.hidden_size // config.num_attention_heads
    for _ in range(config.num_hidden_layers):
        yield tuple(torch.randn(shape, device=model.device, dtype=model.dtype) for _ in range(2))


def random_frames(size: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)


def measured(contender, frames, tokens: int, repeats: int, device: torch.device) -> dict:
    """Medians over `repeats` chunks and questions at a cache of `tokens` tokens, after a warm-up."""
    contender.fill(tokens)
    clock = Clock(device)
    with ExitStack() as stages:
        for stage in contender.stages(clock):
            stages.enter_context(stage)
        for repeat in range(repeats + 2):
            if repeat == 2:  # warm from here on
                clock.seconds()
                reset_peak(device)
            with clock.stage("chunk"):
                contender.append(frames)
            contender.after_chunk(tokens)
        spans = clock.seconds()
        seconds = {name: statistics.median(found) for name, found in spans.items()}
        if "evict" in spans:  # dear once in a few chunks, when the window is moved to the front of its buffer
            seconds["evict, mean"] = statistics.fmean(spans["evict"])
        peak = peak_bytes(device)
    contender.ask()
    asked = [contender.ask() for _ in range(repeats)]
    return {
        "seconds": seconds,
        "ttft": statistics.median(row["ttft"] for row in asked),
        "decode_tokens_per_s": statistics.median(row["decode_tokens_per_s"] for row in asked),
        "prompt_tokens": asked[0]["prompt_tokens"],
        "peak_bytes": peak,
    }


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def tidy() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fits(make_for, frames, tokens: int) -> bool:
    """Whether a contender can hold `tokens`, watch two more chunks and answer."""
    tidy()
    try:
        contender = make_for(tokens)
        contender.fill(tokens)
        for _ in range(2):
            contender.append(frames)
            contender.after_chunk(tokens)
        contender.ask()
        return True
    except torch.OutOfMemoryError:
        return False


def largest(make_for, frames, low: int, high: int) -> int:
    """The most tokens, in steps of `STEP`, that fit; `low` must, `high` must not."""
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (middle, high) if fits(make_for, frames, middle) else (low, middle)
    return low


def ceilings(device: torch.device, dtype: torch.dtype) -> dict:
    """What the device reaches: a large matrix product in FLOP/s and a large copy in bytes/s, read and written."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    block = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device).to(dtype)
    other = torch.empty_like(block)
    return {
        "matmul_flops": 2 * side**3 / timed(lambda: a @ b, device),
        "copy_bytes": 2 * block.nbytes / timed(lambda: other.copy_(block), device),
    }


def timed(work, device: torch.device, repeats: int = 10) -> float:
    """Median seconds of `work`, warm."""
    clock = Clock(device)
    for repeat in range(repeats + 3):
        if repeat == 3:
            clock.seconds()
        with clock.stage("work"):
            work()
    return statistics.median(clock.seconds()["work"])


def flops(model, grid, tokens: int, past: int) -> dict[str, float]:
    """Floating-point operations that a chunk must do: of every matrix product once, of attention where it is not masked."""
    vision, text = model.config.vision_config, model.config.text_config
    patches = grid[0] * grid[1] * grid[2]
    dense = sum(p.numel() for name, p in model.model.visual.named_parameters() if p.ndim > 1 and "merger" not in name)
    merger = sum(p.numel() for name, p in model.model.visual.named_parameters() if p.ndim > 1 and "merger" in name)
    whole = len(vision.fullatt_block_indexes)
    window = (vision.window_size // vision.patch_size) ** 2
    seen = whole * grid[1] * grid[2] + (vision.depth - whole) * window
    layers = sum(p.numel() for name, p in model.model.language_model.layers.named_parameters() if p.ndim > 1)
    return {
        "vision": 2 * patches * dense + 2 * patches / 4 * merger + 4 * patches * seen * vision.hidden_size,
        "language without attention": 2 * tokens * layers,
        "attention": 4 * text.hidden_size * text.num_hidden_layers * (tokens * past + tokens * (tokens + 1) / 2),
    }


def attention_alone(model, new: int, past: int, device: torch.device) -> dict:
    """Seconds and FLOP/s of one layer's attention of `new` tokens over `past` and themselves."""
    config = model.config.text_config
    size = config.hidden_size // config.num_attention_heads
    q = torch.randn(1, config.num_attention_heads, new, size, device=device, dtype=model.dtype)
    keys, values = next(random_states(model, past + new))
    seconds = timed(lambda: attend(q, keys, values), device)
    done = 4 * q.shape[1] * size * new * (past + (new + 1) / 2)
    return {"new": new, "past": past, "seconds": seconds, "flops": done / seconds}


def long_stream(model, processor, frames, window: int, chunks: int, device: torch.device) -> dict:
    """Seconds per chunk and peak bytes early and late in one stream of `chunks` chunks, `window` chunks in the cache."""
    probe = VideoStreamingInference(model, processor, device)
    budget = probe.count_tokens(frames, first=True) + (window - 1) * probe.count_tokens(frames)
    engine = VideoStreamingInference(model, processor, device, EvictionConfig(budget, position_mode="remap"))
    clock, peaks = Clock(device), {}
    tidy()
    reset_peak(device)
    for index in range(1, chunks + 1):
        with clock.stage("chunk"):
            engine.append_video_chunk(frames, FPS)
        if index == 50 or index == chunks:
            peaks[index] = peak_bytes(device)
    seconds = clock.seconds()["chunk"]
    early, late = seconds[EARLY - SPAN : EARLY + SPAN], seconds[-2 * SPAN :]
    return {
        "frames": list(frames.shape[:3]),
        "budget": budget,
        "chunks": chunks,
        "early_seconds": statistics.median(early),
        "late_seconds": statistics.median(late),
        "frames_per_s": len(frames) / statistics.median(late),
        "own_peak_bytes": peaks,
    }


def logits_against_fp32(model, processor, device: torch.device) -> dict:
    """Logits after a short stream and a question, of this library and of a plain loop in the model's dtype, against
    transformers in fp32 with the same weights."""
    frames = [random_frames((4, *SMALL), seed) for seed in range(3)]
    found = {}
    for name in ("kvlib", "plain", "fp32"):
        chosen = copy_in_fp32(model) if name == "fp32" else model
        if name == "kvlib":
            engine = VideoStreamingInference(chosen, processor, device)
            for chunk in frames:
                engine.append_video_chunk(chunk, FPS)
            step = engine._tokens(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
            rows = [engine._step(step)]
            advance = engine._step_by_graph() or engine._step
            for _ in range(4):
                rows.append(advance(rows[-1].argmax(-1, keepdim=True)).clone())
            tokens = [row.argmax(-1, keepdim=True) for row in rows[:-1]]
        else:
            rows = replay(PlainLoop(chosen, processor, device), frames, tokens)
        found[name] = torch.cat(rows).float().cpu()
        del chosen
        tidy()
    exact = found.pop("fp32")
    return {name: compared(rows, exact) for name, rows in found.items()}


def compared(rows: torch.Tensor, exact: torch.Tensor) -> dict:
    """The relative error; for every row whether the likeliest token is the same; by how much, in logits, the chosen one is less
    likely in `exact`, and for scale the root mean square error of a logit."""
    chosen = rows.argmax(-1, keepdim=True)
    return {
        "relative_error": ((rows - exact).norm() / exact.norm()).item(),
        "same_likeliest": (chosen == exact.argmax(-1, keepdim=True)).flatten().tolist(),
        "largest_loss": (exact.amax(-1) - exact.gather(-1, chosen).flatten()).max().item(),
        "rms_error": (rows - exact).square().mean().sqrt().item(),
    }


def copy_in_fp32(model):
    made = type(model)(model.config).to(model.device, torch.float32).eval()
    made.load_state_dict(model.state_dict())
    return made


def replay(loop: PlainLoop, frames, tokens) -> list[torch.Tensor]:
    """The plain loop's logits after the question and after each of `tokens`, over the same turns as the library's."""
    turn = loop.helper._turn
    loop.helper._turn = lambda first: turn(not loop.cache.get_seq_length())
    for chunk in frames:
        loop.append(chunk)
    step, rows = loop.helper._tokens(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"), []
    for following in (*tokens, None):
        positions = text_positions(step.shape[1], loop.next_position)[:, None].to(step.device)
        loop.next_position += step.shape[1]
        out = loop.model(input_ids=step, position_ids=positions, past_key_values=loop.cache, use_cache=True)
        rows.append(out.logits[:, -1])
        step = following
    return rows


def run(name: str, device: torch.device, repeats: int, out: Path) -> None:
    """Measure everything; what is known so far is in `out` after every part."""
    if name == "reader":
        model, processor = experiments.load(str(paths.READER), device)
    else:
        processor = shapes.processor()
        model = shapes.model(name, processor.tokenizer, device)
    found = report.Report("speed", {"shapes": name, "repeats": repeats}, 0, device).provenance()
    found |= {"weights": "trained" if name == "reader" else "random", "dtype": str(model.dtype), "runs": []}

    def keep(part: str, measured) -> None:
        found[part] = measured
        report.write_atomic(out, json.dumps(found, indent=1))
        print(part, json.dumps(measured), flush=True)

    keep("logits_against_fp32", logits_against_fp32(model, processor, device))
    cuda = device.type == "cuda"
    if cuda:
        keep("limit_bytes", experiments.cap_memory(0, device))
    keep("ceilings", ceilings(device, model.dtype))
    frames = random_frames(FRAMES[name])
    chunk = VideoStreamingInference(model, processor, device).count_tokens(frames)
    keep("chunk", {"frames": list(FRAMES[name]), "tokens": chunk})

    def makers(tokens: int) -> dict:
        return {
            "plain": lambda: PlainLoop(model, processor, device),
            "re-rotated": lambda: Streaming(model, processor, device, tokens, frames, "unrotated"),
            "kvlib": lambda: Streaming(model, processor, device, tokens, frames, "remap"),
            "kvlib, 8-bit": lambda: Streaming(model, processor, device, tokens, frames, "remap", EIGHT_BIT),
        }

    for tokens in SIZES[name]:
        for contender, make in makers(tokens).items():
            tidy()
            row = {"contender": contender, "tokens": tokens}
            try:
                row |= measured(make(), frames, tokens, repeats, device)
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            keep("runs", [*found["runs"], row])
    tidy()
    keep("attention", [attention_alone(model, chunk, past, device) for past in SIZES[name]])
    grid = stream.grid_of(frames, processor.image_processor)
    keep("flops", {past: flops(model, grid, chunk, past) for past in SIZES[name]})
    small = [frames] if name == "reader" else [random_frames((count, *SMALL)) for count in (2, 8)]
    keep("long_streams", [long_stream(model, processor, few, WINDOW_S + 1, LONG[name], device) for few in small])
    if cuda and name == "3b":
        sizes = {}
        for kind, (low, high) in SEARCHED.items():
            sizes[kind] = largest(lambda tokens, kind=kind: makers(tokens)[kind](), frames, low, high)
            keep("largest", sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SIZES, default="reader")
    parser.add_argument("--device", type=torch.device, default=experiments.default_device())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        run(options.shapes, options.device, options.repeats, options.out)


if __name__ == "__main__":
    main()

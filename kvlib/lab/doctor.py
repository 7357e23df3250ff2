"""What this machine can do for kvlib, as one table: found in seconds, without loading weights."""

import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import av
import psutil
import torch
import transformers
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from transformers import PretrainedConfig

from kvlib.checkpoint import check_weights, load_config
from kvlib.families import family_of
from kvlib.lab.figures.fonts import chinese_font
from kvlib.lab.report.report import device_name
from kvlib.lab.study.budgets import choose_budget
from kvlib.lab.study.runs import default_device
from kvlib.lab.video.calibration import (
    GIB,
    MIB,
    bytes_per_token,
    chunk_tokens,
    first_frames,
    forecast,
    number_bytes,
    resolutions,
)
from kvlib.lab.video.source import VideoSource
from kvlib.model import load_processor
from kvlib.ops.attention import HOPPER, has_flash
from kvlib.ops.fused import compiles

CHUNK = (4, 1080, 1920)  # frames, height, width of the chunk that is counted
RUNNING = int(3.5 * 2**30)  # bytes of a GPU for such a chunk while it is processed: 2.2 to 3.4 GiB in `benchmarks/results`
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DECODERS = ("h264", "hevc", "vp9", "av1")


class Row(NamedTuple):
    """One line of the table: what was looked at, what was found, what it means or what to do about it. `good` is False where
    something that is needed does not work."""

    what: str
    found: str
    meaning: str
    good: bool = True


def print_table(model: str | None = None) -> bool:
    """Print what this machine can do and what it can do with the checkpoint folder `model`; False when that would not load."""
    device, go_on = default_device(), ""
    rows = [*machine_rows(device), *tool_rows()]
    if model is not None:
        more, go_on = model_rows(Path(model).expanduser(), device)
        rows += more
    table = Table("what", "found", "what it means")
    for row in rows:
        table.add_row(*(Text(text) for text in row[:3]), style=None if row.good else "bold red")
    console = Console()
    console.print(table)
    if go_on:
        console.print("Go on with:", Text(go_on), sep="\n", soft_wrap=True)
    return all(row.good for row in rows)


def machine_rows(device: torch.device) -> list[Row]:
    """Python, torch, the device with its memory, and which kernels the engine uses on it."""
    supported = (3, 11) <= sys.version_info < (3, 14)
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    on_gpu = device.type == "cuda"
    return [
        Row("Python", platform.python_version(), "supported" if supported else "use 3.11, 3.12 or 3.13", supported),
        Row("torch", f"{torch.__version__}, {cuda}", "runs on the GPU" if on_gpu else no_gpu()),
        Row("transformers", transformers.__version__, "models run with its classes"),
        Row(
            "device",
            device_name(device),
            "weights are loaded in bf16" if on_gpu else "weights are loaded in fp32",
        ),
        Row("memory", f"{free_bytes(device) / GIB:.1f} GiB", "free on the GPU" if on_gpu else "half of the RAM"),
        Row("attention", *attention_path(device)),
        Row("graphs, Triton", *compiler_state(device)),
    ]


def no_gpu() -> str:
    """Why torch uses no GPU."""
    if torch.version.cuda:
        return "no GPU is found: is there one, and does `nvidia-smi` show it?"
    return "runs on the CPU; for an NVIDIA GPU install torch's CUDA build of the same version"


def attention_path(device: torch.device) -> tuple[str, str]:
    """The kernel with which a chunk of a published model attends to the cache, and what that means."""
    if device.type == "cpu":
        return "plain", "scaled_dot_product_attention with a mask: the only one on a CPU"
    queries = torch.empty(1, 16, 512, 128, device=device, dtype=torch.bfloat16)  # [1, heads, tokens, head dim]
    keys = queries[:, :2]
    if not has_flash(queries, keys, keys):
        return "plain", "this GPU has no flash attention in bf16: a chunk takes longer, and memory for a mask"
    if torch.cuda.get_device_capability(device) >= HOPPER:
        return "cuDNN and flash", "the fastest: cuDNN for the past, flash attention for the chunk itself"
    return "flash", "flash attention for the past and for the chunk itself"


def compiler_state(device: torch.device) -> tuple[str, str]:
    """Whether steps are compiled and captured as CUDA graphs, and what that means."""
    if device.type == "cpu":
        return "not used", "they are for NVIDIA GPUs; on a CPU every operation is called by itself"
    if compiles(device):
        return "both", "elementwise steps are fused into one kernel, single tokens are decoded by a CUDA graph"
    return "graphs only", "no fused kernels: these need Triton, a C compiler (such as gcc) and an Ampere GPU or a later one"


def tool_rows() -> list[Row]:
    """What is needed for video files, the browser test and Chinese figures."""
    decoders = [name for name in DECODERS if can_decode(name)]
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        font, meaning = chinese_font(), "FIGURE_LANG=zh draws figures in Chinese"
    except RuntimeError:
        font, meaning = "none", "only FIGURE_LANG=zh needs it: on Debian apt-get install fonts-noto-cjk"
    return [
        Row("video", f"PyAV {av.__version__}", f"FFmpeg is part of it; it decodes {', '.join(decoders)}", "h264" in decoders),
        Row("Chromium", browser or "none", "the browser test runs" if browser else "only the browser test needs it: "
            "on Debian apt-get install chromium"),
        Row("Chinese font", font, meaning),
    ]  # fmt: skip


def can_decode(name: str) -> bool:
    """Whether PyAV's FFmpeg has a decoder of this name."""
    try:
        return bool(av.codec.Codec(name, "r"))
    except ValueError:  # av.codec.codec.UnknownCodecError
        return False


def model_rows(folder: Path, device: torch.device) -> tuple[list[Row], str]:
    """What the checkpoint in `folder` is and what fits beside it on `device`; and the command to go on with, or "".

    Reads the configuration, the tokenizer and the headers of the weight files, no weights.
    """
    try:
        config, processor = load_config(folder), load_processor(folder)
        parameters = count_parameters(config)
    except Exception as error:  # whatever a damaged file makes transformers raise
        return [Row("checkpoint", "would not load", f"{type(error).__name__}: {error}", False)], ""
    number = number_bytes(device)
    problem = weights_problem(folder, config)
    _, tokens, _ = chunk_tokens(config, processor, CHUNK)
    room = free_bytes(device) - parameters * number
    fit = tokens_beside_weights(config, device)
    found = f"{parameters / 1e9:.2f} billion parameters, {parameters * number / GIB:.1f} GiB"
    in_bf16, in_fp32 = (f"{bytes_per_token(config, size):,} bytes in {name}" for size, name in ((2, "bf16"), (4, "fp32")))
    rows = [
        Row("checkpoint", "would not load" if problem else "would load", problem or str(folder), not problem),
        Row("weights", found, "fit" if room > 0 else "do not fit: free memory, or take a smaller model", room > 0),
        Row("chunk", f"{tokens:,} tokens", "4 frames of 1920x1080; less with smaller frames"),
        Row("token", f"{in_bf16}, {in_fp32}", "layers x 2 (keys, values) x KV heads x head dimension x bytes"),
        Row("cache", f"{fit:,} tokens", f"fit beside weights and a running chunk: {fit // tokens:,} such chunks"),
    ]
    return rows, command(folder, fit) if not problem and fit > tokens else ""


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of a model of these shapes; no weights are made."""
    with torch.device("meta"):
        model = family_of(config).transformers_class(config)
    return sum(parameter.numel() for parameter in model.parameters())


def tokens_beside_weights(config: PretrainedConfig, device: torch.device) -> int:
    """Tokens whose keys and values fit into the memory that the weights leave, and on a GPU a chunk while it is processed. On a
    CPU the other half of the RAM is for that."""
    number = number_bytes(device)
    room = free_bytes(device) - count_parameters(config) * number - (RUNNING if device.type == "cuda" else 0)
    return max(room, 0) // bytes_per_token(config, number)


def free_bytes(device: torch.device) -> int:
    """Memory for weights and cache: what is free on the GPU, or half the RAM of a machine without one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().total // 2


def weights_problem(folder: Path, config: PretrainedConfig) -> str:
    """What is wrong with the weight files of the checkpoint, or "". Reads their headers only."""
    try:
        check_weights(folder, config)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return ""


def print_forecasts(model: str, video: Path) -> None:
    """Print what the chunks of `video` would cost with the checkpoint `model`, for its own size and for smaller ones.

    The chunks are those of `kvlib ask`. Raises what `VideoChunks`, `load_config` and `load_processor` raise.
    """
    device, config, processor = default_device(), load_config(model), load_processor(model)
    (frames, height, width), fps = first_frames(VideoSource(video))
    budget = max(1, min(choose_budget(0, model, device)[0], tokens_beside_weights(config, device)))
    heads = "frames", "tokens a chunk", "tokens a second of video", "seconds a second of video"
    table = Table(*heads, Column("memory a chunk", no_wrap=True), "chunks in the cache", "keeps up")
    for size in resolutions(height, width):
        made = forecast(config, processor, (frames, *size), fps, budget, device)
        token_bytes = made.token_bytes
        cells = f"{size[1]}x{size[0]}", f"{made.tokens:,}", f"{made.tokens_per_s:,.0f}", f"{made.load:.2g}"
        table.add_row(
            *cells, f"{made.chunk_bytes / MIB:.3g} MiB", f"{made.chunks_in_budget:,}", "yes" if made.keeps_up else "no"
        )
    given = (
        f"{video.name} with {model}: chunks of {frames} frames at {fps:g} frames per second, a full cache of {budget:,} tokens"
    )
    console = Console()
    console.print(Text(f"{given} ({budget * token_bytes / GIB:.3g} GiB). Decoding is not counted."))
    console.print(table)


def command(folder: Path, tokens: int) -> str:
    """How to run 02_oom_free with this checkpoint and a budget of so many tokens, rounded down to thousands."""
    budget = max(tokens // 1000 * 1000, min(tokens, 1000))
    target = shlex.quote(f"results/{folder.resolve().name}")
    given = f"-p MODEL_PATH {shlex.quote(str(folder))} -p VIDEO_PATH VIDEO.mp4 -p MAX_CACHE_TOKENS {budget} -p CHUNK_FRAMES 4"
    return f".venv/bin/kvlib workbook 02_oom_free {given} -p OUTPUT_DIR {target}"

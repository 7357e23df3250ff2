"""Train the embedded reader from scratch: a 7.9 M-parameter Qwen2.5-VL that reads on-screen text in streams.

    python data/train_reader.py .fonts data/reader --seconds 1750        # one GPU; data/README.md says how it was run

Worker processes draw scenes, encode them as H.264, decode and resize them; the trainer keeps the clips in a ring on the GPU
and composes streams of 1 to 16 chunks from them, in exactly the turns and positions that `kvlib` streams. Several questions
hang on each stream as parallel branches: a branch sees the stream up to a random chunk, and itself. Beside the answers, two
linear heads that are thrown away afterwards learn from every visual token which characters it shows and which place they have
in the text; the renderer knows both. Without them reading had not begun after 2.4 million clips.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kvlib.lab.study import synthetic  # noqa: E402

PATCH, MERGE = 14, 2
GLYPHS, LONGEST = 95, 2 * synthetic.MAX_LINE + 1  # kinds of character, 0 for none; characters of a text
CELL = PATCH * MERGE
GRIDS = [(5, 10), (4, 8), (6, 10), (6, 12), (5, 9)]  # rows, columns of 28-pixel cells; the first is the default resolution
WINDOW_CHUNKS = 16
GLYPHS_ONLY, RAMP = 0.05, 0.12  # shares of the time: up to there glyphs alone; up to there texts grow to full length
READS, LATEST = 0.6, 0.3  # streams are drawn too once so many held-out lines are exact, or so much of the time is over
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
BEFORE, AFTER = "<|im_start|>user\n<|vision_start|>", "<|vision_end|><|im_end|>\n"
SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
CHAT_TEMPLATE = """\
{%- if not messages or messages[0]['role'] != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


# ---------------------------------------------------------------------------------------------------------- checkpoint


def build_tokenizer():
    """Byte-level BPE whose merges come from the prompts alone, so that a prompt is short and an answer is bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    prompts = [q.format(color=c) for asked in synthetic.QUESTIONS.values() for q in asked for c in synthetic.COLORS]
    prompts += ["system\nuser\nassistant\nYou are a helpful assistant.\n"] * 8
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(prompts, trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer):
    """The untrained model, fp32."""
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    def token(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(f"<|{name}|>")

    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=-(-len(tokenizer) // 16) * 16,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            bos_token_id=token("endoftext"),
            eos_token_id=token("im_end"),
            rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e4},
        ),
        vision_config=dict(
            depth=7,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            in_channels=3,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            window_size=112,
            fullatt_block_indexes=[1, 3, 5],
            out_hidden_size=256,
            tokens_per_second=2,
        ),
        tie_word_embeddings=True,
        video_token_id=token("video_pad"),
        image_token_id=token("image_pad"),
        vision_start_token_id=token("vision_start"),
        vision_end_token_id=token("vision_end"),
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=token("endoftext"), eos_token_id=[token("im_end"), token("endoftext")], pad_token_id=token("endoftext")
    )
    return model


def continue_from(model, folder: Path) -> None:
    """Load a checkpoint's weights into `model`. Vision blocks that it lacks begin as the identity; of its language layers the
    first and the last are kept, as many as the model has (a middle one is missed the least)."""
    source = type(model).from_pretrained(folder, dtype=torch.float32)
    stacks = ".blocks.", ".layers."
    rest = {name: value for name, value in source.state_dict().items() if not any(stack in name for stack in stacks)}
    model.load_state_dict(rest, strict=False)
    layers, theirs = model.model.language_model.layers, source.model.language_model.layers
    count = len(layers)
    for layer, other in zip(layers, [*theirs[: -(-count // 2)], *theirs[len(theirs) - count // 2 :]], strict=True):
        layer.load_state_dict(other.state_dict())
    for block, other in itertools.zip_longest(model.model.visual.blocks, source.model.visual.blocks):
        if other is not None:
            block.load_state_dict(other.state_dict())
        else:
            for output in (block.attn.proj, block.mlp.down_proj):
                nn.init.zeros_(output.weight)
                nn.init.zeros_(output.bias)


def image_processor():
    """Qwen2-VL's image settings, with a limit that brings a 560 x 280 source to 280 x 140 (50 tokens per frame pair)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 285 * 145})


def save_checkpoint(model, tokenizer, folder: Path) -> None:
    """Everything `from_pretrained` needs, weights in bf16; the head is the embedding and is not stored twice."""
    import copy

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------------- clips


def draw_scene(rng: random.Random, fonts: list[str], split: str, max_length: int) -> synthetic.Scene:
    """One scene for training: its own font and layout; a third cards, a tenth blank."""
    kind = rng.choices(["plain", "card", "blank"], [0.53, 0.37, 0.10])[0]
    text = "" if kind == "blank" else synthetic.draw_text(rng, split, max_length)
    color = rng.choice(list(synthetic.COLORS)) if kind == "card" else None
    return synthetic.Scene(text, color, rng.choice(fonts), rng.choice(synthetic.TRAIN_LAYOUTS), rng.getrandbits(32))


def make_clips(seed: int, families: list[list[str]], split: str, grid: tuple[int, int], count: int, max_length: int = 24):
    """`count` scenes that went through H.264 together: uint8 [count, 2, 3, H, W] at model resolution, the scenes, and their
    characters' centres as shares of width and height."""
    rng = random.Random(seed)
    height, width = grid[0] * CELL, grid[1] * CELL
    scale = rng.choice([1, 1.25, 1.5, 2, 2, 2])
    source = [2 * round(side * scale * rng.uniform(0.96, 1.04) / 2) if scale < 2 else 2 * side for side in (width, height)]
    fonts = [rng.choice(rng.choice(families)) for _ in range(count)]
    scenes = [draw_scene(rng, [font], split, min(max_length, width // 11)) for font in fonts]
    pictures, centres = zip(*(synthetic.compose(scene, *source) for scene in scenes), strict=True)
    file = io.BytesIO()
    synthetic.write_video(file, (picture for picture in pictures for _ in range(2)), 2, rng.randint(18, 34))
    file.seek(0)
    frames = synthetic.read_video(file)
    if frames.shape[1:3] != (height, width):
        frames = np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])
    return frames.reshape(count, 2, height, width, 3).transpose(0, 1, 4, 2, 3), scenes, [c / np.array(source) for c in centres]


def render_worker(number: int, folder: Path, families: list[list[str]]) -> None:
    """Write blocks of clips into `folder` until killed; every 12th block is held-out text, for monitoring."""
    os.nice(19)  # the trainer and its compiler go first
    block = 0
    while True:
        if len(os.listdir(folder)) > 240:
            time.sleep(0.2)
            continue
        seed = number * 1_000_000 + block
        rng = random.Random(seed)
        grid = GRIDS[0] if block < 8 or rng.random() < 0.7 else rng.choice(GRIDS[1:])
        split = "held_out" if block % 12 == 11 else "train"
        max_length = 24 if split == "held_out" else (8 if block < 8 else rng.choice([8, 24, 24, 24]))
        clips, scenes, centres = make_clips(seed, families, split, grid, 48, max_length)
        name = f"{split}-{grid[0]}-{grid[1]}-{seed}"
        np.save(folder / f".{name}.npy", np.ascontiguousarray(clips))
        colors = [list(synthetic.COLORS).index(s.color) if s.color else -1 for s in scenes]
        meta = [(s.text, c, at.round(4).tolist()) for s, c, at in zip(scenes, colors, centres, strict=True)]
        (folder / f".{name}.json").write_text(json.dumps(meta))
        os.rename(folder / f".{name}.npy", folder / f"{name}.npy")
        os.rename(folder / f".{name}.json", folder / f"{name}.json")
        block += 1


class Ring:
    """Clips of one grid on the device: uint8 [capacity, 2, 3, H, W], with their texts and colours; the oldest give way.

    `glyphs` [capacity, LONGEST, 3]: for each character of the text its centre (x, y) from -1 to 1 and its kind.
    """

    def __init__(self, grid: tuple[int, int], capacity: int, device):
        self.clips = torch.zeros(capacity, 2, 3, grid[0] * CELL, grid[1] * CELL, dtype=torch.uint8, device=device)
        self.glyphs = torch.zeros(capacity, LONGEST, 3, device=device)
        self.stream = torch.cuda.Stream() if self.clips.is_cuda else None
        self.texts = [""] * capacity
        self.lengths, self.colors = np.zeros(capacity, int), np.full(capacity, -1)
        self.added = 0

    @property
    def size(self) -> int:
        return min(self.added, len(self.texts))

    def usable(self) -> np.ndarray:
        """Indices to draw from: all that are filled, but for those that will be overwritten next."""
        filled = np.arange(self.size)
        if self.added < len(self.texts):
            return filled
        margin = len(self.texts) // 16
        return filled[(filled - self._next(48)) % len(self.texts) >= margin]

    def _next(self, count: int) -> int:
        """Where the next `count` clips go: a block is never split."""
        return self.added % (len(self.texts) // count * count)

    def add(self, clips: np.ndarray, meta: list) -> None:
        """Upload beside the trainer's own work: `usable` keeps it from what is being overwritten."""
        at = self._next(len(meta))
        glyphs = np.zeros((len(meta), LONGEST, 3), np.float32)
        for row, (text, _, centres) in zip(glyphs, meta, strict=True):
            if text:
                row[: len(text), :2] = np.nan_to_num(np.array(centres, np.float32) * 2 - 1)
                row[: len(text), 2] = [max(0, ord(c) - 32) for c in text]
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            self.clips[at : at + len(meta)].copy_(torch.from_numpy(clips))
            self.glyphs[at : at + len(meta)].copy_(torch.from_numpy(glyphs))
        if self.stream:
            self.stream.synchronize()
        self.record(meta)

    def record(self, meta: list) -> None:
        """Note what `add` has uploaded."""
        for index, (text, color, _) in enumerate(meta, self._next(len(meta))):
            self.texts[index], self.colors[index], self.lengths[index] = text, color, len(text)
        self.added += len(meta)


def training_rings(capacity: int, device) -> dict[tuple[int, int], Ring]:
    """One for each grid; those that are not the default's are small."""
    return {grid: Ring(grid, capacity if grid == GRIDS[0] else max(96, capacity // 8), device) for grid in GRIDS}


class Pool:
    """All rings, filled from the workers' blocks by a thread; `news` is a queue that hears of each block for training."""

    def __init__(self, folder: Path, capacity: int, device, news):
        self.folder, self.news = folder, news
        self.train = training_rings(capacity, device)
        self.held_out = {GRIDS[0]: Ring(GRIDS[0], 4800, device)}
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        while True:
            names = [n for n in os.listdir(self.folder) if n.endswith(".json") and not n.startswith(".")]
            for name in names:
                split, rows, columns, _ = name.split("-")
                path = self.folder / name
                grid, meta = (int(rows), int(columns)), json.loads(path.read_text())
                ring = (self.train if split == "train" else self.held_out).get(grid)
                if ring is not None:
                    ring.add(np.load(path.with_suffix(".npy")), meta)
                if split == "train":
                    self.news.put((grid, meta))
                path.with_suffix(".npy").unlink()
                path.unlink()
            time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------ streams


class Packer:
    """Composes streams with questions into the arrays of a batch, in the turns and positions of `kvlib`."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompts, self.prefixes = tokenizer, {}, {}
        self.byte_ids = self._byte_ids()
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.video = tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def _byte_ids(self) -> dict[str, int]:
        """Character -> id of its single-byte token: answers are spelt without merges."""
        alphabet = {
            c: self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(c)[0][0] for c in map(chr, range(33, 127))
        }
        alphabet |= {" ": "\u0120", "\n": "\u010a"}
        return {c: self.tokenizer.convert_tokens_to_ids(symbol) for c, symbol in alphabet.items()}

    def tokens(self, text: str) -> list[int]:
        if text not in self.prompts:
            self.prompts[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.prompts[text]

    def spell(self, text: str) -> list[int]:
        return [self.byte_ids[c] for c in text]

    def prefix(self, grid: tuple[int, int], chunks: int, grids_per_chunk: int, step: int):
        """The stream without questions: ids [n], positions [3, n], and after each chunk its end index and next position."""
        key = grid, chunks, grids_per_chunk, step
        if key in self.prefixes:
            return self.prefixes[key]
        rows, columns = grid
        ids, positions, ends, at = [], [], [], 0

        def put(tokens):
            nonlocal at
            ids.extend(tokens)
            positions.extend((p, p, p) for p in range(at, at + len(tokens)))
            at += len(tokens)

        put(self.tokens(SYSTEM))
        for _ in range(chunks):
            put(self.tokens(BEFORE))
            block = [
                (at + t * step, at + row, at + column)
                for t in range(grids_per_chunk)
                for row in range(rows)
                for column in range(columns)
            ]
            ids.extend([self.video] * len(block))
            positions.extend(block)
            at = max(map(max, block)) + 1
            put(self.tokens(AFTER))
            ends.append((len(ids), at))
        self.prefixes[key] = np.array(ids), np.array(positions).T, ends
        return self.prefixes[key]

    def branch(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of a question with its answer, and the index of the answer's first token."""
        prompt = self.tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        return prompt + self.spell(answer) + [self.end], len(prompt)

    def batch(self, streams: list[dict]) -> dict[str, torch.Tensor]:
        """Arrays of a batch. streams: each with `prefix` (of one shape) and `branches` [(chunk index, kind, question, answer)].

        ids [B, L], positions [3, B, L], branch [B, L] (0 = stream, -1 = padding), limit [B, L] (how much of the stream a
        token may see), branched (False when each has one branch that sees all), predict [n] (flat indices of the states that
        predict), target [n], owner [n] (number of the branch). L is the longest stream with its branches, up to a multiple of 16.
        """
        ids0, positions0, ends = streams[0]["prefix"]
        rows = [[(chunk, kind, *self.branch(*asked)) for chunk, kind, *asked in stream["branches"]] for stream in streams]
        tail = max(sum(len(tokens) for *_, tokens, _ in row) for row in rows)
        start, length, count = len(ids0), -(-(len(ids0) + tail) // 16) * 16, len(streams)
        ids = np.full((count, length), self.pad)
        positions = np.zeros((3, count, length), int)
        branch, limit = np.full((count, length), -1), np.full((count, length), start)
        ids[:, :start], positions[:, :, :start], branch[:, :start] = ids0, positions0[:, None], 0
        predict, target, owner, kinds = [], [], [], []
        for row, branches in enumerate(rows):
            at = start
            for number, (chunk, kind, tokens, first) in enumerate(branches, 1):
                end = at + len(tokens)
                ids[row, at:end], branch[row, at:end] = tokens, number
                limit[row, at:end] = ends[chunk][0]
                positions[:, row, at:end] = np.arange(ends[chunk][1], ends[chunk][1] + len(tokens))
                predict.extend(range(row * length + at + first - 1, row * length + end - 1))
                target.extend(tokens[first:])
                owner.extend([len(kinds)] * (len(tokens) - first))
                kinds.append(kind)
                at = end
        arrays = dict(ids=ids, positions=positions, branch=branch, limit=limit)
        arrays |= dict(predict=np.array(predict), target=np.array(target), owner=np.array(owner))
        branched = any([chunk for chunk, *_ in stream["branches"]] != [len(ends) - 1] for stream in streams)
        return {k: torch.from_numpy(v) for k, v in arrays.items()} | {"kinds": kinds, "branched": branched}


def draw_branches(rng: random.Random, scenes: list[tuple[str, int]], per_chunk: int, count: int) -> list[tuple]:
    """Random questions about a stream: [(chunk index, kind, question, answer)]. scenes: (text, colour index or -1) of each
    temporal grid, `per_chunk` of them to a chunk."""
    chunks, branches = len(scenes) // per_chunk, []
    names = list(synthetic.COLORS)
    for _ in range(count):
        chunk = rng.randrange(chunks) if rng.random() < 0.7 else chunks - 1
        seen = [synthetic.Scene(text, names[c] if c >= 0 else None, "", "", 0) for text, c in scenes[: (chunk + 1) * per_chunk]]
        kind = rng.choices(["now", "title", "card", "summary"], [0.28, 0.24, 0.42, 0.06])[0]
        color = None
        if kind == "card":
            shown = sorted({s.color for s in seen if s.color})
            color = rng.choice(shown) if shown and rng.random() < 0.85 else rng.choice(names)
        branches.append((chunk, kind, draw_question(rng, kind, color), synthetic.answer(seen, kind, color)))
    return branches


def draw_question(rng: random.Random, kind: str, color: str | None) -> str:
    """The workbook's own phrasing in six of ten cases, else any."""
    asked = synthetic.QUESTIONS[kind]
    return (asked[0] if rng.random() < 0.6 else rng.choice(asked)).format(color=color)


def draw_batch(packer: Packer, ring: Ring, grid, chunks: int, per_chunk: int, count: int, questions: int, rng, max_text=None):
    """A batch of `count` streams of `chunks` chunks from the ring: its arrays (none without `questions`), and the clips'
    indices [count * grids]."""
    usable = ring.usable()
    if max_text is not None:
        usable = usable[ring.lengths[usable] <= max_text]
    grids = chunks * per_chunk
    picks = usable[np.random.default_rng(rng.getrandbits(32)).integers(0, len(usable), (count, grids))]
    if not questions:
        return {"kinds": []}, torch.from_numpy(picks.reshape(-1))
    step = 2 if per_chunk == 1 else rng.choice([2, 2, 2, 1, 4])
    prefix = packer.prefix(grid, chunks, per_chunk, step)
    streams = []
    for row in picks:
        while grids > 1 and not ring.texts[row[0]]:  # a title is never blank
            row[0] = rng.choice(usable)
        scenes = [(ring.texts[i], int(ring.colors[i])) for i in row]
        if questions == 1:
            last = scenes[-1][0] or synthetic.BLANK_ANSWER
            question = draw_question(rng, "now", None) if max_text is None else rng.choice(synthetic.QUESTIONS["now"][1:])
            branches = [(chunks - 1, "now", question, last)]
        else:
            branches = draw_branches(rng, scenes, per_chunk, questions)
        streams.append(dict(prefix=prefix, branches=branches))
    return packer.batch(streams), torch.from_numpy(picks.reshape(-1))


# -------------------------------------------------------------------------------------------------- batched forward


def rotate(x, cos, sin):
    """Rotary embedding, with `signed` sines: rolling by half, unlike cutting and joining, compiles to one fast kernel."""
    x, dtype = x.float(), x.dtype
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(dtype)


def signed(sin):
    """The sines [..., d] with the first half negated, as `rotate` wants them."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], -1)


def vision_block(block, hidden, cos, sin, mask):
    """A block of the vision tower for equal grids: hidden [N, patches, d], mask bool [patches, patches] or None."""
    heads, size = block.attn.num_heads, block.attn.head_dim  # constants to the compiler, unlike arguments
    qk, v = block.attn.qkv(block.norm1(hidden)).split([2 * heads * size, heads * size], -1)
    q, k = rotate(qk.unflatten(-1, (2 * heads, size)), cos, sin).transpose(1, 2).split([heads, heads], 1)
    v = v.unflatten(-1, (heads, size)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.norm2(hidden))


def text_block(layer, hidden, cos, sin, mask):
    """A layer of the language model: hidden [B, L, d], mask bool [B, 1, L, L] or None for plainly causal."""
    attention, x = layer.self_attn, layer.input_layernorm(hidden)
    size, groups = attention.head_dim, attention.num_key_value_groups
    q, k, v = (p(x).unflatten(-1, (-1, size)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
    if mask is not None:  # the kernels that take a mask want as many heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=mask is None)
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def branch_mask(branch: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Who sees whom, bool [B, 1, L, L]: what came before in the same branch, and the stream up to the branch's limit."""
    order = torch.arange(branch.shape[1], device=branch.device)
    same = branch[:, :, None] == branch[:, None]
    visible = (branch[:, None] == 0) & (order[None, None] < limit[:, :, None])
    return ((order[:, None] >= order[None]) & (same | visible))[:, None]


class Trainer(nn.Module):
    """The model's forward for batches of equal grids and branch masks; `check_forward` compares it with transformers'."""

    def __init__(self, model, device):
        super().__init__()
        self.model, self.device, self.tables = model.to(device), device, {}
        self.vision_block, self.text_block = vision_block, text_block
        self.glyph_head = nn.Linear(model.config.text_config.hidden_size, 4 * (2 * GLYPHS + LONGEST), device=device)
        settings = image_processor()
        self.mean = torch.tensor(settings.image_mean, device=device).view(1, 1, 3, 1, 1)
        self.std = torch.tensor(settings.image_std, device=device).view(1, 1, 3, 1, 1)

    def compile(self) -> None:
        """One compilation each, shared by all layers (their weights are inputs)."""
        import torch._dynamo

        torch._dynamo.config.recompile_limit = 64
        self.vision_block = torch.compile(vision_block, dynamic=True)
        self.text_block = torch.compile(text_block, dynamic=True)
        self.augment = torch.compile(self.augment, dynamic=True)
        self.patches = torch.compile(self.patches, dynamic=True)
        self.glyph_loss = torch.compile(self.glyph_loss, dynamic=True)

    def distort(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Half of the clips narrower, lower and slanted, a quarter with bolder or thinner strokes: [N, 6, H, W] float.

        Also returns [N, 2, 3], the affine map from new to old coordinates."""
        n = len(pixels)

        def draw(low: float, high: float, share: float, neutral: float) -> torch.Tensor:
            values = torch.empty(n, device=self.device).uniform_(low, high)
            return torch.where(chosen < share, values, neutral)

        chosen = torch.rand(n, device=self.device)
        across, down = draw(1.0, 1.18, 0.5, 1.0), draw(1.0, 1.18, 0.5, 1.0)  # a grid wider than the picture shrinks it
        theta = torch.zeros(n, 2, 3, device=self.device)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 1] = across, down, draw(-0.08, 0.08, 0.5, 0.0)
        theta[:, 0, 2], theta[:, 1, 2] = (across - 1) * draw(-1, 1, 0.5, 0.0), (down - 1) * draw(-1, 1, 0.5, 0.0)
        grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        chosen, amount = torch.rand(n, device=self.device), torch.empty(n, device=self.device).uniform_(0, 0.5)
        bright, dark = ((amount * part).view(n, 1, 1, 1) for part in (chosen < 0.12, chosen > 0.88))
        wide, narrow = F.max_pool2d(pixels, 3, 1, 1), -F.max_pool2d(-pixels, 3, 1, 1)
        return pixels + bright * (wide - pixels) + dark * (narrow - pixels), theta

    def augment(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, 2, 3, H, W] -> the same as float 0..255, with `distort`, gain, offset and noise; and distort's map."""
        pixels, theta = self.distort(clips.flatten(1, 2).float())
        shape = (len(clips), 1, 1, 1)
        gain = torch.empty(shape, device=self.device).uniform_(0.88, 1.12)
        offset = torch.empty(shape, device=self.device).uniform_(-10, 10)
        noise = torch.randn_like(pixels) * torch.empty(shape, device=self.device).uniform_(0, 2.5)
        return (pixels * gain + offset + noise).clamp(0, 255).unflatten(1, (2, 3)), theta

    def patches(self, clips: torch.Tensor) -> torch.Tensor:
        """[N, 2, 3, H, W] with values 0..255 -> normalised patches [N, patches, 1176]."""
        n, *_, height, width = clips.shape
        pixels = (clips.float() / 255 - self.mean) / self.std
        rows, columns = height // CELL, width // CELL
        cells = pixels.view(n, 2, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
        return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(n, rows * columns * 4, -1)

    def vision_tables(self, grid: tuple[int, int]):
        """cos, signed sin [patches, 1, head dim] and the window mask [patches, patches] of a grid, patches in cell order."""
        if grid not in self.tables:
            from transformers.vision_utils import get_vision_position_ids

            visual = self.model.model.visual
            thw = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]])
            positions = get_vision_position_ids(thw, MERGE).to(self.device)
            cos, sin = visual.rotary_pos_emb(torch.zeros(1, device=self.device), positions)
            side = visual.window_size // CELL
            row, column = (
                torch.arange(grid[0] * grid[1]).div(grid[1], rounding_mode="floor"),
                torch.arange(grid[0] * grid[1]) % grid[1],
            )
            window = (row // side * 100 + column // side).repeat_interleave(4).to(self.device)
            self.tables[grid] = cos.float()[:, None], signed(sin.float())[:, None], window[:, None] == window[None]
        return self.tables[grid]

    def vision(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Patches [N, patches, 1176] -> features [N, cells, hidden]."""
        visual = self.model.model.visual
        cos, sin, mask = self.vision_tables(grid)
        hidden = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
        for index, block in enumerate(visual.blocks):
            full = index in visual.fullatt_block_indexes
            hidden = self.vision_block(block, hidden, cos, sin, None if full else mask)
        return visual.merger(hidden.reshape(-1, hidden.shape[-1])).view(len(patches), grid[0] * grid[1], -1)

    def glyph_loss(self, features: torch.Tensor, glyphs: torch.Tensor, theta: torch.Tensor, grid) -> torch.Tensor:
        """Cross-entropy of what each patch shows: its first two characters, and the place of the first in the text.

        features [N, cells, hidden] of the whole tower; glyphs [N, LONGEST, 3] as in `Ring`; theta from `distort`.
        """
        n, rows, columns = len(features), grid[0] * MERGE, grid[1] * MERGE
        y = (glyphs[..., 1] - theta[:, 1, 2:]) / theta[:, 1, 1:2]
        x = (glyphs[..., 0] - theta[:, 0, 2:] - theta[:, 0, 1:2] * y) / theta[:, 0, :1]
        row = ((y + 1) / 2 * rows).floor().long().clamp(0, rows - 1)
        column = ((x + 1) / 2 * columns).floor().long().clamp(0, columns - 1)
        cell = (row // MERGE * grid[1] + column // MERGE) * 4 + row % MERGE * MERGE + column % MERGE  # patches in cell order
        kind, place = glyphs[..., 2].long(), torch.arange(LONGEST, device=self.device).expand(n, -1)
        first = torch.full((n, rows * columns), LONGEST, device=self.device)
        first.scatter_reduce_(1, cell, torch.where(kind > 0, place, LONGEST), "amin")
        shown = first < LONGEST
        first = first.clamp(max=LONGEST - 1)
        one = torch.where(shown, kind.gather(1, first), 0)
        beside = (first + 1).clamp(max=LONGEST - 1)
        together = cell.gather(1, beside) == torch.arange(rows * columns, device=self.device)
        two = torch.where(shown & together & (beside > first), kind.gather(1, beside), 0)
        logits = self.glyph_head(features).float().view(n, rows * columns, -1)
        weight = torch.where(shown, 1.0, 0.05).flatten()
        weight = weight / weight.sum()
        parts = zip(logits.flatten(0, 1).split([GLYPHS, GLYPHS, LONGEST], -1), (one, two, first), strict=True)
        losses = [F.cross_entropy(part, target.flatten(), reduction="none") for part, target in parts]
        losses[2] = losses[2] * shown.flatten()
        return sum((loss * weight).sum() for loss in losses)

    def learn_glyphs(self, clips, grid, glyphs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of augmented clips, and their `glyph_loss`."""
        with torch.no_grad():
            clips, theta = self.augment(clips)
        features = self.vision(self.patches(clips), grid)
        return features, self.glyph_loss(features, glyphs, theta, grid)

    def answer(self, features: torch.Tensor, batch: dict) -> torch.Tensor:
        """Logits [n, vocabulary] of the batch's answer tokens, given the features of its clips."""
        language = self.model.model.language_model
        embedded = language.embed_tokens(batch["ids"]).to(features.dtype)
        is_video = (batch["ids"] == self.model.config.video_token_id)[..., None]
        hidden = embedded.masked_scatter(is_video, features)
        mask = branch_mask(batch["branch"], batch["limit"]) if batch["branched"] else None
        cos, sin = (x.float()[:, :, None] for x in language.rotary_emb(hidden.float(), batch["positions"]))
        sin = signed(sin)
        for layer in language.layers:
            hidden = self.text_block(layer, hidden, cos, sin, mask)
        return self.model.lm_head(language.norm(hidden.flatten(0, 1)[batch["predict"]]))

    def forward(self, clips, grid, batch: dict) -> torch.Tensor:
        """Logits [n, vocabulary] of the batch's answer tokens, from the clips as they are."""
        return self.answer(self.vision(self.patches(clips), grid), batch)


@torch.no_grad()
def check_forward(trainer: Trainer, packer: Packer) -> float:
    """Largest difference between our logits and transformers' own forward, fp32, on a stream of 3 chunks and 2 branches."""
    grid, per_chunk, device = (5, 10), 2, trainer.device
    generator = np.random.default_rng(0)
    clips = torch.from_numpy(generator.integers(0, 256, (6, 2, 3, 140, 280)).astype(np.uint8)).to(device)
    asked = [(1, "now", "Read the text on screen.", "abc"), (2, "title", "What is the title of this video?", "Hello, you")]
    prefix = packer.prefix(grid, 3, per_chunk, 2)
    batch = to_device(packer.batch([dict(prefix=prefix, branches=asked)]), device)
    ours, worst = trainer(clips, grid, batch), 0.0
    model, patches = trainer.model.eval(), trainer.patches(clips)
    for number, (chunk, _, question, answer) in enumerate(asked):
        tokens, first = packer.branch(question, answer)
        end = prefix[2][chunk][0]
        ids = torch.tensor([[*prefix[0][:end], *tokens]], device=device)
        grids = torch.tensor([[per_chunk, 10, 20]] * (chunk + 1), device=device)
        theirs = model(
            input_ids=ids,
            mm_token_type_ids=(ids == packer.video).int() * 2,
            pixel_values_videos=patches[: (chunk + 1) * per_chunk].reshape(-1, 1176),
            video_grid_thw=grids,
            second_per_grid_ts=torch.ones(chunk + 1, device=device),
        ).logits[0, end + first - 1 : -1]
        mine = ours[batch["owner"] == number]
        worst = max(worst, (mine - theirs).abs().max().item())
    return worst


def to_device(batch: dict, device) -> dict:
    return {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}


class Uploader:
    """Copies batches to the device from pinned memory on a stream of its own, so that the trainer never waits for one."""

    def __init__(self, device):
        self.device = device
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None

    def __call__(self, batch: dict) -> dict:
        if not self.stream:
            return to_device(batch, self.device)
        with torch.cuda.stream(self.stream):
            moved = {
                k: v.pin_memory().to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()
            }
        self.stream.synchronize()
        for tensor in filter(torch.is_tensor, moved.values()):
            tensor.record_stream(torch.cuda.default_stream())
        return moved


# --------------------------------------------------------------------------------------------------------- training


def learning_rate(step: int, share: float, peak: float) -> float:
    """Warm-up over 300 steps, then half a cosine over the share 0..1 of the time, down to 1%."""
    return peak * min(1, (step + 1) / 300) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, share))))


def glyph_weight(share: float) -> float:
    """Full at first, from half of the time on a tenth."""
    return min(1.0, max(0.1, 1.0 - 0.9 * (share - 0.25) / 0.25))


def plan(rng: random.Random, share: float, clips: int, reads: bool) -> dict:
    """What the next batch holds, by the share of the time that is over: single chunks with ever longer texts, and streams as
    well once the reader `reads`."""
    grid = GRIDS[0] if rng.random() < 0.75 else rng.choice(GRIDS[1:])
    if share < GLYPHS_ONLY and not reads:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=0)
    if share < RAMP and not reads:
        longest = 6 + round((share - GLYPHS_ONLY) / (RAMP - GLYPHS_ONLY) * 43)
        return dict(grid=GRIDS[0], chunks=1, per_chunk=1, count=clips // 2, questions=1, max_text=longest)
    if not (reads or share > LATEST) or rng.random() < 0.25:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=1)
    if rng.random() < 0.15:
        chunks = rng.choice([1, 2, 4, 8])
        return dict(grid=grid, chunks=chunks, per_chunk=2, count=max(1, clips // (2 * chunks)), questions=min(6, 2 + chunks))
    chunks = rng.choice([2, 4, 8, 12, 16, 16])
    return dict(grid=grid, chunks=chunks, per_chunk=1, count=max(1, clips // chunks), questions=min(8, 2 + chunks))


def compose(capacity: int, clips: int, seconds: float, began, reads, news, batches) -> None:
    """A process that draws batches into the queue `batches` from the moment `began`, of the clips that `news` tells of.

    In the trainer's own process it would take the interpreter away from the thread that feeds the GPU."""
    torch.set_num_threads(1)
    packer, rings, rng = Packer(build_tokenizer()), training_rings(capacity, "meta"), random.Random(0)
    while True:
        while not news.empty():
            grid, meta = news.get()
            rings[grid].record(meta)
        if not began.value:
            time.sleep(0.05)
            continue
        what = plan(rng, (time.time() - began.value) / seconds, clips, bool(reads.value))
        if rings[what["grid"]].size < 96:
            what["grid"] = GRIDS[0]
        batch, picks = draw_batch(packer, rings[what["grid"]], rng=rng, **what)
        arrays = {name: value.numpy() if torch.is_tensor(value) else value for name, value in batch.items()}
        batches.put((what, arrays | {"picks": picks.numpy()}))


def monitor(trainer: Trainer, packer: Packer, pool: Pool, clips: int) -> dict:
    """Exact match by kind on held-out text in training fonts and layouts: single chunks, and streams of 16.

    Gradients stay on, though unused: without them every block would be compiled once more."""
    ring, rng, result = pool.held_out[GRIDS[0]], random.Random(1), {}
    if ring.size < 96:
        return result
    for chunks, questions in ((1, 1), (16, 8)):
        batch, picks = draw_batch(packer, ring, GRIDS[0], chunks, 1, max(1, clips // chunks), questions, rng)
        batch = to_device(batch, trainer.device)
        with torch.autocast(trainer.device.type, torch.bfloat16):
            right = trainer(ring.clips[picks.to(trainer.device)], GRIDS[0], batch).argmax(-1) == batch["target"]
        wrong = torch.zeros(len(batch["kinds"]), device=trainer.device).index_add_(0, batch["owner"], (~right).float())
        exact, kinds = (wrong == 0).cpu().numpy(), np.array(batch["kinds"])
        result[chunks] = {str(k): round(float(exact[kinds == k].mean()), 3) for k in np.unique(kinds)}
    return result


def train(fonts: Path, out: Path, seconds: float, clips: int, workers: int, capacity: int, initial: Path | None):
    """Train for `seconds`, logging a JSON line every 100 steps to `out/log.jsonl`, and save a checkpoint every 3 minutes."""
    import multiprocessing

    started = time.time()
    sys.setswitchinterval(5e-4)  # the trainer's thread shares the interpreter with two that prepare data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    families = [
        [str(fonts / face) for face in faces] for faces in json.loads((fonts / "fonts.json").read_text())["train"].values()
    ]
    blocks = Path("/dev/shm") / f"reader-{os.getpid()}"
    blocks.mkdir()
    context = multiprocessing.get_context("spawn")
    base = random.SystemRandom().randrange(10**6) if initial else 0  # a continuation sees new clips
    for number in range(workers):
        context.Process(target=render_worker, args=(base + number, blocks, families), daemon=True).start()
    tokenizer = build_tokenizer()
    packer, model = Packer(tokenizer), build_model(tokenizer)
    if initial:
        continue_from(model, initial)
    trainer = Trainer(model, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    difference = check_forward(trainer, packer)
    assert difference < 2e-3, f"the batched forward differs from transformers' by {difference}"
    out.mkdir(parents=True, exist_ok=True)
    log = open(out / "log.jsonl", "a", buffering=1)

    def say(**values):
        log.write(json.dumps(values) + "\n")
        print(json.dumps(values), flush=True)

    say(
        parameters=sum(p.numel() for p in model.parameters()),
        forward_difference=difference,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        seconds=seconds,
        clips=clips,
        families=len(families),
        torch=torch.__version__,
    )
    if device.type == "cuda":
        trainer.compile()
        torch.set_float32_matmul_precision("high")
    news, batches = context.Queue(), context.Queue(maxsize=4)
    began, reads = context.Value("d", 0.0), context.Value("b", bool(initial))
    shared = (capacity, clips, seconds, began, reads, news, batches)
    context.Process(target=compose, args=shared, daemon=True).start()
    pool, upload = Pool(blocks, capacity, device, news), Uploader(device)
    optimizer = torch.optim.AdamW(trainer.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0.02, fused=device.type == "cuda")
    while pool.train[GRIDS[0]].size < min(3000, capacity // 2):
        time.sleep(0.2)

    def losses(what: dict, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the answers, 0 when there are none, and of the glyphs."""
        ring = pool.train[what["grid"]]
        with torch.autocast(device.type, torch.bfloat16):
            features, glyph_loss = trainer.learn_glyphs(ring.clips[batch["picks"]], what["grid"], ring.glyphs[batch["picks"]])
            if not what["questions"]:
                return torch.zeros((), device=device), glyph_loss
            logits = trainer.answer(features, batch)
        return F.cross_entropy(logits.float(), batch["target"]), glyph_loss

    for chunks in (1, 4) if device.type == "cuda" else ():  # compile before the clock starts
        shape = dict(grid=GRIDS[0], chunks=chunks, per_chunk=1, count=clips // chunks, questions=2 if chunks > 1 else 1)
        batch, picks = draw_batch(packer, pool.train[GRIDS[0]], rng=random.Random(0), **shape)
        sum(losses(shape, upload(batch | {"picks": picks}))).backward()
        say(warm=round(time.time() - started, 1), rendered=pool.train[GRIDS[0]].added)
    began.value = time.time()
    step, chunks_seen, answers, saved, watched, queue = 0, 0, 0, time.time(), time.time(), []
    peak = 1e-3 if initial else 1.2e-3

    def prepare():
        while True:
            what, arrays = batches.get()
            batch = upload({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()})
            while len(queue) > 3:
                time.sleep(0.002)
            queue.append((what, batch))

    threading.Thread(target=prepare, daemon=True).start()
    model.train()
    while (share := (time.time() - began.value) / seconds) < 1:
        while not queue:
            time.sleep(0.001)
        what, batch = queue.pop(0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, share, peak)
        answer_loss, glyph_loss = losses(what, batch)
        optimizer.zero_grad(set_to_none=True)
        (answer_loss + glyph_weight(share) * glyph_loss).backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        step, chunks_seen, answers = step + 1, chunks_seen + len(batch["picks"]), answers + len(batch["kinds"])
        if step % 100 == 0 or step == 1:
            rendered = sum(r.added for r in pool.train.values())
            progress = dict(
                s=round(time.time() - began.value), step=step, chunks=chunks_seen, answers=answers, rendered=rendered
            )
            parts = dict(loss=round(answer_loss.item(), 4), glyphs=round(glyph_loss.item(), 3))
            say(**progress, stream=what["chunks"], **parts, queue=len(queue))
        if time.time() - watched > 30:
            watched, seen = time.time(), monitor(trainer, packer, pool, min(1024, clips))
            reads.value = reads.value or (share > RAMP and seen.get(1, {}).get("now", 0) >= READS)
            say(s=round(time.time() - began.value), held_out_text=seen)
        if time.time() - saved > 180:
            saved = time.time()
            save_checkpoint(model, tokenizer, out)
    final = monitor(trainer, packer, pool, min(2048, 2 * clips))
    rendered = sum(ring.added for ring in pool.train.values())
    say(s=round(time.time() - began.value), step=step, chunks=chunks_seen, answers=answers, rendered=rendered, final=final)
    if device.type == "cuda":
        say(peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 1))
    save_checkpoint(model, tokenizer, out)
    say(done=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fonts", type=Path, help="the folder that collect_fonts.py wrote")
    parser.add_argument("out", type=Path, help="where the checkpoint goes")
    parser.add_argument("--seconds", type=float, default=1750)
    parser.add_argument("--clips", type=int, default=1024, help="chunks in a batch")
    parser.add_argument("--workers", type=int, default=14, help="rendering processes")
    parser.add_argument("--capacity", type=int, default=250_000, help="clips kept on the GPU at the default resolution")
    parser.add_argument("--initial", type=Path, help="continue from this checkpoint")
    train(**vars(parser.parse_args()))

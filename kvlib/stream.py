"""The engine: frames go in chunk by chunk, questions are answered in between and leave no trace."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvlib.cache import EIGHT_BIT
from kvlib.evictor import EvictionConfig, KVCacheEvictor
from kvlib.manager import KVCacheManager
from kvlib.ops.decoding import TokenGraph, buffers_of, can_record
from kvlib.ops.language import LanguageModel
from kvlib.ops.pixels import grid_of, patchify
from kvlib.ops.positions import chunk_positions, text_positions
from kvlib.ops.vision import VisionTower
from kvlib.video import stack_frames

SYSTEM_PROMPT = "You are a helpful assistant."  # Qwen's own default
DEFAULT_QUESTION = (
    "Read all text, lyrics, subtitles, or captions currently visible on screen. Output them verbatim. "
    "If there is no text, say 'No text visible'. Do NOT repeat previously mentioned text."
)
QUESTION_ZH = (  # the same in Chinese
    "请读出当前屏幕上可见的所有文字、歌词或字幕，逐字原样输出。如果没有文字，请回答“没有可见文字”。不要重复之前已经提到过的文字。"
)


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk after the vision tower: embeddings [1, tokens, hidden], and what `chunk_positions` needs to know of it."""

    first: bool
    embeddings: torch.Tensor
    before: int
    grid: tuple[int, int, int]
    after: int
    time_step: float

    def positions(self, start: int) -> tuple[torch.Tensor, int]:
        """Positions int64 [3, tokens] from `start` on, and the one after them."""
        return chunk_positions(self.before, self.grid, self.after, start, self.time_step)


class VideoStreamingInference:
    """Streams video chunks through a Qwen2.5-VL into a bounded cache and answers questions about it.

    model: a Qwen2.5-VL for conditional generation; it is never changed, so several engines may share it.
    processor: anything with `tokenizer` and `image_processor` (`load_processor`, `AutoProcessor`).
    device: where pixels are prepared; the model stays where it is.
    eviction_config: None = never evict.
    kv_dtype: torch.float8_e4m3fn stores keys and values in half the bytes, rounded; None = as the model computes them.

    Raises ValueError for another kv_dtype.

    Turns: one system turn, then each chunk as a user turn of its own; a question is one more user turn.
    """

    def __init__(
        self, model, processor, device, eviction_config: EvictionConfig | None = None, kv_dtype: torch.dtype | None = None
    ):
        if kv_dtype not in (None, EIGHT_BIT):
            raise ValueError(f"kv_dtype={kv_dtype!r}: give {EIGHT_BIT} for 8 bits, or None for the model's own dtype")
        self.model, self.processor, self.device = model, processor, torch.device(device)
        self.eviction_config = eviction_config
        self._vision = VisionTower(model.model.visual)
        language = model.model.language_model
        self._language = LanguageModel(language)
        evictor = None
        if eviction_config is not None:
            evictor = KVCacheEvictor(eviction_config, language.rotary_emb.inv_freq)
        self.cache_manager = KVCacheManager(len(language.layers), evictor, kv_dtype)
        self._token_graph: TokenGraph | None = None

    @torch.no_grad()
    def append_video_chunk(self, frames, fps: float = 2.0) -> dict:
        """Watch one chunk: a list of PIL images or uint8 [T, H, W, 3], sampled at `fps` frames per second.

        Room is made first, so the stored tokens never exceed the budget. Returns `get_cache_info()`. Raises ValueError for
        frames that cannot be used and for a chunk that cannot fit; after any exception the chunk is not in the cache and
        the engine can be used on.
        """
        return self.append_encoded(self.encode(frames, fps))

    @torch.no_grad()
    def encode(self, frames, fps: float = 2.0) -> EncodedChunk:
        """Put the frames of the next chunk through the vision tower, without watching it: engines on one model can share it.

        Takes and raises what `append_video_chunk` does for frames that cannot be used.
        """
        if not fps > 0:
            raise ValueError(f"fps={fps}: give the positive rate at which the frames were sampled, in frames per second")
        settings, first = self.processor.image_processor, not self.cache_manager.chunks
        patches, grid = patchify(stack_frames(frames), settings, self.device)
        before, after = self._turn(first)
        merged = (grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size)
        time_step = self.model.config.vision_config.tokens_per_second * settings.temporal_patch_size / fps
        features = self._vision(patches, grid)
        embed = self.model.get_input_embeddings()
        head, tail = embed(before), embed(after)
        block = features[None].to(head.device, head.dtype)
        return EncodedChunk(first, torch.cat([head, block, tail], dim=1), before.shape[1], merged, after.shape[1], time_step)

    @torch.no_grad()
    def append_encoded(self, chunk: EncodedChunk) -> dict:
        """Watch a chunk that `encode` of this or another engine on the same model has prepared; else as
        `append_video_chunk`. Raises ValueError for a first chunk that comes later, or a later one that comes first."""
        if chunk.first == bool(self.cache_manager.chunks):
            raise ValueError(
                "only a stream's first chunk begins with the system turn: encode it with an engine as far on as this"
            )
        self.cache_manager.make_room(chunk.embeddings.shape[1])
        positions, next_position = chunk.positions(self.cache_manager.next_position)  # making room may have moved it
        snapshot = self.cache_manager.take_snapshot()
        try:
            self._forward(chunk.embeddings, positions)
            self.cache_manager.track_tokens(positions, next_position, is_new_chunk=True)
        except BaseException:
            self.cache_manager.restore_snapshot(snapshot)
            raise
        return self.get_cache_info()

    @torch.no_grad()
    def ask(
        self,
        question: str = DEFAULT_QUESTION,
        max_new_tokens: int = 200,
        do_sample: bool = True,
        temperature: float = 0.3,
        seed: int | None = None,
    ) -> tuple[str, dict]:
        """Answer a question about the stream so far; the stream is afterwards exactly as it was, also after an exception.

        Sampling is from softmax(logits / temperature), with a generator of its own when a `seed` is given; `do_sample=False`
        takes the likeliest token. Returns the answer and `ttft` (s, question to first token), `decode_tokens_per_s`,
        `new_tokens`, `prompt_tokens`. Raises ValueError for unusable arguments or when nothing was watched yet.
        """
        self._check_question(question, max_new_tokens, do_sample, temperature)
        generator = None if seed is None else torch.Generator(self._head_device()).manual_seed(seed)
        snapshot = self.cache_manager.take_snapshot()
        try:
            return self._generate(question, max_new_tokens, temperature if do_sample else 0.0, generator)
        finally:
            self.cache_manager.restore_snapshot(snapshot)

    def count_tokens(self, frames, first: bool = False) -> int:
        """Tokens that a chunk of these frames takes in the cache; the `first` of a stream has the system turn too."""
        t, h, w = grid_of(stack_frames(frames), self.processor.image_processor)
        return t * h * w // self.processor.image_processor.merge_size**2 + sum(part.shape[1] for part in self._turn(first))

    def get_cache_info(self) -> dict:
        """Length and memory of the cache: `cache_seq_length` (tokens stored), `tokens_seen`, `chunks` (stored),
        `cache_bytes` (held on devices, filled or not), `cache_memory_gb` (the same in GiB), `next_position`, and with
        eviction on `eviction_stats`."""
        manager = self.cache_manager
        held = manager.cache.nbytes()
        info = {
            "cache_seq_length": manager.get_seq_length(),
            "tokens_seen": manager.seen,
            "chunks": len(manager.chunks),
            "cache_bytes": held,
            "cache_memory_gb": held / 2**30,
            "next_position": manager.next_position,
        }
        if manager.evictor is not None:
            info["eviction_stats"] = manager.evictor.stats()
        return info

    def _turn(self, first: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [1, n] before and after the frames of a chunk; the `first` begins with the system turn."""
        system = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n" if first else ""
        return self._tokens(f"{system}<|im_start|>user\n<|vision_start|>"), self._tokens("<|vision_end|><|im_end|>\n")

    def _generate(self, question: str, max_new_tokens: int, temperature: float, generator) -> tuple[str, dict]:
        began = time.perf_counter()
        prompt = self._tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        self.cache_manager.cache.reserve(prompt.shape[1] + max_new_tokens)
        stops, new, logits, advance = self._stop_tokens(), [], self._step(prompt), None
        while True:
            step = _pick(logits, temperature, generator)
            token = int(step)
            if not new:
                first = time.perf_counter()
            if token in stops:
                break
            new.append(token)
            if len(new) == max_new_tokens:
                break
            advance = advance or self._step_by_graph() or self._step
            logits = advance(step)
        decoding = time.perf_counter() - first if new else 0.0
        answer = self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        metrics = {
            "ttft": first - began,
            "decode_tokens_per_s": (len(new) - 1) / decoding if len(new) > 1 else float("nan"),
            "new_tokens": len(new),
            "prompt_tokens": prompt.shape[1],
        }
        return answer, metrics

    def _step(self, tokens: torch.Tensor, look=None) -> torch.Tensor:
        """Append text tokens [1, n] behind the stream; logits [1, vocabulary] of the token that follows. `look` as in `run`."""
        manager = self.cache_manager
        positions = text_positions(tokens.shape[1], manager.next_position)
        embed = self.model.get_input_embeddings()
        hidden = self._forward(embed(tokens.to(embed.weight.device)), positions, look)
        manager.track_tokens(positions, manager.next_position + tokens.shape[1], is_new_chunk=False)
        return self.model.lm_head(hidden[:, -1])

    def _step_by_graph(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What `_step` does for the tokens that follow one by one now, from a graph, recorded anew when the cache has other
        buffers; None where that cannot be."""
        manager = self.cache_manager
        if self._token_graph is None or self._token_graph.recorded_for != buffers_of(manager.cache):
            self._token_graph = TokenGraph(self.model, manager.cache) if can_record(self.model, manager.cache) else None
        if self._token_graph is None:
            return None
        self._token_graph.begin(manager.next_position)
        return self._token_graph.step

    def _forward(self, embeddings: torch.Tensor, positions: torch.Tensor, look=None) -> torch.Tensor:
        """Run [1, n, hidden] embeddings at positions [3, n] through the language model into the cache: [1, n, hidden].

        The language model is called directly: the outer model would store `rope_deltas` of this stream on itself.
        """
        language, cache = self.model.model.language_model, self.cache_manager.cache
        if self.eviction_config is not None and self.eviction_config.position_mode == "unrotated":
            at = torch.cat([self.cache_manager.positions, positions], dim=1)[:, None].to(embeddings.device)
            cache.set_rope(*(part[0] for part in language.rotary_emb(embeddings, at)))
        return self._language(cache.layers, embeddings, positions, look)

    def _tokens(self, text: str) -> torch.Tensor:
        """Token ids [1, n] on the device of the embedding."""
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], device=self.model.get_input_embeddings().weight.device)

    def _stop_tokens(self) -> set[int]:
        stops = self.model.generation_config.eos_token_id
        stops = stops if isinstance(stops, list) else [stops]
        return {token for token in (*stops, self.processor.tokenizer.eos_token_id) if token is not None}

    def _head_device(self) -> torch.device:
        return self.model.lm_head.weight.device

    def _check_question(self, question: str, max_new_tokens: int, do_sample: bool, temperature: float) -> None:
        if not self.cache_manager.chunks:
            raise ValueError("nothing was watched yet: call append_video_chunk before ask")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question={question!r}: give a text that is not empty")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: give at least 1")
        if do_sample and not temperature > 0:
            raise ValueError(f"temperature={temperature}: give a positive one, or do_sample=False for the likeliest token")


def _pick(logits: torch.Tensor, temperature: float, generator) -> torch.Tensor:
    """Next token [1, 1] of logits [1, vocabulary]; temperature 0 takes the likeliest."""
    if temperature == 0.0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)

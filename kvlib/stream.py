"""The engine: frames go in chunk by chunk, questions are answered in between and leave no trace."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kvlib.archive import StoredStream, bring_back, check_recall, choose, open_archive, save_stream, with_recall
from kvlib.cache import Tail
from kvlib.encoding import EncodedChunk, check_drop_static, count_tokens, encode_chunk, place_in_turn
from kvlib.evictor import EvictionConfig, KVCacheEvictor
from kvlib.families import family_of
from kvlib.generation import Sampling, generate, stop_tokens
from kvlib.manager import QUESTION_ROOM, KVCacheManager
from kvlib.ops.backbone import backbone_of
from kvlib.ops.decoding import TokenGraph, addresses, can_capture
from kvlib.ops.fused import device_of
from kvlib.ops.graphs import locked
from kvlib.ops.positions import rotary_tables, text_positions
from kvlib.ops.storage import EIGHT_BIT
from kvlib.prompts import DEFAULT_QUESTION, question_tokens


class VideoStreamingInference:
    """Streams video chunks through a model of `kvlib.families` into a bounded cache and answers questions about it.

    model: a Qwen2-VL, Qwen2.5-VL or Qwen3-VL for conditional generation, in peft's wrapper too; it is never changed, so engines
        may share it.
    processor: anything with `tokenizer` and `image_processor` (`load_processor`, `AutoProcessor`).
    device: where pixels are prepared; the model stays where it is.
    eviction_config: None = never evict.
    kv_dtype: torch.float8_e4m3fn stores keys and values in half the bytes, rounded; None = as the model computes them.
    archive: "memory" or an empty folder keeps every chunk there, so that `ask` can recall what was evicted; None = it is gone.
        A quarter of the budget is then kept free for recall, unless `eviction_config` says how much (`recall_tokens`). From a
        folder the stream can be resumed, also after the process was killed.
    archive_bytes: the most that the archive keeps of keys and values; the oldest evicted chunks are dropped; None = no limit.
    drop_static: a merged patch whose pixels change by less than this share of full scale, on average, since it was last kept in
        its chunk, gets no token; 0 = all get one.

    Raises ValueError for arguments that cannot be used. One engine may be called from several threads: its calls queue. Turns:
    one system turn, then each chunk as a user turn of its own; a question is one more user turn.
    """

    def __init__(
        self,
        model,
        processor,
        device,
        eviction_config: EvictionConfig | None = None,
        kv_dtype: torch.dtype | None = None,
        archive: str | Path | None = None,
        archive_bytes: int | None = None,
        drop_static: float = 0.0,
    ):
        if kv_dtype not in (None, EIGHT_BIT):
            raise ValueError(f"kv_dtype={kv_dtype!r}: give {EIGHT_BIT} for 8 bits, or None for the model's own dtype")
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model, self.processor, self.device = model, processor, torch.device(device)
        self.lock, self.drop_static = threading.RLock(), check_drop_static(drop_static)
        self.backbone, language = backbone_of(model, family_of(model.config).tower), model.model.language_model
        eviction_config = with_recall(eviction_config, archive)
        kept = open_archive(archive, archive_bytes, model, eviction_config, kv_dtype, self.drop_static)
        evictor = None if eviction_config is None else KVCacheEvictor(eviction_config, language.rotary_emb.inv_freq)
        self.cache_manager = KVCacheManager(len(language.layers), evictor, kv_dtype, kept)
        self._token_graph: TokenGraph | None = None

    @classmethod
    def resume(cls, folder: str | Path, model, processor, device) -> "VideoStreamingInference":
        """The stream that an engine has written to `folder`, with `archive=folder` or `save`, as of the last chunk there; an
        archive in that folder goes on.

        The folder belongs to this engine from now on. Raises FileNotFoundError where there is no stream, ValueError for a
        damaged one and for another model or dtype.
        """
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        stored = StoredStream(Path(folder), model)
        engine = cls(model, processor, device, stored.config, stored.kv_dtype, drop_static=stored.drop_static)
        engine.cache_manager.archive, engine.cache_manager.current.state = stored.restored(engine.cache_manager.state)
        return engine

    @locked
    @torch.no_grad()
    def save(self, folder: str | Path) -> None:
        """Write the stream, and what its archive holds, to an empty folder, for `resume`. An engine whose archive is that
        folder waits until all of it is written. Raises ValueError for a folder that holds something else, OSError where it
        cannot be written."""
        save_stream(self.cache_manager, Path(folder), self.model, self.drop_static)

    @property
    def eviction_config(self) -> EvictionConfig | None:
        """The present configuration, which `shrink` changes; None = never evict."""
        return self.cache_manager.state.config

    @locked
    @torch.no_grad()
    def append_video_chunk(self, frames, fps: float = 2.0, time_s: float | None = None) -> dict:
        """Append one chunk: a list of PIL images or uint8 [T, H, W, 3], sampled at `fps` frames per second, the last of them
        shown at `time_s` seconds; None = time is counted from `fps`.

        Room is made first, so the stored tokens never exceed the budget. Returns `get_cache_info()`. Raises ValueError for
        frames that cannot be used and for a chunk that cannot fit. After any exception, KeyboardInterrupt and CUDA's
        OutOfMemoryError too, the chunk is not in the cache and the stream goes on; at most, room has been made.
        """
        return self.append_encoded(self.encode(frames, fps), time_s)

    @locked
    @torch.no_grad()
    def encode(self, frames, fps: float = 2.0) -> EncodedChunk:
        """Put the frames of the next chunk through the vision tower, without appending it: engines on one model can share it.

        Takes and raises what `append_video_chunk` does for frames that cannot be used.
        """
        place = self.model, self.backbone, self.processor, self.device
        return encode_chunk(*place, frames, fps, not self.cache_manager.chunks, self.drop_static)

    @locked
    @torch.no_grad()
    def append_encoded(self, chunk: EncodedChunk, time_s: float | None = None) -> dict:
        """Append a chunk that `encode` of this or another engine on the same model has prepared; else as
        `append_video_chunk`. Raises ValueError for a first chunk that comes later, or a later one that comes first."""
        manager = self.cache_manager
        if chunk.first == bool(manager.chunks):
            raise ValueError("only a first chunk begins with the system turn: encode it with an engine as far on as this")
        time_s = chunk.time(manager.last_time, time_s)
        placed = place_in_turn(self.model, self.processor.tokenizer, chunk, time_s)
        manager.make_room(placed.embeddings.shape[1])
        tail = manager.tail()
        positions, next_position = placed.positions(manager.next_position)  # making room may have moved it
        self._forward(placed.embeddings, positions, tail)
        return manager.track_tokens(tail, positions, next_position, time_s=time_s, dropped=chunk.dropped)

    @locked
    @torch.no_grad()
    def ask(
        self,
        question: str = DEFAULT_QUESTION,
        max_new_tokens: int = 200,
        do_sample: bool = True,
        temperature: float = 0.3,
        seed: int | None = None,
        recall: int | str | Sequence[int] = 0,
    ) -> tuple[str, dict]:
        """Answer a question about the stream so far; the stream is afterwards exactly as it was, also after an exception.

        Sampling is from softmax(logits / temperature), reproducible with a `seed`; `do_sample=False` takes the likeliest token.
        Of the checkpoint's generation_config only the end tokens are applied: no top_k, no top_p, and no repetition_penalty,
        which would keep a line that is sung twice from being read twice. Special tokens in the question stay text.

        recall: up to so many evicted chunks, those that the question attends to most, stand between the sink and the window
        for this question; "auto" = those that the ranking is sure of; or the numbers of chunks. As many as fit into
        `recall_tokens` of the budget are taken.

        Returns the answer and `recalled` (for each chunk `index`, `time_s` and `share` of the attention over evicted ones),
        `ttft` (s, question to first token), `decode_tokens_per_s`, `new_tokens`, `prompt_tokens`. Raises ValueError for
        unusable arguments, when nothing was appended yet, and for a question longer than the free room behind a bounded
        stream: the message says how long it may be. Room for the answer grows with it and is given back."""
        began, manager = time.perf_counter(), self.cache_manager
        device = device_of(self.model.lm_head)
        if do_sample and not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: give a positive one, or do_sample=False for the likeliest token")
        sampling = Sampling(began, max_new_tokens, temperature if do_sample else 0.0, seed, device)
        prompt = self._prompt(question)
        check_recall(recall, manager.archive, manager.state)
        try:
            tail, recalled = self._question_tail(prompt, recall)
            answer, metrics = self._generate(prompt, tail, sampling)
            return answer, metrics | {"recalled": recalled}
        finally:
            manager.cache.trim()

    @locked
    @torch.no_grad()
    def question_logits(
        self, question: str, on_queries: Callable | None = None, recall: int | str | Sequence[int] = 0
    ) -> torch.Tensor:
        """Logits [1, vocabulary] of an answer's first token; the stream stays as it is.

        `on_queries(queries, keys)` is called for every layer in order: the question's rotated queries [1, heads, n, head dim]
        and all the rotated keys [1, KV heads, tokens, head dim] that they are compared with. `recall` and errors are
        as in `ask`.
        """
        prompt = self._prompt(question)
        check_recall(recall, self.cache_manager.archive, self.cache_manager.state)
        try:
            tail, _ = self._question_tail(prompt, recall)
            return self._step(prompt, tail, on_queries)
        finally:
            self.cache_manager.cache.trim()

    @locked
    @torch.no_grad()
    def shrink(self, max_cache_tokens: int) -> dict:
        """Go on with a smaller budget, for a card whose memory turned out too small: see `KVCacheManager.shrink`."""
        self.cache_manager.shrink(max_cache_tokens)
        self._token_graph = None  # it refers to the larger buffers
        self.backbone.graphs.clear()
        torch.cuda.empty_cache()  # which does nothing without a CUDA device
        return self.get_cache_info()

    def count_tokens(self, frames, first: bool = False) -> int:
        """Tokens of a chunk of these frames, none dropped; the `first` of a stream has the system turn too. Where a chunk says
        its time (Qwen3-VL), it is counted as this stream's next one, at two frames per second."""
        return count_tokens(self.model.config, self.processor, frames, first, self.cache_manager.last_time)

    def get_cache_info(self) -> dict:
        """Length and memory of the cache, see `KVCacheManager.info`, and `graph_bytes`: device memory of the CUDA graphs of the
        model, which engines share, and of the one that decodes this engine's answers."""
        own = self._token_graph.nbytes if self._token_graph else 0
        return self.cache_manager.info() | {"graph_bytes": self.backbone.graphs.nbytes() + own}

    def _generate(self, prompt: torch.Tensor, tail: Tail, sampling: Sampling) -> tuple[str, dict]:
        """Write the prompt [1, n] and the answer to `tail`; the answer and its metrics."""
        cache, decode = self.cache_manager.cache, None

        def advance(token: torch.Tensor) -> torch.Tensor:
            nonlocal decode
            if tail.stop == tail.room:
                cache.reserve(QUESTION_ROOM, tail)
                decode = None
            decode = decode or self._decoder(tail)
            return decode(token)

        new, metrics = generate(self._step(prompt, tail), advance, stop_tokens(self.model, self.processor.tokenizer), sampling)
        answer = self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        return answer, metrics | {"prompt_tokens": prompt.shape[1]}

    def _question_tail(self, prompt: torch.Tensor, recall: int | str | Sequence[int]) -> tuple[Tail, list[dict]]:
        """A tail for a prompt [1, n] with the recalled chunks in it, and what `ask` tells of these."""
        rotary = self.model.model.language_model.rotary_emb
        chunks, known = choose(self.cache_manager, rotary, recall, lambda last: self._step(prompt, self._tail(prompt), last))
        tail = self._tail(prompt)
        if chunks:
            bring_back(self.cache_manager, tail, chunks, rotary)
            self.cache_manager.cache.reserve(prompt.shape[1], tail)
        return tail, known

    def _tail(self, tokens: torch.Tensor) -> Tail:
        """A tail with room for tokens [1, n]; whoever takes it calls `trim` afterwards."""
        tail = self.cache_manager.tail()
        self.cache_manager.cache.reserve(tokens.shape[1], tail)
        return tail

    def _step(self, tokens: torch.Tensor, tail: Tail, on_queries: Callable | None = None) -> torch.Tensor:
        """Write text tokens [1, n] to `tail`; logits [1, vocabulary] of the token that follows."""
        positions = text_positions(tokens.shape[1], tail.next_position)
        embed = self.model.get_input_embeddings()
        hidden = self._forward(embed(tokens.to(device_of(embed))), positions, tail, on_queries)
        self.cache_manager.track_tokens(tail, positions, tail.next_position + tokens.shape[1], is_new_chunk=False)
        return self.model.lm_head(hidden[:, -1])

    def _decoder(self, tail: Tail) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives the logits behind one more token [1, 1] of `tail`: a CUDA graph where it can be captured."""
        if tail.rope is not None or not can_capture(self.model, tail.buffers[0]):
            return lambda token: self._step(token, tail)
        if self._token_graph is None or self._token_graph.captured_for != addresses(tail.buffers):
            self._token_graph = None  # first, for its memory
            self._token_graph = TokenGraph(self.model, tail.buffers, tail.start, tail.stop)
        graph = self._token_graph
        graph.begin(tail.start, tail.stop, tail.next_position)

        def step(token: torch.Tensor) -> torch.Tensor:
            logits = graph.step(token)
            tail.advance(1, tail.next_position + 1)
            return logits

        return step

    def _forward(self, embeddings: torch.Tensor, positions: torch.Tensor, tail: Tail, on_queries=None) -> torch.Tensor:
        """Run [1, n, hidden] embeddings at positions [3, n] through the language model into `tail`: [1, n, hidden].

        The language model is called directly: the outer model would store `rope_deltas` of this stream on itself.
        """
        if self.eviction_config is not None and self.eviction_config.position_mode == "unrotated":
            rotary, device = self.model.model.language_model.rotary_emb, embeddings.device
            cos, sin = (t[0] for t in rotary_tables(rotary, positions.to(device), embeddings.dtype, scaled=False))
            if tail.rope is None:
                stored = self.cache_manager.positions.to(device)
                tail.rope = tuple(t[0] for t in rotary_tables(rotary, stored, embeddings.dtype, scaled=False))
            tail.rope = tuple(torch.cat(parts) for parts in zip(tail.rope, (cos, sin), strict=True))
        return self.backbone.language(tail.layers, embeddings, positions, on_queries)

    def _prompt(self, question: str) -> torch.Tensor:
        """Token ids [1, n] of a question's turn. Raises ValueError for an unusable question, one that does not fit, and before
        the first chunk."""
        manager = self.cache_manager
        if not manager.chunks:
            raise ValueError("nothing was appended yet: call append_video_chunk before ask")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question={question!r}: give a text that is not empty")
        tokens = question_tokens(self.processor.tokenizer, question)
        free = manager.state.capacity - manager.get_seq_length()
        if manager.evictor is not None and len(tokens) > free:
            raise ValueError(
                f"a question of {len(tokens)} tokens does not fit behind the {manager.get_seq_length()} stored ones: it may "
                f"have up to {free} tokens; shorten it"
            )
        return torch.tensor([tokens], device=device_of(self.model.get_input_embeddings()))

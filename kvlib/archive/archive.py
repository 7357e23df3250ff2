"""The archive of one stream: every chunk is stored in it when it is committed, so that an eviction has nothing left to save."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from kvlib.archive.chunks import ArchivedChunk, KeyStatistics, computed_states
from kvlib.archive.index import KeyIndex
from kvlib.archive.manifest import FOLDER, MEMORY, Description, identity
from kvlib.archive.places import FolderPlace, MemoryPlace, empty_folder
from kvlib.evictor import EvictionConfig
from kvlib.state import StreamState

FAILURES = OSError, MemoryError, SafetensorError  # safetensors has its own error for a full disk


class Archive:
    """Keeps the chunks of a stream in `place`, and finds them again by the mean and variance of their keys.

    limit_bytes: of keys and values; the oldest chunks that the stream no longer stores are dropped; None = no limit. rotary:
    the model's rotary embedding. rotated: whether stored keys are.

    From a CUDA device chunks are copied, and written, in a thread of their own while the next chunk is processed; there the
    place is at most one chunk behind the stream."""

    def __init__(self, place: MemoryPlace | FolderPlace, rotary, rotated: bool, limit_bytes: int | None):
        self.place, self.limit_bytes = place, limit_bytes
        self.index, self.statistics, self.failure = KeyIndex(), KeyStatistics(rotary, rotated), ""
        self.committed = 0  # chunks that the place's manifest counts
        self._doomed: set[int] = set()  # dropped by a state that may not have been committed
        self._writer = ThreadPoolExecutor(1, "archive")
        self._last: Future | None = None

    def store(self, before: StreamState, made: StreamState) -> StreamState:
        """The state `made`, whose newest chunk is not in `before`, with that chunk archived.

        When the place is full or cannot be written to, a warning says so, `failure` keeps the reason, and the stream goes on
        without the archive; what is in it can still be recalled.
        """
        if self.failure:
            return made
        # Waits, so that copies on their way do not collect on the device.
        trouble = None if self._last is None else self._last.exception()
        if trouble is not None:  # whatever the thread raised, the last chunk is not in its place
            return self._failed(trouble, replace(made, archived=made.archived[:-1]))
        try:
            return self._store(before, made)
        except FAILURES as error:
            return self._failed(error, made)

    def info(self, state: StreamState) -> dict:
        """For reports: `archived_chunks` and `archived_bytes` (the stream's present chunks are among them),
        `archive_index_bytes` (on the device), `archive_dropped` (chunks given up for the limit), `archive_failure` ("" while
        it works)."""
        return {
            "archived_chunks": len(state.archived),
            "archived_bytes": sum(chunk.nbytes for chunk in state.archived),
            "archive_index_bytes": self.index.nbytes,
            "archive_dropped": state.archive_dropped,
            "archive_failure": self.failure,
        }

    def wait(self) -> None:
        """Return when everything stored so far is in its place."""
        if self._last is not None:
            self._last.result()

    def _store(self, before: StreamState, made: StreamState) -> StreamState:
        span, spread = made.chunks[-1], made.spread[-1]
        parts = computed_states(made, len(made.chunks) - 1)
        statistics, nbytes = self.statistics(parts, span, spread), sum(part.nbytes for part in parts)
        self.index.add(span.index, statistics, (chunk.span.index for chunk in made.archived))
        self._remove_doomed(before)
        kept = self._within_limit(made, nbytes)
        dropped = {chunk.span.index for chunk in made.archived} - {chunk.span.index for chunk in kept}
        entry = ArchivedChunk(span, nbytes, spread, lambda: job.result()())
        made = replace(made, archived=(*kept, entry), archive_dropped=made.archive_dropped + len(dropped))
        ready = [_event(tensor) for tensor in (*parts, statistics)]

        def write() -> Callable[[], torch.Tensor]:
            if self.committed != before.chunks_seen:  # a state that was written, and then not committed in memory
                self.place.commit(before)
            read = self.place.put(span, _on_host(parts, ready[:-1]), spread, _on_host([statistics], ready[-1:]))
            self.place.commit(made)
            self.committed = made.chunks_seen
            return read

        self._doomed = dropped
        if parts[0].is_cuda:
            self._last = job = self._writer.submit(write)
        else:
            job: Future = Future()
            job.set_result(write())
        return made

    def _within_limit(self, made: StreamState, incoming: int) -> tuple[ArchivedChunk, ...]:
        """The archived chunks that may stay when `incoming` bytes are added: of those not in the stream the newest."""
        if self.limit_bytes is None:
            return made.archived
        evicted, kept = made.evicted, []
        excess = sum(chunk.nbytes for chunk in made.archived) + incoming - self.limit_bytes
        for chunk in made.archived:
            if excess > 0 and chunk.span.index in evicted:
                excess -= chunk.nbytes
            else:
                kept.append(chunk)
        return tuple(kept)

    def _remove_doomed(self, before: StreamState) -> None:
        alive = {chunk.span.index for chunk in before.archived}
        for number in self._doomed - alive:
            self.place.remove(number)

    def _failed(self, error: BaseException, made: StreamState) -> StreamState:
        self.failure = f"{type(error).__name__}: {error}"
        warnings.warn(f"the archive takes no more chunks ({self.failure}); the stream goes on without it", stacklevel=2)
        return made


def _event(tensor: torch.Tensor) -> torch.cuda.Event | None:
    """What happens on a CUDA device once `tensor` is computed."""
    return torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None


def _on_host(parts: Sequence[torch.Tensor], ready: Sequence[torch.cuda.Event | None]) -> torch.Tensor:
    """`parts` [layers, ...] as one tensor on the CPU. Those of a CUDA device are copied to pinned memory, in streams of their
    own, once they are `ready`."""
    if not parts[0].is_cuda:
        return parts[0]
    layers = sum(len(part) for part in parts)
    states = torch.empty((layers, *parts[0].shape[1:]), dtype=parts[0].dtype, pin_memory=True)
    for part, target, event in zip(parts, states.split([len(part) for part in parts]), ready, strict=True):
        stream = torch.cuda.Stream(part.device)
        with torch.cuda.stream(stream):
            stream.wait_event(event)
            target.copy_(part, non_blocking=True)
        stream.synchronize()
    return states


def open_archive(
    where: str | Path | None,
    limit_bytes: int | None,
    model,
    config: EvictionConfig | None,
    kv_dtype: torch.dtype | None,
    drop_static: float,
) -> Archive | None:
    """An empty archive: in host memory when `where` is "memory", else in that folder, which is made; None for None.

    Raises ValueError for an unusable limit, for a folder that holds something, and for a policy
    that cannot be written; OSError where the folder cannot be made."""
    if limit_bytes is not None and (isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 1):
        raise ValueError(f"archive_bytes={limit_bytes!r}: give a whole number of bytes, or None for no limit")
    if where is None:
        if limit_bytes is not None:
            raise ValueError(f"archive_bytes={limit_bytes} without an archive: give archive='memory' or a folder")
        return None
    if where == MEMORY:
        return make_archive(MemoryPlace(), model, config, limit_bytes)
    describe = Description(identity(model), kv_dtype, drop_static, FOLDER, limit_bytes)
    describe(StreamState(config=config))  # a policy that cannot be written is refused now
    return make_archive(FolderPlace(empty_folder(where), describe), model, config, limit_bytes)


def make_archive(place: MemoryPlace | FolderPlace, model, config: EvictionConfig | None, limit_bytes: int | None) -> Archive:
    """An archive in `place` for a stream with this configuration."""
    return Archive(place, model.model.language_model.rotary_emb, is_rotated(config), limit_bytes)


def is_rotated(config: EvictionConfig | None) -> bool:
    """Whether a stream with this configuration stores keys with their rotation."""
    return config is None or config.position_mode != "unrotated"

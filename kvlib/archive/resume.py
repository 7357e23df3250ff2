"""A stream written to a folder at any moment, and read back as it was."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from kvlib.archive.archive import Archive, make_archive
from kvlib.archive.chunks import ArchivedChunk, MeanKeys, computed_states
from kvlib.archive.index import KeyIndex
from kvlib.archive.manifest import FOLDER, MEMORY, Description, config_from_json, identity, read_manifest
from kvlib.archive.places import (
    CHUNK_FILES,
    FolderPlace,
    MemoryPlace,
    chunk_name,
    empty_folder,
    read_chunk,
    read_span,
    read_states,
)
from kvlib.manager import KVCacheManager
from kvlib.ops.fused import device_of
from kvlib.ops.positions import rotation
from kvlib.state import ChunkSpan, EvictionCounts, StreamState
from kvlib.steps import Rerotation, key_copies


class StoredStream:
    """The stream in `folder`, of this `model`: how it was configured, and its state. Raises as `read_manifest`."""

    def __init__(self, folder: Path, model):
        self.folder, self.model = folder.expanduser().resolve(), model
        self.manifest = read_manifest(self.folder, model)
        self.config = config_from_json(self.manifest["config"])
        self.kv_dtype = self.manifest["kv_dtype"] and getattr(torch, self.manifest["kv_dtype"].removeprefix("torch."))

    def restored(self, fresh: StreamState) -> tuple[Archive | None, StreamState]:
        """The archive, if there was one, and the state; `fresh` is that of an engine that has seen nothing.

        Raises ValueError when the file of a chunk that the stream stores cannot be read.
        """
        state, kind = restored_state(self.folder, self.manifest, fresh, self.model), self.manifest["archive"]
        if not kind:
            return None, state
        limit = self.manifest["archive_bytes"]
        description = Description(self.manifest["model"], self.kv_dtype, kind, limit)
        place = FolderPlace(self.folder) if kind == FOLDER else MemoryPlace()
        archive = make_archive(place, self.model, self.config, limit, description)
        archive.committed = state.chunks_seen
        device = device_of(self.model.model.language_model.layers[0].input_layernorm)
        archived = restored_archive(self.folder, state, archive.index, device, kind == MEMORY)
        return archive, replace(state, archived=archived)


def save_stream(manager: KVCacheManager, folder: Path, model) -> None:
    """Write a stream, with what it has archived, to `folder`, for `StoredStream`; else as `VideoStreamingInference.save`."""
    manager.current.settle()
    state, archive = manager.state, manager.archive
    if archive is not None:
        archive.wait()
    if archive is not None and getattr(archive.place, "path", None) == folder.expanduser().resolve():
        archive.place.commit(archive.describe(state))
        return
    kind = "" if archive is None else MEMORY
    describe = Description(identity(model), manager.cache.stored_dtype, kind, archive and archive.limit_bytes)
    manifest, place = describe(state), FolderPlace(empty_folder(folder))
    rotated = state.config is None or state.config.position_mode != "unrotated"
    mean_keys = MeanKeys(model.model.language_model.rotary_emb, rotated)

    def put(span: ChunkSpan, parts: tuple[torch.Tensor, ...], spread: torch.Tensor) -> None:
        means = mean_keys(parts, span, spread).cpu()
        place.put(span, torch.cat([part.cpu() for part in parts]), spread, means)

    stored = {chunk.index for chunk in state.chunks}
    for chunk in state.archived:
        if chunk.span.index not in stored:
            put(chunk.span, (chunk.load(),), chunk.spread)
    for number, span in enumerate(state.chunks):
        computed = replace(span, start=span.origin, stop=span.origin + span.stop - span.start)
        put(computed, computed_states(state, number), state.spread[number])
    place.commit(manifest)


def restored_state(folder: Path, manifest: dict, fresh: StreamState, model) -> StreamState:
    """The stream that `manifest` describes, in buffers of its own; `fresh` is the state of an engine that has seen nothing.

    Keys get their present positions by the rotation that the engine used: from the keys as they were computed. Raises
    ValueError when a stored chunk's file cannot be read."""
    chunks = tuple(ChunkSpan(**chunk) for chunk in manifest["chunks"])
    files = [read_chunk(folder / chunk_name(chunk.index), "states", "spread") for chunk in chunks]
    stored = sum(chunk.tokens for chunk in chunks)
    capacity = max(fresh.capacity, stored)
    made = replace(
        fresh,
        stop=stored,
        capacity=capacity,
        chunks=chunks,
        spread=tuple(spread for _, spread in files),
        counts=EvictionCounts(**manifest["counts"]),
        **{name: manifest[name] for name in ("chunks_seen", "seen", "next_position", "archive_dropped")},
    )
    if not chunks:
        return made
    devices = [device_of(layer.input_layernorm) for layer in model.model.language_model.layers]
    buffers = []
    for layer, device in enumerate(devices):
        example = files[0][0][layer]
        buffer = torch.empty((2, 1, example.shape[1], capacity, example.shape[-1]), dtype=example.dtype, device=device)
        for (states, _), first, chunk in zip(files, made.offsets(), chunks, strict=True):
            buffer[:, 0, :, first : first + chunk.tokens] = states[layer].to(device)
        buffers.append(buffer)
    made, originals, steps = replace(made, buffers=tuple(buffers)), {}, []
    frequencies, again = model.model.language_model.rotary_emb.inv_freq, set(manifest["rerotated"])
    for chunk, first in zip(chunks, made.offsets(), strict=True):
        if chunk.index in again:
            originals[chunk.index] = key_copies(buffers, first, chunk.tokens)
            angles = rotation(chunk.start - chunk.origin, frequencies)
            steps.append(Rerotation(chunk.index, first, chunk.tokens, *angles))
    return replace(made, originals=originals, pending=tuple(steps))


def restored_archive(
    folder: Path, state: StreamState, index: KeyIndex, device: torch.device, in_memory: bool
) -> tuple[ArchivedChunk, ...]:
    """The chunks in `folder` that a stream in this `state` had archived, oldest first; their mean keys go to `index`, on
    `device`. A file that cannot be read is left out."""
    archived: list[ArchivedChunk] = []
    for path in sorted(folder.glob(CHUNK_FILES)):
        try:
            (states, spread, means), span = read_chunk(path, "states", "spread", "means"), read_span(path)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        if span.index < state.chunks_seen:
            index.add(span.index, means.to(device), (chunk.span.index for chunk in archived))
            load = partial(torch.Tensor.clone, states) if in_memory else partial(read_states, path)
            archived.append(ArchivedChunk(span, states.nbytes, spread.clone(), load))
    return tuple(archived)

"""A stream written to a folder at any moment, and read back as it was."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from kvlib.archive.archive import Archive, is_rotated, make_archive
from kvlib.archive.chunks import ArchivedChunk, KeyStatistics, computed_states
from kvlib.archive.index import KeyIndex
from kvlib.archive.manifest import FOLDER, MEMORY, Description, config_from_json, identity, numbers_in, read_manifest
from kvlib.archive.places import (
    CHUNK_FILES,
    FolderPlace,
    MemoryPlace,
    chunk_name,
    chunk_number,
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
        self.drop_static = self.manifest["drop_static"]

    def restored(self, fresh: StreamState) -> tuple[Archive | None, StreamState]:
        """The archive, if there was one, and the state; `fresh` is that of an engine that has seen nothing.

        Raises ValueError when the file of a chunk that the stream stores cannot be read.
        """
        state, kind = restored_state(self.folder, self.manifest, fresh, self.model), self.manifest["archive"]
        if not kind:
            return None, state
        limit, place = self.manifest["archive_bytes"], MemoryPlace()
        if kind == FOLDER:
            describe = Description(self.manifest["model"], self.kv_dtype, self.drop_static, kind, limit)
            place = FolderPlace(self.folder, describe)
        archive = make_archive(place, self.model, self.config, limit)
        archive.committed = state.chunks_seen
        device = device_of(self.model.model.language_model.layers[0].input_layernorm)
        numbers = numbers_in(self.manifest["archived"])
        return archive, replace(state, archived=restored_archive(self.folder, numbers, place, archive.index, device))


def save_stream(manager: KVCacheManager, folder: Path, model, drop_static: float) -> None:
    """Write a stream, with what it has archived, to `folder`, for `StoredStream`; else as `VideoStreamingInference.save`."""
    manager.current.settle()
    state, archive = manager.state, manager.archive
    if archive is not None:
        archive.wait()
        if archive.place.path == folder.expanduser().resolve():
            if archive.failure:
                raise OSError(f"the archive in {folder} has failed ({archive.failure}): save the stream to another folder")
            return archive.place.commit(state)
    kind, limit = ("", None) if archive is None else (MEMORY, archive.limit_bytes)
    describe = Description(identity(model), manager.cache.stored_dtype, drop_static, kind, limit)
    describe(state)  # a policy that cannot be written is refused before the folder is made
    place = FolderPlace(empty_folder(folder), describe)
    statistics = KeyStatistics(model.model.language_model.rotary_emb, is_rotated(state.config))

    def put(span: ChunkSpan, parts: tuple[torch.Tensor, ...], spread: torch.Tensor) -> None:
        place.put(span, torch.cat([part.cpu() for part in parts]), spread, statistics(parts, span, spread).cpu())

    for chunk in state.evicted.values():
        put(chunk.span, (chunk.load(),), chunk.spread)
    for number, span in enumerate(state.chunks):
        computed = replace(span, start=span.origin, stop=span.origin + span.stop - span.start)
        put(computed, computed_states(state, number), state.spread[number])
    place.commit(state)


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
        spread=tuple(spread.clone() for _, spread in files),  # the files need not stay
        counts=EvictionCounts(**manifest["counts"]),
        **{name: manifest[name] for name in ("chunks_seen", "seen", "dropped", "next_position", "archive_dropped")},
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
    folder: Path, numbers: set[int], place: MemoryPlace | FolderPlace, index: KeyIndex, device: torch.device
) -> tuple[ArchivedChunk, ...]:
    """The archived chunks with these `numbers`, oldest first, from `folder`; for a `place` in memory they are read now.

    The statistics of their keys go to `index`, on `device`. A file that cannot be read is left out, with a warning. What else
    the folder of `place` holds was dropped, or never committed, and is deleted."""
    archived: list[ArchivedChunk] = []
    for path in sorted(folder.glob(CHUNK_FILES)):
        number = chunk_number(path)
        if number not in numbers:
            place.remove(number)
            continue
        try:
            (states, spread, statistics), span = read_chunk(path, "states", "spread", "statistics"), read_span(path)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        index.add(number, statistics.to(device), numbers)
        load = partial(read_states, path) if place.path else place.put(span, states.clone(), spread, statistics)
        archived.append(ArchivedChunk(span, states.nbytes, spread.clone(), load))
    return tuple(archived)

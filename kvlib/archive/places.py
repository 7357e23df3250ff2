"""Where archived chunks are kept: in host memory, or in a folder that another process can resume from."""

import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kvlib.state import ChunkSpan, StreamState

MANIFEST, OWNER, CHUNK_FILES, UNFINISHED = "stream.json", "owner", "chunk-*.safetensors", ".unfinished"


class MemoryPlace:
    """Keeps states in host memory: pinned, when they come from a CUDA device."""

    path = None  # it has none

    def put(self, span: ChunkSpan, states: torch.Tensor, spread: torch.Tensor, statistics: torch.Tensor) -> Callable:
        """Keep the states of a chunk; what is returned gives them back."""
        return lambda: states

    def commit(self, state: StreamState) -> None:
        """Nothing to do: memory does not outlive the process."""

    def remove(self, number: int) -> None:
        """Nothing to do: memory is free when nothing refers to it."""


class FolderPlace:
    """Keeps every chunk in a safetensors file of its own, and the manifest beside them, each committed by a rename.

    So whenever the process is killed the folder holds whole chunks, and a manifest all of whose chunks are there. The folder
    belongs to who opened it last: another engine that still writes to it gets an OSError.

    describe: makes the manifest of a state, as JSON takes it.
    """

    def __init__(self, path: Path, describe: Callable[[StreamState], dict]):
        self.path, self.describe, self.owner = path, describe, uuid4().hex
        for unfinished in path.glob(f"*{UNFINISHED}"):
            unfinished.unlink()
        (path / OWNER).write_text(self.owner)

    def put(self, span: ChunkSpan, states: torch.Tensor, spread: torch.Tensor, statistics: torch.Tensor) -> Callable:
        """Write the states of a chunk [layers, 2, KV heads, tokens, head dim], its positions and its `KeyStatistics`; what is
        returned reads the states back."""
        self._check_owner()
        path = self.path / chunk_name(span.index)
        unfinished = path.with_suffix(UNFINISHED)
        tensors = {"states": states.contiguous(), "spread": spread.contiguous(), "statistics": statistics.contiguous()}
        save_file(tensors, unfinished, metadata={"span": json.dumps(asdict(span))})
        os.replace(unfinished, path)
        return partial(read_states, path)

    def commit(self, state: StreamState) -> None:
        """Make the manifest of `state`, all of whose chunks are there, that of the folder."""
        self._check_owner()
        unfinished = self.path / f"{MANIFEST}{UNFINISHED}"
        unfinished.write_text(json.dumps(self.describe(state)))
        os.replace(unfinished, self.path / MANIFEST)

    def remove(self, number: int) -> None:
        """Delete a chunk's file."""
        (self.path / chunk_name(number)).unlink(missing_ok=True)

    def _check_owner(self) -> None:
        if (self.path / OWNER).read_text() != self.owner:
            raise OSError(f"another engine has gone on with the stream in {self.path}")


def chunk_name(number: int) -> str:
    """The file name of a chunk."""
    return f"chunk-{number:08d}.safetensors"


def chunk_number(path: Path) -> int:
    """The number of the chunk in a file of that name."""
    return int(path.stem.removeprefix("chunk-"))


def read_states(path: Path) -> torch.Tensor:
    """The states of a chunk's file, which is mapped into memory. Raises ValueError as `read_chunk`."""
    return read_chunk(path, "states")[0]


def read_chunk(path: Path, *names: str) -> tuple[torch.Tensor, ...]:
    """Tensors of a chunk's file, which is mapped into memory. Raises ValueError for a damaged or missing one."""
    with _opened(path) as file:
        return tuple(file.get_tensor(name) for name in names)


def read_span(path: Path) -> ChunkSpan:
    """Which chunk a file holds. Raises ValueError for a damaged or missing one."""
    with _opened(path) as file:
        return ChunkSpan(**json.loads(file.metadata()["span"]))


@contextmanager
def _opened(path: Path):
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): this archived chunk is lost") from error


def empty_folder(where: str | Path) -> Path:
    """The folder `where`, made when it is not there. Raises ValueError for one that holds anything."""
    folder = Path(where).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        remedy = "go on with it by VideoStreamingInference.resume(), or" if (folder / MANIFEST).is_file() else "delete them, or"
        raise ValueError(f"the folder {folder} holds files already: {remedy} give an empty one")
    return folder

"""What a folder must know of a stream so that another process can go on with it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kvlib.archive.places import MANIFEST
from kvlib.evictor import EvictionConfig
from kvlib.policies import POLICIES
from kvlib.state import StreamState

VERSION = 3
FOLDER, MEMORY = "folder", "memory"
SAMPLES = 64  # numbers of every parameter that tell one model from another


@dataclass(frozen=True)
class Description:
    """Describes states of one stream. Its fields are what does not change; `model` is its `identity`."""

    model: str
    kv_dtype: torch.dtype | None
    drop_static: float
    archive: str  # `FOLDER` when the stream writes every chunk there, `MEMORY`, or "" for neither
    archive_bytes: int | None

    def __call__(self, state: StreamState) -> dict:
        """The manifest of a state, as JSON takes it."""
        return {
            "version": VERSION,
            "model": self.model,
            "kv_dtype": None if self.kv_dtype is None else str(self.kv_dtype),
            "drop_static": self.drop_static,
            "archive": self.archive,
            "archive_bytes": self.archive_bytes,
            "config": config_as_json(state.config),
            "counts": asdict(state.counts),
            "chunks": [asdict(chunk) for chunk in state.chunks],
            "rerotated": sorted(state.originals),
            "chunks_seen": state.chunks_seen,
            "seen": state.seen,
            "dropped": state.dropped,
            "next_position": state.next_position,
            "archived": runs_of(chunk.span.index for chunk in state.archived),
            "archive_dropped": state.archive_dropped,
        }


def runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Rising numbers as runs [first, last] without a gap: the archive of a long stream has thousands, in few runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] + 1 == number:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def numbers_in(runs: list[list[int]]) -> set[int]:
    """The inverse of `runs_of`."""
    return {number for first, last in runs for number in range(first, last + 1)}


def identity(model) -> str:
    """SHA-256 of the names, shapes and dtypes of a model's parameters, of `SAMPLES` numbers of each, and of its RoPE."""
    digest, rotary = hashlib.sha256(), model.model.language_model.rotary_emb
    numbers = []
    for name, parameter in model.named_parameters():
        digest.update(repr((name, tuple(parameter.shape), str(parameter.dtype))).encode())
        flat = parameter.detach().reshape(-1)
        count = min(SAMPLES, len(flat))
        places = torch.arange(count, device=flat.device) * len(flat) // count  # whole numbers: the same on every device
        numbers.append(flat[places].float())
    numbers += [rotary.inv_freq.float(), torch.tensor([*rotary.mrope_section, rotary.attention_scaling])]
    digest.update(torch.cat([part.cpu() for part in numbers]).numpy().tobytes())
    return digest.hexdigest()


def config_as_json(config: EvictionConfig | None) -> dict | None:
    """A configuration as JSON takes it. Raises ValueError for a policy that is not in `POLICIES`."""
    if config is None:
        return None
    policy = config.policy
    if not isinstance(policy, str):
        names = [name for name, made in POLICIES.items() if type(policy) is made]
        if not names:
            raise ValueError(f"policy={policy!r} cannot be written to a folder: take one of {', '.join(POLICIES)}")
        policy = {"name": names[0], **asdict(policy)}
    return {**vars(config), "policy": policy}


def config_from_json(stored: dict | None) -> EvictionConfig | None:
    """The inverse of `config_as_json`."""
    if stored is None:
        return None
    policy = stored["policy"]
    if not isinstance(policy, str):
        policy = POLICIES[policy["name"]](**{name: value for name, value in policy.items() if name != "name"})
    return EvictionConfig(**{**stored, "policy": policy})


def read_manifest(folder: Path, model) -> dict:
    """The manifest of `folder`, for this `model`.

    Raises FileNotFoundError where there is none, and ValueError for one of another version, a damaged one, or one of another
    model."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}: give a folder that an engine has written with archive= or save()")
    try:
        manifest = json.loads(path.read_text())
        version, stored = manifest["version"], manifest["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): the stream cannot be resumed") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version}, this kvlib reads version {VERSION}: use the kvlib that wrote it")
    if stored != identity(model):
        raise ValueError(
            f"the stream in {folder} belongs to another model: load the same checkpoint, adapters included, in the same dtype"
        )
    return manifest

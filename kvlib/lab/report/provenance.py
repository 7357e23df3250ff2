"""What a number was measured with: the device, the versions and the commit."""

import importlib.metadata
import platform
import subprocess

import torch

from kvlib.lab.report import paths


def device_name(device: torch.device | str) -> str:
    """A device in words: the card and its memory, or the kind of CPU and the number of threads that torch uses."""
    device = torch.device(device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {card.total_memory / 2**30:.1f} GiB"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """The versions of Python, torch, transformers and kvlib; "not installed" for a copy of kvlib without its metadata."""
    return {"python": platform.python_version()} | {name: _version(name) for name in ("torch", "transformers", "kvlib")}


def git_state() -> dict:
    """The repository's `commit`, and `dirty`: whether files differ from it.

    Changes in figures/ do not count, because no run reads them. Both values are None without git or a commit.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!figures")
    return {"commit": commit, "dirty": None if commit is None or changes is None else bool(changes)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # kvlib itself, run from a copy of its folder
        return "not installed"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""Files of a benchmark: questions in JSON, and videos, wherever the user has put them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def first_of(places: Iterable[Path], remedy: str) -> Path:
    """The first file of `places` that is there. Raises FileNotFoundError with the `remedy` where none is."""
    places = list(places)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"no {' and no '.join(map(str, places))}: {remedy}")


def read_json(path: Path) -> list:
    """A list of entries in JSON. Raises ValueError for a file that holds none, such as a pointer to a file elsewhere."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): download it again") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} is not a list of questions: download it again")
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(data: Path) -> None:
    """Raise FileNotFoundError where `data` is no folder."""
    if not data.is_dir():
        raise FileNotFoundError(f"no folder {data}: give --data the folder of the benchmark's videos")


def videos_within(folders: Iterable[Path], named: Iterable[str]) -> dict[str, Path | None]:
    """For every video that is `named`, by its path in one of the `folders`: the first file there is; None for none."""
    folders = list(folders)
    return {name: next((at / name for at in folders if (at / name).is_file()), None) for name in dict.fromkeys(named)}


def lacking(entry: dict, keys: Iterable[str]) -> str:
    """What is wrong with an entry that lacks one of the `keys`; "" for nothing."""
    missing = [key for key in keys if entry.get(key) is None]
    return f"the entry has no {', '.join(missing)}" if missing else ""


def bad_time(time_s) -> str:
    """What is wrong with a moment in seconds; "" for nothing."""
    number = isinstance(time_s, int | float) and not isinstance(time_s, bool) and 0 <= time_s < float("inf")
    return "" if number else f"the time {time_s!r} is no number of seconds"

"""Values and files as the workbook stores them: plain JSON types, and files that are whole or not there."""

import math
import os
import tempfile
from pathlib import Path


def as_json(value):
    """`value` in JSON's types: numpy and torch values unwrapped, NaN and infinity as None, other objects as text."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under its name only when it is complete: a reader sees the old file or the new one.

    Missing folders are made. When writing fails, the old file stays and the error is raised. A text is stored as UTF-8, with
    an escape such as `\\udc80` for what has no place there: bytes of a file name that are not UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def newest_change(folder: str | Path) -> int | None:
    """When a file in a folder was last changed, in ns; None where there is no folder, as for a name on the Hugging Face Hub."""
    folder = Path(folder)
    return max(file.stat().st_mtime_ns for file in (folder, *folder.iterdir())) if folder.is_dir() else None

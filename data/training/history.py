"""The log of a training: JSON lines, each printed too."""

import json
from pathlib import Path


class History:
    """What the log in `path` says of the runs before, and writing it on. Only the first rank writes.

    runs: how many runs it has. seconds: of training in the last checkpoint. reads: whether the reader counted as reading then.
    """

    def __init__(self, path: Path, writes: bool):
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.runs = sum("parameters" in line for line in lines)
        saved = [line for line in lines if "saved" in line]
        self.seconds, self.reads = (saved[-1]["s"], saved[-1]["reads"]) if saved else (0, False)
        self.file = open(path, "a", buffering=1) if writes else None

    def say(self, **values) -> None:
        if self.file:
            self.file.write(json.dumps(values) + "\n")
            print(json.dumps(values), flush=True)

"""The answers of a run, kept beside the .srt that is made of them, so that a run that was stopped can go on."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from kvlib.lab.report.files import write_atomic
from kvlib.lab.video.lines import join_lines
from kvlib.lab.video.subtitles import format_srt


class Ask(NamedTuple):
    """A question after chunk number `chunk`, whose last frame is shown from `time_s` to `end_s` (seconds), and its answer."""

    chunk: int
    time_s: float
    end_s: float
    answer: str


class AskLog:
    """The file `<OUT.srt>.asks.jsonl`: JSON lines with a run's settings, its answers, and hashes of what it wrote to OUT.srt.

    By the hashes an .srt that somebody else made or corrected is told from one that this log belongs to. A line is written at
    once; one that was cut off is left out when the file is read.

    out: the .srt. settings: what the answers depend on, in plain JSON types. `changed` names the settings that differ from
    those of the log that was there; its answers are then not used, and the first new answer replaces them. Raises ValueError
    when `out` is not of this log, and for a log that is damaged.
    """

    def __init__(self, out: Path, settings: dict):
        self.out, self.path = out, out.with_name(f"{out.name}.asks.jsonl")
        lines = self._read()
        known = lines[0]["settings"] if lines else settings
        self.changed = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
        present = hashlib.sha256(out.read_bytes()).hexdigest() if out.is_file() else None
        if present and {"written": present} not in lines:
            raise ValueError(
                f"{out} was not written by this command, or was changed since: give another -o, or move the file away"
            )
        if self.changed or not lines:
            lines = [{"settings": settings}, *([{"written": present}] if present else [])]
        self.asks = [Ask(**line["ask"]) for line in lines if "ask" in line]
        self.finished = {"finished": True} in lines
        self._written = present
        self._first_lines: list[dict] | None = lines  # until they are in the file

    def add(self, ask: Ask) -> None:
        """Keep an answer and write the .srt anew."""
        self._append({"ask": ask._asdict()})
        self.asks.append(ask)
        self.write_subtitles()

    def finish(self) -> None:
        """Nothing comes any more."""
        self._append({"finished": True})
        self.finished = True

    def write_subtitles(self) -> int:
        """Write the .srt from the answers so far; the number of subtitles in it."""
        end_s = self.asks[-1].end_s if self.asks else 0.0
        subtitles = join_lines(((ask.time_s, ask.answer) for ask in self.asks), end_s)
        content = format_srt(subtitles)
        digest = hashlib.sha256(content.encode()).hexdigest()
        if digest != self._written:
            self._append({"written": digest})  # first: an .srt without its hash would count as somebody else's
            write_atomic(self.out, content)
            self._written = digest
        return len(subtitles)

    def _append(self, content: dict) -> None:
        if self._first_lines is not None:
            write_atomic(self.path, "".join(map(_line, self._first_lines)))
            self._first_lines = None
        with self.path.open("ab", buffering=0) as file:
            file.write(_line(content).encode())

    def _read(self) -> list[dict]:
        """The complete lines of the file, [] when there is none."""
        if not self.path.is_file():
            return []
        complete = self.path.read_bytes().split(b"\n")[:-1]  # behind the last "\n" is nothing, or a line that was cut off
        try:
            lines = [json.loads(line) for line in complete]
            asks = [Ask(**line["ask"]) for line in lines if "ask" in line]
            intact = not lines or isinstance(lines[0]["settings"], dict)
            join_lines(((ask.time_s, ask.answer) for ask in asks), asks[-1].end_s if asks else 0.0)
        except (ValueError, TypeError, KeyError):
            intact = False
        if not intact:
            raise ValueError(
                f"{self.path} is damaged, or no log of this command: delete it, and {self.out.name}, to start over"
            )
        return lines


def _line(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"

"""From a video to chunks of frames, read forward as it plays: files, cameras, network sources, pipes."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from kvlib.video.ahead import read_ahead
from kvlib.video.decoding import Decoder, stamps_in_order
from kvlib.video.live import TICK, LiveFrames
from kvlib.video.opening import check_file, is_live, opened
from kvlib.video.sampling import SECOND, Timed, sampled

LONGEST_GAP = 600  # seconds without a frame after which a new chunk begins
FPS_RANGE = 1 / 3600, 1000.0  # that a chunk may say: positions stay within what a model can take


@dataclass(frozen=True)
class VideoChunk:
    """Frames of a video: uint8 [T, H, W, 3], and the time of each in seconds from the start of the video.

    fps: the rate at which they follow one another, for `append_video_chunk`. Reads as the pair `(time_s, frames)` too.
    """

    frames: np.ndarray
    times: tuple[float, ...]
    fps: float

    @property
    def time_s(self) -> float:
        """The time of the last frame."""
        return self.times[-1]

    def __getitem__(self, index: int):
        return (self.time_s, self.frames)[index]


class VideoChunks:
    """The chunks of a video, `chunk_frames` frames each, sampled at `sample_fps` frames per second.

    source: a file; or a live source: a URL (rtsp, http, HLS, tcp, udp), a camera such as /dev/video0, a named pipe, "-" for
    standard input. Iterating yields a `VideoChunk` each; `read` gives the next one. At every wanted time, counted from the
    first frame, the frame on screen is taken; no frame is taken twice, so a video with fewer frames per second gives each of
    them once. The last chunk may be shorter, and so is one before a change of the frame size or a gap of more than
    `LONGEST_GAP` seconds. While one chunk is used the next is decoded, and at most one more. A damaged file gives the frames
    that are there, then a warning that says where it ended; `trouble` is the text of that warning, None where there is none.

    late: what a live source does when its chunks are used too slowly: "wait" keeps all frames, "drop" leaves chunks out, whose
    frames are counted in `dropped`. A source that breaks off is connected to again, see `LiveFrames`.

    Raises FileNotFoundError for a missing file, PermissionError for one that may not be read, ValueError for a file without
    a readable frame and for parameters that cannot be used; iterating raises ConnectionError for a live source that is gone.
    """

    def __init__(self, source, chunk_frames: int = 2, sample_fps: float = 2.0, late: str = "wait"):
        if isinstance(chunk_frames, bool) or not isinstance(chunk_frames, Integral) or chunk_frames < 1:
            raise ValueError(f"chunk_frames={chunk_frames!r}: give a whole number of frames, at least 1")
        if isinstance(sample_fps, bool) or not isinstance(sample_fps, Real) or not 0 < sample_fps < math.inf:
            raise ValueError(f"sample_fps={sample_fps!r}: give a finite, positive number of frames per second")
        if late not in ("wait", "drop"):
            raise ValueError(f"late={late!r}: give 'wait' or 'drop'")
        self.live = is_live(str(source))
        self.path = str(source) if self.live else Path(source)
        self.chunk_frames, self.sample_fps, self.late, self.dropped = int(chunk_frames), float(sample_fps), late, 0
        self.trouble: str | None = None
        self._reading: Iterator[VideoChunk] | None = None
        if late == "drop" and not self.live:
            raise ValueError(f"late='drop' is for live sources, and {str(source)!r} is a file: leave it out")
        if not self.live:
            check_file(self.path)
            self._check_first_frame()

    def __len__(self) -> int:
        """Number of chunks of a file, counted from its packets; of a damaged one there may be fewer. Raises TypeError for a
        live source."""
        if self.live:
            raise TypeError(f"{self.path} is a live source: nobody knows how many chunks it has")
        return self._count

    def __iter__(self) -> Iterator[VideoChunk]:
        self.dropped, self.trouble = 0, None
        source = self._live_frames() if self.live else self._file_frames()
        yield from read_ahead(self._grouped(source), self._leave_out if self.late == "drop" else None)
        if self.trouble is not None:
            warnings.warn(self.trouble, stacklevel=2)

    def read(self) -> VideoChunk | None:
        """The next chunk; None when there is none any more. Raises what iterating raises, and then gives None."""
        if self._reading is None:
            self._reading = iter(self)
        return next(self._reading, None)

    def close(self) -> None:
        """Close the file or connection that `read` has opened; the next `read` begins anew. Not while another thread reads."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _file_frames(self) -> Iterator[Timed]:
        """The sampled frames; afterwards `trouble` says what was wrong with the file."""
        container, stream = opened(str(self.path))
        with container:
            decoder = Decoder(container, stream, stamps_in_order(container, stream))
            yield from sampled(decoder, self.sample_fps, decoder.time_base)
            if trouble := decoder.trouble():
                self.trouble = f"{self.path}: {trouble}"

    def _live_frames(self) -> Iterator[Timed]:
        return sampled(LiveFrames(self.path), self.sample_fps, TICK)

    def _leave_out(self, chunk: VideoChunk) -> None:
        self.dropped += len(chunk.frames)

    def _grouped(self, frames: Iterator[Timed]) -> Iterator[VideoChunk]:
        group, before = [], None  # (time, picture); the time of the frame in front of the group
        for frame in frames:
            time, picture = frame.time / SECOND, frame.picture()
            if group and (picture.shape != group[-1][1].shape or time - group[-1][0] > LONGEST_GAP):
                yield self._chunk(group, before)
                group, before = [], group[-1][0]
            group.append((time, picture))
            if len(group) == self.chunk_frames:
                yield self._chunk(group, before)
                group, before = [], time
        if group:
            yield self._chunk(group, before)

    def _chunk(self, group: list[tuple[float, np.ndarray]], before: float | None) -> VideoChunk:
        """A chunk of frames (time, picture); `before`: the time of the frame in front of them, None for the first chunk."""
        times = tuple(time for time, _ in group)
        return VideoChunk(np.stack([picture for _, picture in group]), times, chunk_rate(times, before, self.sample_fps))

    @cached_property
    def _count(self) -> int:
        container, stream = opened(str(self.path))
        with container:
            decoder = Decoder(container, stream)
            times = [frame.time / SECOND for frame in sampled(decoder.packet_times(), self.sample_fps, decoder.time_base)]
        breaks = [place for place, (a, b) in enumerate(pairwise(times), 1) if b - a > LONGEST_GAP]
        edges = [0, *breaks, len(times)]
        return sum(-(-(last - first) // self.chunk_frames) for first, last in pairwise(edges))

    def _check_first_frame(self) -> None:
        container, stream = opened(str(self.path))
        with container:
            if next(iter(Decoder(container, stream)), None) is None:
                raise ValueError(
                    f"{str(self.path)!r} holds no frame that can be decoded: it is damaged or has no frames; give another file"
                )


def chunk_rate(times: Sequence[float], before: float | None, sample_fps: float) -> float:
    """The rate, in frames per second, that a chunk of frames at these `times` says of itself.

    before: the time of the frame in front of them, None for a video's first chunk; one frame alone there has `sample_fps`.
    """
    if len(times) > 1:
        fps = (len(times) - 1) / (times[-1] - times[0])
    else:
        fps = sample_fps if before is None else 1 / (times[0] - before)
    low, high = FPS_RANGE
    return min(max(fps, low), high)

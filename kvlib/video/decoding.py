"""The frames of an open container, in order of time, each with the time at which a player shows it."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial

import av

from kvlib.video.picture import as_shown
from kvlib.video.sampling import SECOND, Timed, in_order

DEFAULT_RATE = Fraction(25)  # of streams that say nothing of their rate


class Decoder:
    """Iterates over the frames of a container from its beginning: `Timed`.

    Times are the timestamps less the container's start. Where there are none, as in raw H.264, frames follow one another at
    the stream's rate. What cannot be decoded is left out; afterwards `trouble` says what was wrong. stamps: the timestamps of
    the frames in order, where those in the container are not to be used."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, stamps: Sequence[int] = ()):
        self.container, self.stream, self.stamps = container, stream, stamps
        self.damaged, self.error, self.last = 0, "", None
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        self.interval = round(SECOND / (rate or DEFAULT_RATE))
        self.start = None if container.start_time is None else container.start_time * SECOND // av.time_base
        self.time_base = stream.time_base or Fraction(1, 90_000)
        self.ticks = self.time_base.numerator * SECOND, self.time_base.denominator

    def __iter__(self) -> Iterator[Timed]:
        for frame in in_order(self._timed(self._decoded())):
            self.last = frame.time
            yield frame

    def packet_times(self) -> Iterator[Timed]:
        """The times of all frames in order, from the packets alone, without decoding."""
        packets = (packet for packet in self._packets() if packet.size and not packet.is_discard)
        return in_order(sorted(Timed(*self._times(packet, number), None) for number, packet in enumerate(packets)))

    def trouble(self) -> str:
        """What went wrong until the last frame, in words; "" for nothing."""
        duration, last = self._nanoseconds(self.stream.duration or 0) / SECOND, (self.last or 0) / SECOND
        # in other containers than MP4 a stream may have the duration of the whole file, whose sound goes on
        alone = len(self.container.streams) == 1 or "mp4" in self.container.format.name
        short = alone and duration and last + 2 * self.interval / SECOND + 1 < duration
        if not (self.error or self.damaged or short):
            return ""
        known = f" of {duration:.2f} s" if duration else ""
        where = f"the last frame is at {last:.2f} s{known}"
        packets = f"; {self.damaged} packets could not be decoded" if self.damaged else ""
        return f"the video is cut off or damaged: {where}{packets}{f' ({self.error})' if self.error else ''}"

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError as error:
            self.error = str(error)
            yield from ()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        flushed = False
        for packet in self._packets():
            flushed = flushed or not packet.size
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self.damaged += 1
        if not flushed:  # the demuxer ended with an error: what the decoder holds back is shown too
            try:
                yield from self.stream.decode(None)
            except av.FFmpegError:
                self.damaged += 1

    def _timed(self, frames) -> Iterator[Timed]:
        aspect = float(self.stream.sample_aspect_ratio or 1)
        for number, frame in enumerate(frames):
            if number < len(self.stamps):
                frame.pts = self.stamps[number]
            yield Timed(*self._times(frame, number), partial(as_shown, frame, aspect))

    def _times(self, frame, number: int) -> tuple[int, int]:
        """Time and duration of a frame or packet, the `number`-th, in nanoseconds."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None:
            return number * self.interval, self.interval
        time = self._nanoseconds(stamp)
        if self.start is None:
            self.start = time
        return time - self.start, self._nanoseconds(frame.duration or 0)

    def _nanoseconds(self, ticks: int) -> int:
        return (ticks * self.ticks[0] + self.ticks[1] // 2) // self.ticks[1]


def stamps_in_order(container: av.container.InputContainer, stream: av.VideoStream) -> list[int]:
    """The timestamps of an AVI with B-frames, which has one for each packet in the order of decoding: frames get them in the
    order in which they are shown. Empty for every other file. Reads the whole file."""
    if container.format.name != "avi" or not stream.codec_context.has_b_frames:
        return []
    stamps = [packet.pts for packet in container.demux(stream) if packet.size]
    container.seek(0)
    return stamps if None not in stamps and stamps == sorted(stamps) else []

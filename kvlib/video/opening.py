"""Opening a video, and saying what is wrong with one that cannot be opened."""

import os
import stat
from pathlib import Path

import av
from av.error import EOFError, ExitError, InvalidDataError

TIMEOUT_S = 10.0  # for a network source to answer, and then for its first data
CONNECTED = EOFError, ExitError, InvalidDataError  # after a connection; one that is not made in 5 s is a TimeoutError
LOCAL = "file", ""


def is_live(source: str) -> bool:
    """Whether frames of this source come from elsewhere, in their own time: a URL, a camera, a pipe, "-" for standard input."""
    if source == "-" or "://" in source:
        return True
    return os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source))


def check_file(path: Path) -> None:
    """Raise FileNotFoundError, PermissionError or ValueError for what cannot be a video, before it is opened."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: give the video file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no video file at {str(path)!r}: check VIDEO_PATH")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"the video file {str(path)!r} may not be read: change its permissions")
    if path.stat().st_size == 0:
        raise ValueError(f"the video file {str(path)!r} is empty: copy or download it again")


def opened(source: str) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The container of a file or live source, and its video stream, ready to decode.

    Raises ConnectionError for a live source that does not answer, or sends nothing that can be read; ValueError for what holds
    no video that can be decoded.
    """
    live = is_live(source)
    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
    kind = "v4l2" if source.startswith("/dev/video") and stat.S_ISCHR(os.stat(source).st_mode) else None
    try:
        container = av.open(
            "pipe:0" if source == "-" else source, format=kind, options=options, timeout=TIMEOUT_S if "://" in source else None
        )
    except av.FFmpegError as error:
        if live:
            if isinstance(error, CONNECTED) and not source.startswith("udp"):
                raise without_frame(source, error) from error
            raise ConnectionError(
                f"{source} does not answer ({error}): check the address, and that the source is on"
            ) from error
        raise ValueError(_reason(Path(source))) from error
    try:
        return container, _video_stream(container, source)
    except ValueError:
        container.close()
        raise


def without_frame(source: str, reason) -> ConnectionError:
    """The error for a live source to which a connection was made, but that gave no frame."""
    return ConnectionError(
        f"{source} answers, but gives no frame ({reason}): check that it is sending, and that what it sends is a video, "
        "such as H.264 in MPEG-TS"
    )


def _video_stream(container, source: str) -> av.VideoStream:
    moving = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        others = "only a cover picture" if container.streams.video else "only sound" if container.streams.audio else "no video"
        raise ValueError(
            f"{source!r} is not a readable video, it holds {others}: give a file with a video stream, such as H.264 in MP4"
        )
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:
        raise ValueError(
            f"{source!r} has a video stream of a codec without a decoder here: convert it, for example to H.264 in MP4"
        )
    stream.thread_type = "AUTO"
    return stream


def _reason(path: Path) -> str:
    """Why a file cannot be opened, and the remedy."""
    with path.open("rb") as file:
        head = file.read(12)
    what = f"{str(path)!r} ({path.stat().st_size} bytes) is not a readable video"
    if head[4:8] == b"ftyp":
        return f"{what}: it is an MP4 that was cut off, without its index (moov); copy, download or record it again"
    return f"{what}: give a file with a video stream, such as H.264 in MP4"

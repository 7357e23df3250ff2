"""Video files and other sources, read as chunks of frames."""

from kvlib.video.chunks import VideoChunk, VideoChunks
from kvlib.video.frames import stack_frames

__all__ = ["VideoChunk", "VideoChunks", "stack_frames"]

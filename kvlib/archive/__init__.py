"""What a stream has evicted, kept outside the device: in host memory or in a folder, with an index to find it again."""

from kvlib.archive.archive import open_archive
from kvlib.archive.recall import bring_back, check_recall, choose, with_recall
from kvlib.archive.resume import StoredStream, save_stream

__all__ = ["StoredStream", "bring_back", "check_recall", "choose", "open_archive", "save_stream", "with_recall"]

"""CUDA graphs: what a model does launch by launch, captured once and replayed; all engines on a model share them.

A graph reads and writes tensors of its own, so two threads must not replay the same one at a time. `GraphPool.take` hands a
graph out and `give` puts it back; a second thread captures a second graph meanwhile, and replaying needs no lock.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, wraps

import torch

MAX_GRAPH_BYTES = 2**29  # of one model's graphs that are not in use
CAPTURING = threading.RLock()  # one capture at a time: all use one stream of a device


def locked(method):
    """Let the calls of an object's methods from several threads wait for one another: each holds its `lock`.

    The lock is taken and released on one line, so that no line of ours runs between the end of `method` and the caller: an
    exception there would come after the method's last change, and before the lock is released.
    """

    @wraps(method)
    def call(owner, *arguments, **options):
        with owner.lock: return method(owner, *arguments, **options)  # noqa: E701  # fmt: skip

    return call


class GraphPool:
    """The captured graphs of one model, by key; the least recently used are dropped above `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_GRAPH_BYTES):
        self.max_bytes = max_bytes
        self._idle: OrderedDict[object, list] = OrderedDict()
        self._seen: OrderedDict[object, None] = OrderedDict()
        self.lock = threading.Lock()

    @locked
    def seen(self, key) -> bool:
        """Whether work of this `key` has come before: what comes once is not worth a capture."""
        known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > 1024:
            self._seen.popitem(last=False)
        return known

    def take(self, key, capture: Callable[[], object]):
        """A graph of this `key` that nobody else has now; from `capture()` where there is none."""
        graph = self._pop(key)
        return capture() if graph is None else graph

    @locked
    def _pop(self, key):
        graphs = self._idle.get(key)
        return graphs.pop() if graphs else None

    @locked
    def give(self, key, graph) -> None:
        """Put `graph` back after its use; it has a size `nbytes`."""
        self._idle.setdefault(key, []).append(graph)
        self._idle.move_to_end(key)
        while self._bytes() > self.max_bytes:
            self._idle.popitem(last=False)

    @locked
    def clear(self) -> None:
        """Drop all graphs that are not in use."""
        self._idle.clear()

    @locked
    def nbytes(self) -> int:
        """Bytes of device memory that the graphs hold which are not in use."""
        return self._bytes()

    def _bytes(self) -> int:
        return sum(graph.nbytes for graphs in self._idle.values() for graph in graphs)


def capture_graph(step: Callable[[], object], device: torch.device, pool=None) -> tuple[torch.cuda.CUDAGraph, object]:
    """Capture the launches of `step()` on a CUDA `device`: the graph, and what `step` returned, which a replay overwrites.

    `step` must read and write the same tensors every time and wait for nothing on the device; whatever cannot be captured, such
    as compiling a kernel, must have happened before. Only this thread is held to that: others may go on.
    """
    with CAPTURING: return _capture(step, device, pool)  # noqa: E701  # fmt: skip  # on one line, see `locked`


def _capture(step: Callable[[], object], device: torch.device, pool) -> tuple[torch.cuda.CUDAGraph, object]:
    graph, stream = torch.cuda.CUDAGraph(), capture_stream(device)
    with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        result = step()
    return graph, result


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Where everything is captured: one stream for each CUDA device, because libraries keep a workspace for every stream."""
    return torch.cuda.Stream(device)


def pool_bytes(pool) -> int:
    """Bytes of the memory that the captured graphs of one memory `pool` hold."""
    return sum(segment["total_size"] for segment in torch.cuda.memory_snapshot() if tuple(segment["segment_pool_id"]) == pool)

"""What to forget: one small dataclass per policy, in a file of its own, by name in `POLICIES`.

A policy is asked for one victim after the other until the new chunk fits: `victim(chunks, sink, window)` gets the stored
chunks, oldest first, the number of chunks in the sink and the tokens that may be stored behind it, and returns the index of
the chunk to forget. It never chooses the sink or the newest chunk, and is asked only while there is another. A chunk is
forgotten whole; two frames to a chunk make it one temporal grid.
"""

from kvlib.policies.importance import Importance
from kvlib.policies.sink_window import SinkWindow
from kvlib.policies.uniform import Uniform

POLICIES = {"sink_window": SinkWindow, "uniform": Uniform, "importance": Importance}

"""The processes and threads that draw clips and compose batches for one GPU."""

import multiprocessing
import threading
import time
from pathlib import Path

from training.clips.rings import Pool
from training.clips.workers import render_worker
from training.settings import DEFAULT, Settings
from training.streams.feeding import Uploader, compose, fill_queue


class Feed:
    """Starts the processes; `stop` ends them. `runs` is how many runs there were before, which draw other clips.

    share: the share of the time that is over, negative before training. reads: whether the reader counts as reading.
    """

    def __init__(self, rank: int, ranks: int, settings: Settings, runs: int, blocks: Path, device):
        context = multiprocessing.get_context("spawn")
        self.upload, self.waiting = Uploader(device), []
        self.share, self.reads = context.Value("d", -1.0), context.Value("b", False)
        self.news, batches = context.Queue(), context.Queue(maxsize=4)
        base = 1000 * runs + rank * settings.workers
        starts = [(render_worker, (base + n, blocks, settings.fonts, settings.grids)) for n in range(settings.workers)]
        starts.append((compose, (ranks * runs + rank, settings, self.share, self.reads, self.news, batches)))
        self.processes = [context.Process(target=target, args=given, daemon=True) for target, given in starts]
        for process in self.processes:
            process.start()
        self.pool = Pool(blocks, settings, device, self.news)
        given = (self.waiting, batches, self.upload, self.pool.stopped)
        threading.Thread(target=fill_queue, args=given, daemon=True).start()

    def wait_for(self, clips: int) -> None:
        """Wait until so many clips of the default grid are there. Raises RuntimeError when a process has ended."""
        while self.pool.train[DEFAULT].size < clips:
            self._check()
            time.sleep(0.1)

    def batch(self) -> tuple[dict, dict]:
        """The next batch: its plan, and its arrays on the device. Raises RuntimeError when a process has ended."""
        while not self.waiting:
            self._check()
            time.sleep(0.001)
        return self.waiting.pop(0)

    def stop(self) -> None:
        self.pool.stopped.set()
        self.news.cancel_join_thread()  # what nobody reads any more would keep this process from ending
        for process in self.processes:
            process.kill()

    def _check(self) -> None:
        ended = [process.exitcode for process in self.processes if not process.is_alive()]
        if ended:
            raise RuntimeError(f"a process that draws clips ended with status {ended[0]}: its error is above")

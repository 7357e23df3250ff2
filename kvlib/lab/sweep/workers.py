"""The processes that a sweep's runs take place in: on this machine, of a running Dask cluster, or started by SLURM."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin

from kvlib.lab.sweep.grid import SweepError
from kvlib.lab.sweep.slurm import SlurmConfig

CPU_WORKERS = 4  # at most, without GPUs: every kernel holds a model
# A worker that dies is started again, and given up if it is not back by then. Dask's own 15 s are too short where loading torch
# takes longer, and a cluster without workers would wait forever.
LOST_AFTER = "10 minutes"
RETRIES = 3  # of a run whose worker died; if that happens more often, the run itself is taken for the cause


class LocalWorkers(LocalCluster):
    """Worker processes on this machine that do one run at a time, each with a GPU of its own where there are any.

    The cores are shared evenly: a run computes with cores / workers threads, unless OMP_NUM_THREADS says otherwise.

    workers: how many. gpus: the ids for CUDA_VISIBLE_DEVICES, one per worker; empty where there is no GPU.
    """

    def __init__(self, workers: int, gpus: list[str]):
        self.gpus = gpus
        dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_AFTER})
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // workers))
        super().__init__(
            n_workers=0, threads_per_worker=1, dashboard_address=None, memory_limit=0, env={"OMP_NUM_THREADS": threads}
        )  # fmt: skip
        self.scale(workers)

    def new_worker_spec(self) -> dict:
        """The next worker's name and how to start it; names count from 0."""
        ((name, spec),) = super().new_worker_spec().items()
        env = dict(spec["options"]["env"])
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[name]
        return {name: spec | {"options": spec["options"] | {"env": env}}}


class IgnoreInterrupts(WorkerPlugin):
    """ctrl-C reaches every process of the terminal; only the one that leads the sweep may act on it."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def connected(scheduler: str | None, slurm: SlurmConfig | None, runs: int) -> Iterator[Client]:
    """A client of the cluster that was asked for; at the end it is closed, with the cluster if that was started here.

    scheduler: the address of a running one; slurm: how to start one; with neither, workers on this machine for up to `runs`
    runs at a time. Raises SweepError for a scheduler that does not answer, and for workers of several threads.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}))
        if scheduler:
            client = stack.enter_context(_connect(scheduler))
        elif slurm:
            from dask_jobqueue import SLURMCluster  # not installed by default

            client = stack.enter_context(Client(stack.enter_context(SLURMCluster(**slurm.arguments()))))
        else:
            gpus = visible_gpus()
            workers = min(runs, len(gpus) or min(CPU_WORKERS, CPU_COUNT))
            client = stack.enter_context(Client(stack.enter_context(LocalWorkers(workers, gpus))))
            client.register_plugin(IgnoreInterrupts())
        yield client


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, for CUDA_VISIBLE_DEVICES."""
    given, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return (given.split(",") if given else [str(i) for i in range(count)])[:count]


def _connect(address: str) -> Client:
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise SweepError(f"no Dask scheduler at {address}: give --scheduler the address that it printed ({error})") from error
    wide = [worker for worker, threads in client.nthreads().items() if threads > 1]
    if wide:
        client.close()
        raise SweepError(f"worker {wide[0]} would do several runs at a time on its GPU: start workers with --nthreads 1")
    return client

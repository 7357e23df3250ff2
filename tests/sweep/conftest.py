"""A Dask cluster of two worker processes, and sweeps on it."""

import pytest
from distributed import Client
from tiny import notebook

from kvlib.lab.sweep.grid import read_sweep
from kvlib.lab.sweep.sweep import run_sweep
from kvlib.lab.sweep.workers import LocalWorkers


@pytest.fixture(scope="module")
def cluster():
    with LocalWorkers(2, gpus=["4", "6"]) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture
def run(cluster, tmp_path):
    """Sweeps a notebook of these cells on the cluster: `run(cells, *grid)`; results in `tmp_path/out`."""

    def start(cells: list[str], *grid: str, measure: str | None = None) -> int:
        grid, out = [f"FLAGS={tmp_path}", *grid], str(tmp_path / "out")
        return run_sweep(read_sweep(notebook(tmp_path, *cells), grid, out, measure, cluster.scheduler.address))

    return start

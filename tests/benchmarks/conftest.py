"""The small data sets in the official forms, made once, and a checkpoint of the tiny model."""

import pytest

from kvlib.lab.benchmarks.question import part_of
from kvlib.lab.benchmarks.small_sets import write_ovo, write_streamingbench


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """The folder with the clones `ovo` and `streamingbench`, each with its data in `data`; not to be written to."""
    folder = tmp_path_factory.mktemp("sets")
    write_ovo(folder / "ovo")
    write_streamingbench(folder / "streamingbench")
    return folder


@pytest.fixture(scope="session")
def loaded(sets):
    """`loaded(name)`: what the loader of a benchmark makes of its small set."""
    return lambda name: part_of(name, "loader").load(sets / name / "data", sets / name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, model, processor):
    """A folder from which workers load the tiny model."""
    path = tmp_path_factory.mktemp("tiny")
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    model.save_pretrained(path)
    return path

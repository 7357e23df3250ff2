"""Checkpoint folders for the tests of loading."""

import checkpoints
import pytest


@pytest.fixture(scope="session")
def published(tmp_path_factory, model, processor):
    """A whole checkpoint in the published layout; not to be written to."""
    path = tmp_path_factory.mktemp("published")
    checkpoints.publish(path, model, processor)
    return path


@pytest.fixture
def folder(published, tmp_path):
    """A copy of the published checkpoint, to be damaged."""
    return checkpoints.copy(published, tmp_path / "damaged")

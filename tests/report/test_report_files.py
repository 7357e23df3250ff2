"""Files are whole or not there, and values are plain JSON."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kvlib.lab.report import files


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "report.txt"
    files.write_atomic(path, "old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.txt"]
    assert path.read_text() == "old"


def test_missing_folders_are_made(tmp_path):
    files.write_atomic(tmp_path / "a" / "b" / "x.bin", b"\x00")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00"


def test_values_become_plain_json_types():
    given = {1: np.int64(2), "x": (np.float32(0.5), torch.tensor([1, 2])), "y": [math.inf, -math.inf, np.nan], "z": Path("a")}
    plain = files.as_json(given)
    assert plain == {"1": 2, "x": [0.5, [1, 2]], "y": [None, None, None], "z": "a"}
    assert type(plain["1"]) is int and type(plain["x"][0]) is float
    assert files.as_json(True) is True and files.as_json(None) is None

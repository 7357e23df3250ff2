"""The grid of a sweep: what is read from the command line and from the SLURM file, and the names of the runs' folders."""

import re

import pytest

from kvlib.lab.sweep import slurm
from kvlib.lab.sweep.grid import Sweep, read_grid, read_sweep, read_values, run_name

KNOWN = {"TOKENS", "MODE", "BUDGETS", "FLAGS", "OUTPUT_DIR"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the grid is empty: give at least one -g"),
        (["TOKEN=1,2"], "no parameter TOKEN: choose from BUDGETS, FLAGS, MODE, TOKENS$"),
        (["TOKENS"], "-g TOKENS: write it as NAME=VALUE,VALUE"),
        (["TOKENS="], "-g TOKENS=: no values"),
        (["BUDGETS=[1,2"], r"-g BUDGETS=\[1,2: not a list of YAML values"),
        (["MODE=2026-01-01"], "-g MODE=2026-01-01: not a list of YAML values, put odd texts in quotes"),
        (["MODE=.nan"], "-g MODE=.nan: not a list of YAML values"),
        (["TOKENS=1,1"], "-g TOKENS=1,1: a value is given twice"),
        (["TOKENS=1", "TOKENS=2"], "-g TOKENS=2: TOKENS is given twice"),
        (["OUTPUT_DIR=a"], "OUTPUT_DIR is set by the sweep"),
    ],
)
def test_wrong_grids_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        read_grid(given, KNOWN)


def test_a_notebook_without_an_output_folder_cannot_be_swept():
    with pytest.raises(ValueError, match="no parameter OUTPUT_DIR"):
        read_grid(["TOKENS=1"], {"TOKENS"})


def test_a_missing_notebook_is_named():
    with pytest.raises(FileNotFoundError, match=r"no notebook at .*absent\.ipynb"):
        read_sweep("absent.ipynb", ["A=1"])


def test_a_value_that_a_run_would_refuse_is_named_with_the_run_before_any_starts():
    notebook = "notebooks/02_oom_free.ipynb"
    with pytest.raises(ValueError, match=r"^run CHUNK_FRAMES=0: 02_oom_free: CHUNK_FRAMES=0: give a whole number"):
        read_sweep(notebook, ["CHUNK_FRAMES=2,0"])
    with pytest.raises(ValueError, match=r"^run VIDEO_PATH=nowhere\.mp4: no video at "):
        read_sweep(notebook, ["VIDEO_PATH=data/clips/short.mp4,nowhere.mp4"])
    assert read_sweep(notebook, ["CHUNK_FRAMES=2,4"]).grid == {"CHUNK_FRAMES": [2, 4]}


def test_workers_come_from_one_place():
    with pytest.raises(ValueError, match="give one of them"):
        read_sweep("absent.ipynb", ["A=1"], scheduler="tcp://host:8786", slurm="slurm.yml")


def test_values_are_yaml():
    text = '1,0.5,1e-3,-2E+4,[600,800,1e2],keep,"2",true,null,data/x,{a: 1e1},1e'
    values = read_values("", text)
    assert values == [1, 0.5, 0.001, -20000.0, [600, 800, 100.0], "keep", "2", True, None, "data/x", {"a": 10.0}, "1e"]
    assert [type(value) for value in values[:4]] == [int, float, float, float]


def test_a_run_for_every_combination(tmp_path):
    runs = Sweep(tmp_path / "a.ipynb", {"A": [1, 2], "B": ["x", "y"]}, tmp_path).runs()
    assert list(runs) == ["A=1,B=x", "A=1,B=y", "A=2,B=x", "A=2,B=y"]
    assert runs["A=2,B=x"] == {"A": 2, "B": "x"}


def test_folders_are_readable_and_never_shared():
    assert run_name({"MAX_CACHE_TOKENS": 800, "CHUNK_FRAMES": 2}) == "MAX_CACHE_TOKENS=800,CHUNK_FRAMES=2"
    assert run_name({"MODE": "keep", "BUDGETS": [1, 2]}) == "MODE=keep,BUDGETS=[1,2]"
    values = [800, "800", 800.0, True, "true", None, "null", "a/b", "a_b", "a:b", "", [], "[]", {"a": 1}, "x" * 300]
    names = [run_name({"A": value, "B": "y" * 300}) for value in values]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or len(name) > 220]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a SLURM file of the given text, as if dask-jobqueue were installed."""
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: name)

    def start(text: str) -> slurm.SlurmConfig:
        (tmp_path / "slurm.yml").write_text(text)
        return slurm.read_slurm(str(tmp_path / "slurm.yml"))

    return start


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("cores: 1", "no n_workers"),
        ("{n_workers: 0, cores: 1}", "n_workers=0: .*greater than 0"),
        ("{n_workers: 2, cores: 8}", "cores must equal processes"),
        ("{n_workers: 2, cores: 1, walltime: 24:00:00}", "walltime is read as 86400: put it in quotes"),
        ("n_workers", "valid dictionary"),
        ("[", "cannot be read as YAML"),
    ],
)
def test_a_slurm_file_that_cannot_work_is_refused(read, config, message):
    with pytest.raises(ValueError, match=message):
        read(config)


def test_a_slurm_file_gives_the_keyword_arguments(read):
    text = 'n_workers: 8\ncores: 1\njob_cpu: 8\nmemory: 64GB\nwalltime: "04:00:00"\njob_extra_directives: ["--gres=gpu:1"]'
    arguments = dict(n_workers=8, cores=1, job_cpu=8, memory="64GB", walltime="04:00:00")
    assert read(text).arguments() == arguments | {"job_extra_directives": ["--gres=gpu:1"]}
    assert read("{n_workers: 1, cores: 2, processes: 2}").arguments() == dict(n_workers=1, cores=2, processes=2)


def test_slurm_needs_its_package(monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install -c constraints.txt -e '.[slurm]'")):
        slurm.read_slurm("absent.yml")

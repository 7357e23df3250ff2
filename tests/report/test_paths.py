"""The repository's folders are found from anywhere, and the documented precedence holds."""

import subprocess
import sys

import pytest

from kvlib.lab.report import paths


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    for name in ("QWEN_MODEL_PATH", "VIDEO_PATH", "REPORT_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An imitation repository with a reader and a clip, and a working directory beside it."""
    repository = tmp_path / "repository"
    (repository / paths.DEFAULT_MODEL).mkdir(parents=True)
    (repository / paths.DEFAULT_VIDEO).parent.mkdir(parents=True, exist_ok=True)
    (repository / paths.DEFAULT_VIDEO).touch()
    monkeypatch.setattr(paths, "ROOT", repository)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return repository


def test_root_does_not_depend_on_the_working_directory(tmp_path):
    code = "import kvlib.lab.report.paths as p; print(p.ROOT)"
    seen = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == str(paths.ROOT)
    assert (paths.ROOT / "pyproject.toml").is_file()


def test_root_is_found_above_the_working_directory_when_installed_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "clone" / "kvlib").mkdir(parents=True)
    (tmp_path / "clone" / "pyproject.toml").touch()
    (tmp_path / "clone" / "notebooks").mkdir()
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "kvlib" / "paths.py"))
    monkeypatch.chdir(tmp_path / "clone" / "notebooks")
    assert paths.find_root() == tmp_path / "clone"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*make setup"):
        paths.find_root()


def test_the_reader_is_recognised_by_any_path_to_it(monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(paths.READER)
    for name in ("", "data/reader", "./data/reader/", str(paths.READER), str(tmp_path / "link"), paths.model_path("")):
        assert paths.is_reader(name), name
    for name in ("Qwen/Qwen2.5-VL-3B-Instruct", "nowhere", str(tmp_path), "a\0b"):
        assert not paths.is_reader(name), name
    monkeypatch.setenv("QWEN_MODEL_PATH", str(tmp_path))
    assert not paths.is_reader("") and paths.is_reader(str(paths.READER))


@pytest.mark.parametrize("default", ["", paths.DEFAULT_MODEL])
def test_the_environment_replaces_the_default_model(root, tmp_path, monkeypatch, default):
    assert paths.model_path(default) == str(root / paths.DEFAULT_MODEL)
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("QWEN_MODEL_PATH", str(tmp_path / "weights"))
    assert paths.model_path(default) == str(tmp_path / "weights")


def test_a_changed_parameter_beats_the_environment(root, tmp_path, monkeypatch):
    for name in ("weights", "others"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("QWEN_MODEL_PATH", str(tmp_path / "others"))
    assert paths.model_path(str(tmp_path / "weights")) == str(tmp_path / "weights")


def test_hub_ids_pass_through_but_mistyped_paths_do_not(root):
    assert paths.model_path("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    for wrong in ("data/raeder", "./weights", "weights", "/no/such", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="QWEN_MODEL_PATH"):
            paths.model_path(wrong)


def test_video_environment_and_errors(root, tmp_path, monkeypatch):
    assert paths.video_path("") == root / paths.DEFAULT_VIDEO
    (tmp_path / "mine.mp4").touch()
    monkeypatch.setenv("VIDEO_PATH", str(tmp_path / "mine.mp4"))
    assert paths.video_path(paths.DEFAULT_VIDEO) == tmp_path / "mine.mp4"
    with pytest.raises(FileNotFoundError, match="gone.mp4.*VIDEO_PATH"):
        paths.video_path("gone.mp4")


def test_relative_paths_are_looked_for_here_first_then_in_the_repository(root, tmp_path):
    (root / "both.mp4").touch()
    assert paths.video_path("both.mp4") == root / "both.mp4"
    (tmp_path / "elsewhere" / "both.mp4").touch()
    assert paths.video_path("both.mp4") == tmp_path / "elsewhere" / "both.mp4"


def test_report_path_is_a_file_or_a_folder(root, tmp_path, monkeypatch):
    assert paths.report_path("02") == paths.RESULTS / "02_report.txt"
    assert paths.report_path("02", "results/small") == root / "results/small/02_report.txt"
    assert paths.budgets_path("results/small") == root / "results/small/budgets.json"
    assert paths.executed_path("02") == paths.RESULTS / "02.ipynb"
    assert paths.executed_path("02", "results/small") == root / "results/small/02.ipynb"
    monkeypatch.setenv("REPORT_PATH", str(tmp_path / "reports"))
    assert paths.report_path("02", "results/small") == tmp_path / "reports/02_report.txt"
    assert paths.executed_path("02", "results/small") == tmp_path / "reports/02.ipynb"
    monkeypatch.setenv("REPORT_PATH", str(tmp_path / "mine.txt"))
    assert paths.report_path("02") == tmp_path / "mine.txt"
    assert paths.budgets_path() == tmp_path / "budgets.json"


def test_figures_of_a_run_leave_the_committed_folder_alone(root):
    assert paths.figure_dir() == paths.RESULTS / "figures" != paths.FIGURES
    assert paths.figure_dir("results/small") == root / "results/small"


def test_shown_paths_do_not_name_the_machine(root, tmp_path):
    assert paths.shown(root / "data/reader") == "data/reader"
    assert paths.shown(str(root / "data/reader")) == "data/reader"
    assert paths.shown(tmp_path / "mine.mp4") == str(tmp_path / "mine.mp4")
    assert paths.shown(4) == 4

"""The repository's folders, and the model, video and output paths of a run.

nbmake runs a notebook in the notebook's folder, papermill in the caller's. So no path in a notebook is relative to the
working directory: every path goes through this module.

Precedence for the model and the video, highest first: a parameter changed from its default, the environment variable
(`QWEN_MODEL_PATH`, `VIDEO_PATH`), the embedded default. An empty parameter counts as the default.
"""

import os
from pathlib import Path

DEFAULT_MODEL = "data/reader"
DEFAULT_VIDEO = "data/clips/lyrics.mp4"


def find_root() -> Path:
    """The repository's folder: the one that holds this package, or else the nearest at or above the working directory.

    Raises FileNotFoundError when kvlib is installed elsewhere and the working directory is outside a repository.
    """
    cwd = Path.cwd()
    for folder in (Path(__file__).resolve().parents[3], cwd, *cwd.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "kvlib").is_dir():
            return folder
    raise FileNotFoundError(
        f"no kvlib repository at or above {cwd}: start from inside a clone, or install it with `make setup`"
    )


ROOT = find_root()
DATA = ROOT / "data"
READER = ROOT / DEFAULT_MODEL
CLIP = ROOT / DEFAULT_VIDEO
FIGURES = ROOT / "figures"  # committed; no run writes there
RESULTS = ROOT / "results"


def model_path(parameter: str = "") -> str:
    """The checkpoint directory to load, absolute; a Hugging Face Hub id (`owner/name`) is returned as it is.

    Raises FileNotFoundError when the path names no directory.
    """
    chosen = _choose(parameter, DEFAULT_MODEL, "QWEN_MODEL_PATH")
    path = resolve(chosen)
    if path.is_dir():
        return str(path)
    if _is_hub_id(chosen):
        return chosen
    raise FileNotFoundError(
        f"no model directory at {path}: give MODEL_PATH or QWEN_MODEL_PATH the folder that holds config.json and "
        f"*.safetensors, or leave them empty for the embedded reader ({DEFAULT_MODEL})"
    )


def is_reader(parameter: str) -> bool:
    """Whether a parameter MODEL_PATH, or what `model_path` makes of it, names the embedded reader; raises nothing."""
    try:
        return Path(model_path(parameter)).resolve() == READER.resolve()
    except (OSError, ValueError, RuntimeError):  # of a folder that is not there, and of characters that no path has
        return False


def video_path(parameter: str = "") -> Path:
    """The video file to stream, absolute.

    Raises FileNotFoundError when the path names no file.
    """
    path = resolve(_choose(parameter, DEFAULT_VIDEO, "VIDEO_PATH"))
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"no video at {path}: give VIDEO_PATH a file that exists, or leave it empty for the embedded clip ({DEFAULT_VIDEO})"
    )


def report_path(experiment: str, output_dir: str = "") -> Path:
    """Where an experiment's text report goes; its JSON lies beside it with the suffix `.json`.

    `REPORT_PATH` wins over `output_dir`: a name that ends in `.txt` is the report itself, any other a folder for
    reports. Without it the report goes to `output_dir`, or to `results/` when that is empty.
    """
    target = os.environ.get("REPORT_PATH", "")
    if target.endswith(".txt"):
        return Path(target).expanduser().resolve()
    folder = Path(target).expanduser().resolve() if target else _folder(output_dir, RESULTS)
    return folder / f"{experiment}_report.txt"


def executed_path(experiment: str, output_dir: str = "") -> Path:
    """Where the executed copy of a notebook goes: beside its report, where `kvlib.lab.report.index` looks for it."""
    return report_path(experiment, output_dir).with_name(f"{experiment}.ipynb")


def figure_dir(output_dir: str = "") -> Path:
    """Where a run's figures go: `output_dir`, or `results/figures/` when that is empty."""
    return _folder(output_dir, RESULTS / "figures")


def budgets_path(output_dir: str = "") -> Path:
    """Where 02_oom_free stores the budgets it found safe: `budgets.json` beside the reports."""
    return report_path("budgets", output_dir).with_name("budgets.json")


def resolve(path: str | Path) -> Path:
    """An absolute path: relative ones are looked for in the working directory first, then in the repository."""
    path = Path(path).expanduser()
    return path.resolve() if path.exists() else (ROOT / path).resolve()


def shown(value):
    """`value` as a report or a figure shows it: a path inside the repository becomes relative to it."""
    if isinstance(value, (str, Path)):
        path = Path(value)
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(value)
    return value


def _choose(parameter: str, default: str, variable: str) -> str:
    if str(parameter) not in ("", default):
        return str(parameter)
    return os.environ.get(variable) or default


def _folder(output_dir: str, default: Path) -> Path:
    """Relative output folders lie in the repository, whatever the working directory."""
    return (ROOT / Path(output_dir).expanduser()).resolve() if output_dir else default


def _is_hub_id(name: str) -> bool:
    """`owner/name` that cannot be a mistyped path: no folder is called `owner`, neither here nor in the repository."""
    owner, slash, rest = name.partition("/")
    looks_right = bool(slash) and bool(rest) and "/" not in rest and not owner.startswith((".", "~"))
    return looks_right and bool(owner) and not resolve(owner).exists()

"""The notebooks' parameters: what is converted, what is refused in which words, and that every notebook checks its own."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest

from kvlib.lab.report import paths
from kvlib.lab.study.parameters import NOTEBOOKS, check_inputs, check_parameters

SINKS = dict(
    MODEL_PATH="data/reader", VIDEO_PATH="a.mp4", MAX_CACHE_TOKENS=500, POSITION_MODE="remap", CHUNK_FRAMES=[2, 4],
    HEIGHTS=[280], CHUNKS=5, GROUP_FRAMES=[2, 8], DROP_STATIC=[0.03], SEED=0, OUTPUT_DIR="",
)  # fmt: skip
OOM = dict(
    MODEL_PATH="", VIDEO_PATH="", MAX_CACHE_TOKENS=0, CHUNK_FRAMES=2, SAMPLE_FPS=2.0, POSITION_MODE="keep", DROP_STATIC=0.0,
    MEMORY_LIMIT_MB=0.0, HEIGHT=0, QUESTION="What?", MAX_NEW_TOKENS=60, SEED=0, OUTPUT_DIR="",
)  # fmt: skip
POLICIES = dict(
    MODEL_PATH="", VIDEO_PATH="", MAX_CACHE_TOKENS=1000, OTHER_BUDGETS=[250], POSITION_MODE="remap", LEAST_CHUNKS=8,
    MOST_CHUNKS=9, AGES=[1], STREAMS=3, CHUNK_FRAMES=2, SAMPLE_FPS=2, HEIGHT=0, DROP_STATIC=0, ASK_INTERVAL=20, SEED=0,
    OUTPUT_DIR="",
)  # fmt: skip
RECALL = dict(
    MODEL_PATH="", MAX_CACHE_TOKENS=500, CHUNKS=12, AGES=[2, 9], LONG_CHUNKS=20, LONG_AGES=[11], STREAMS=2, LONG_STREAMS=0,
    SEED=0, OUTPUT_DIR="",
)  # fmt: skip
VALID = {"06_recall": RECALL, "01_sink_detection": SINKS, "02_oom_free": OOM, "05_policy_comparison": POLICIES}


@pytest.mark.parametrize(
    ("notebook", "name", "value", "converted"),
    [
        ("01_sink_detection", "OUTPUT_DIR", 20261125, "20261125"),
        ("01_sink_detection", "OUTPUT_DIR", 0.5, "0.5"),
        ("01_sink_detection", "OUTPUT_DIR", True, "True"),
        ("01_sink_detection", "VIDEO_PATH", Path("a.mp4"), "a.mp4"),
        ("01_sink_detection", "CHUNKS", 3.0, 3),
        ("01_sink_detection", "CHUNKS", "3", 3),
        ("01_sink_detection", "CHUNK_FRAMES", 2, [2]),
        ("01_sink_detection", "CHUNK_FRAMES", (2, 4.0), [2, 4]),
        ("02_oom_free", "SAMPLE_FPS", 1, 1.0),
        ("02_oom_free", "QUESTION", 42, "42"),
        ("01_sink_detection", "HEIGHTS", 0, [0]),
        ("02_oom_free", "HEIGHT", 480.0, 480),
        ("02_oom_free", "DROP_STATIC", 0, 0.0),
        ("05_policy_comparison", "DROP_STATIC", "0.03", 0.03),
        ("01_sink_detection", "GROUP_FRAMES", 8, [8]),
        ("01_sink_detection", "DROP_STATIC", 0, [0.0]),
        ("01_sink_detection", "DROP_STATIC", [0.01, "0.03"], [0.01, 0.03]),
        ("05_policy_comparison", "OTHER_BUDGETS", [], []),
        ("05_policy_comparison", "OTHER_BUDGETS", 250, [250]),
    ],
)
def test_values_are_converted_to_the_types_that_the_notebook_needs(notebook, name, value, converted):
    found = getattr(check_parameters(notebook, **VALID[notebook] | {name: value}), name)
    assert found == converted and type(found) is type(converted)


WHOLE = "give a whole number of at least"


@pytest.mark.parametrize(
    ("notebook", "name", "value", "remedy"),
    [
        ("01_sink_detection", "CHUNKS", 2.5, f"{WHOLE} 2"),
        ("01_sink_detection", "CHUNKS", "1e3", f"{WHOLE} 2"),
        ("01_sink_detection", "SEED", True, f"{WHOLE} 0"),
        ("01_sink_detection", "HEIGHTS", [True], "give a list of different whole numbers of at least 0"),
        ("02_oom_free", "SAMPLE_FPS", True, "give a positive number of frames per second"),
        ("01_sink_detection", "CHUNKS", 1, f"{WHOLE} 2"),
        ("01_sink_detection", "CHUNKS", float("inf"), f"{WHOLE} 2"),
        ("01_sink_detection", "MAX_CACHE_TOKENS", 0, f"{WHOLE} 1"),
        ("01_sink_detection", "SEED", -1, f"{WHOLE} 0"),
        ("01_sink_detection", "HEIGHTS", [], "give a list of different whole numbers of at least 0"),
        ("01_sink_detection", "HEIGHTS", [280, 280], "give a list of different whole numbers of at least 0"),
        ("01_sink_detection", "HEIGHTS", [280, "tall"], "give a list of different whole numbers of at least 0"),
        ("01_sink_detection", "OUTPUT_DIR", None, "give a text"),
        ("01_sink_detection", "OUTPUT_DIR", ["a"], "give a text"),
        ("01_sink_detection", "POSITION_MODE", "Remap", "give one of 'keep', 'remap', 'compact', 'unrotated'"),
        ("02_oom_free", "SAMPLE_FPS", 0, "give a positive number of frames per second"),
        ("02_oom_free", "SAMPLE_FPS", float("nan"), "give a positive number of frames per second"),
        ("02_oom_free", "SAMPLE_FPS", float("inf"), "give a positive number of frames per second"),
        ("02_oom_free", "MEMORY_LIMIT_MB", -1, "give a number of MiB of at least 0"),
        ("02_oom_free", "HEIGHT", -1, f"{WHOLE} 0"),
        ("05_policy_comparison", "HEIGHT", 1.5, f"{WHOLE} 0"),
        ("02_oom_free", "DROP_STATIC", 1, "give a share of full scale, from 0 (keeps all tokens) to below 1"),
        ("02_oom_free", "DROP_STATIC", True, "give a share of full scale, from 0 (keeps all tokens) to below 1"),
        ("05_policy_comparison", "DROP_STATIC", -0.01, "give a share of full scale, from 0 (keeps all tokens) to below 1"),
        (
            "05_policy_comparison",
            "DROP_STATIC",
            float("nan"),
            "give a share of full scale, from 0 (keeps all tokens) to below 1",
        ),
        ("01_sink_detection", "GROUP_FRAMES", [2, 3], "give a list of different even numbers of at least 2"),
        ("01_sink_detection", "GROUP_FRAMES", [0], "give a list of different even numbers of at least 2"),
        ("01_sink_detection", "DROP_STATIC", [], "give a list of different numbers, each a share of full scale, from 0"),
        ("01_sink_detection", "DROP_STATIC", [0.03, 1], "give a list of different numbers, each a share of full scale, from 0"),
        ("02_oom_free", "QUESTION", " \n", "give a text that is not blank"),
        ("05_policy_comparison", "AGES", list(range(1, 10)), "give a list of 1 to 8 different whole numbers of at least 1"),
        ("05_policy_comparison", "AGES", 0, "give a list of 1 to 8 different whole numbers of at least 1"),
        ("05_policy_comparison", "MOST_CHUNKS", 7, "give at least LEAST_CHUNKS=8"),
        ("05_policy_comparison", "OTHER_BUDGETS", [250, 1000], "leave out MAX_CACHE_TOKENS=1000"),
        ("06_recall", "AGES", [2, 11], "give ages below 11, for CHUNKS=12"),
        ("06_recall", "LONG_AGES", [19], "give ages below 19, for LONG_CHUNKS=20"),
        ("06_recall", "AGES", [1, 2, 3, 4, 5, 6, 7, 8], "give at most 7, so that one colour is never shown"),
        ("06_recall", "LONG_AGES", [9], "give one of at least 10"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_with_name_value_and_remedy(notebook, name, value, remedy):
    with pytest.raises(ValueError) as caught:
        check_parameters(notebook, **VALID[notebook] | {name: value})
    message = str(caught.value)
    assert message.startswith(f"{notebook}: {name}={value!r}: ") and remedy in message
    assert "\n" not in message


def test_unknown_and_missing_parameters_and_several_mistakes_are_named_together():
    with pytest.raises(ValueError) as caught:
        check_parameters("01_sink_detection", **SINKS | {"CHUNK": 2, "CHUNKS": 0, "SEED": "x"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("CHUNK=2 is not a parameter: choose from MODEL_PATH" in line for line in lines)
    less = {name: value for name, value in SINKS.items() if name != "SEED"}
    with pytest.raises(ValueError, match="^01_sink_detection: SEED is missing: give a whole number of at least 0$"):
        check_parameters("01_sink_detection", **less)
    with pytest.raises(ValueError, match="notebook='06_new' has no parameters: choose one of 01_sink_detection"):
        check_parameters("06_new")


INPUTS = dict(MODEL_PATH="", VIDEO_PATH="data/clips/short.mp4", SEED=0, OUTPUT_DIR="")


def asking(**changes) -> dict:
    """Parameters of 05 with the short clip: 12 chunks of 2 frames."""
    return POLICIES | INPUTS | dict(ASK_INTERVAL=12) | changes


def test_inputs_that_are_there_are_accepted(monkeypatch):
    monkeypatch.setattr("transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained", None)  # no weights are read
    for notebook, values in (("01_sink_detection", SINKS | INPUTS), ("02_oom_free", OOM | INPUTS)):
        check_inputs(check_parameters(notebook, **values))
    check_inputs(check_parameters("05_policy_comparison", **asking()))


def test_inputs_that_cannot_be_used_are_named(tmp_path):
    def refused(kind, match: str, **changes):
        with pytest.raises(kind, match=match):
            check_inputs(check_parameters("05_policy_comparison", **asking(**changes)))

    refused(ValueError, r"ASK_INTERVAL=13: .*only 12 chunks", ASK_INTERVAL=13)
    refused(FileNotFoundError, "no model directory at", MODEL_PATH=str(tmp_path / "nowhere"))
    refused(FileNotFoundError, "no video at", VIDEO_PATH=str(tmp_path / "nowhere.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    refused(ValueError, r"text\.mp4", VIDEO_PATH=str(tmp_path / "text.mp4"))
    shutil.copy(paths.DATA / "clips/short.mp4", tmp_path / "own.mp4")
    check_inputs(check_parameters("05_policy_comparison", **asking(VIDEO_PATH=str(tmp_path / "own.mp4"), ASK_INTERVAL=99)))
    (tmp_path / "own.srt").write_text("1\n00:00:00,000 --> no time\nA\n")
    refused(ValueError, r"own\.srt", VIDEO_PATH=str(tmp_path / "own.mp4"))


def test_a_report_gets_the_parameters_that_were_used():
    used = check_parameters("01_sink_detection", **SINKS).for_report(VIDEO_PATH="/clips/a.mp4")
    assert used == {k: v for k, v in SINKS.items() if k not in ("SEED", "OUTPUT_DIR")} | {"VIDEO_PATH": "/clips/a.mp4"}


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def literals(source: str) -> dict:
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def test_every_notebook_has_its_parameters_here():
    assert set(NOTEBOOKS) == {path.stem for path in (paths.ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_checks_all_its_parameters_and_uses_none_unchecked(notebook):
    first, second, *later = code_cells(paths.ROOT / f"notebooks/{notebook}.ipynb")
    values = literals(first.source)
    check_parameters(notebook, **values)
    check_parameters(notebook, **values | first.metadata.nbmake["mock"])
    (call,) = [
        node
        for node in ast.walk(ast.parse(second.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_parameters"
    ]
    assert {word.arg: word.value.id for word in call.keywords} == {name: name for name in values}
    assert second.source.index("check_parameters(\n") < second.source.index("runs.load("), "checked before the model loads"
    for source in (second.source.replace(ast.get_source_segment(second.source, call), "None"), *(c.source for c in later)):
        tree = ast.parse(source)
        own = {a.arg for node in ast.walk(tree) if isinstance(node, ast.Lambda) for a in node.args.args}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not (used & set(values)) - own, "use the checked value: settings.NAME"

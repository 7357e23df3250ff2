"""What the READMEs say of cards, frame sizes and times is what `kvlib doctor` would calculate and what was measured."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import SHAPES_OF_SISTERS

from kvlib.lab import doctor
from kvlib.lab.report import paths
from kvlib.lab.video import calibration

sys.path.insert(0, str(paths.ROOT / "benchmarks"))

import shapes  # noqa: E402

RESULTS = paths.ROOT / "benchmarks/results"
CUDA = SimpleNamespace(type="cuda")  # weights and cache in bf16, without a GPU
OTHERS = 0.7 * 2**30  # bytes: a card of 24 GB leaves 23.3 GiB
COLUMNS = {"Qwen2.5-VL 3B": "3b", "Qwen2.5-VL 7B": "7b"}
COLUMNS |= {SHAPES_OF_SISTERS[shape]: shape for shape in ("qwen2-2b", "qwen3-2b", "qwen3-4b", "qwen3-8b")}
MEASURED = {
    ("Qwen2.5-VL 3B", "H200"): "h200_3b", ("Qwen2.5-VL 3B", "H100"): "h100_3b", ("Qwen2.5-VL 7B", "H200"): "h200_7b",
} | {(name, "H100"): f"h100_{shape}" for shape, name in SHAPES_OF_SISTERS.items()}  # fmt: skip
SIZES = {"1920 x 1080": (1080, 1920), "1280 x 720": (720, 1280), "854 x 480": (480, 854), "448 x 252": (252, 448)}


def rows(name: str, first: str) -> list[list[str]]:
    """The rows of a README's table whose first heading is `first`, the headings among them."""
    lines = (paths.ROOT / name).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end] if not line.startswith("| ---")]


def shape(name: str):
    made = shapes.processor(name)
    return shapes.config(name, made.tokenizer), made


def budget(name: str, card: int, monkeypatch) -> int:
    """The budget that `kvlib doctor` would name on a card of so many GB, rounded down to thousands."""
    monkeypatch.setattr(doctor, "free_bytes", lambda device: int(card * 2**30 - OTHERS))
    config, _ = shape(name)
    return doctor.tokens_beside_weights(config, CUDA) // 1000 * 1000


def test_what_fits_on_a_card_is_what_doctor_calculates(monkeypatch):
    (_, *names), (_, *weights), *cards = rows("README.md", "card")
    assert names == list(COLUMNS) and [row[0] for row in cards] == ["12 GB", "16 GB", "24 GB", "48 GB", "80 GB"]
    for number, name in enumerate(names, 1):
        config, _ = shape(COLUMNS[name])
        assert weights[number - 1] == f"{2 * doctor.count_parameters(config) / 2**30:.1f} GiB"
        for card, *cells in cards:
            fits = budget(COLUMNS[name], int(card.split()[0]), monkeypatch)
            assert cells[number - 1] == (f"{fits:,} tokens" if fits else "does not fit"), (name, card)


@pytest.mark.parametrize("name", ["h200_3b", *(f"h100_{shape}" for shape in SHAPES_OF_SISTERS)])
def test_less_is_named_than_was_measured_to_fit(name, monkeypatch):
    largest = json.loads((RESULTS / f"{name}.json").read_text())["largest"]["kvlib"]
    assert 0 < budget(name.split("_")[1], 24, monkeypatch) < largest


def test_minutes_in_the_cache_follow_from_tokens_and_budgets(monkeypatch):
    _, *sizes = rows("README.md", "frames")
    assert [row[0] for row in sizes] == list(SIZES)
    for frames, tokens, *minutes in sizes:
        config, processor = shape("3b")
        _, made, _ = calibration.chunk_tokens(config, processor, (4, *SIZES[frames]))
        assert tokens == f"{made:,}"
        assert minutes == [f"{budget(name, 24, monkeypatch) / made * 2 / 60:.1f}" for name in ("3b", "7b")]


def test_an_hour_of_video_takes_what_was_measured():
    _, *measured = rows("README.md", "shapes and card")
    assert {tuple(row[0].split(", ")) for row in measured} == set(MEASURED)
    for name, frames, tokens, peak, hour in measured:
        found = json.loads((RESULTS / f"{MEASURED[tuple(name.split(', '))]}.json").read_text())
        most = int(tokens.replace(",", ""))
        if frames == "1920 x 1080, 2 a second":
            run = next(run for run in found["runs"] if (run["method"], run["tokens"]) == ("kvlib", most))
            assert found["chunk"]["frames"] == [4, 1080, 1920]
            seconds, taken = run["seconds"]["chunk"] / 2, run["peak_bytes"]
        else:
            assert frames == "448 x 252, 8 a second"
            stream = next(stream for stream in found["long_streams"] if stream["frames"] == [8, 252, 448])
            assert stream["budget"] == most
            seconds, taken = stream["late_seconds"], max(stream["own_peak_bytes"].values())
        assert hour == f"{seconds * 60:.1f} min" and peak == f"{taken / 2**30:.1f} GiB", name


@pytest.mark.parametrize("first", ["card", "frames", "shapes and card"])
def test_the_chinese_tables_have_the_same_numbers(first):
    chinese = {"card": "显卡", "frames": "帧", "shapes and card": "模型结构和显卡"}[first]
    english, other = rows("README.md", first)[1:], rows("README.zh.md", chinese)[1:]
    assert [[digits(cell) for cell in row] for row in english] == [[digits(cell) for cell in row] for row in other]


def digits(cell: str) -> list[str]:
    return sorted("".join(c if c.isdigit() or c in ".," else " " for c in cell.replace("，", " ")).replace(", ", " ").split())


def test_the_index_of_torch_is_of_the_pinned_version():
    readme = (paths.ROOT / "README.md").read_text()
    version = torch.__version__.split("+")[0]
    assert f"`make setup` installs torch {version} from PyPI" in readme and f"torch=={version}+cu126" in readme
    used = {json.loads((RESULTS / f"{file}.json").read_text())["versions"]["torch"] for file in MEASURED.values()}
    assert used == {"2.11.0"} and f"measured with torch 2.11.0, not with the pinned {version}" in " ".join(readme.split())


def test_the_limit_and_the_default_budget_are_those_of_the_code():
    from kvlib.lab.options import MODEL_BUDGET
    from kvlib.lab.study.budgets import CARD_LIMIT

    readme = " ".join((paths.ROOT / "README.md").read_text().split())
    assert f"The default budget is {MODEL_BUDGET:,} tokens" in readme
    assert f"its default is {CARD_LIMIT / 2**30:.1f} GiB" in readme

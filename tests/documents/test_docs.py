"""What stands beside the code: both languages say the same, links lead somewhere, and hooks and CI run what `make` runs."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from pathlib import PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from kvlib.evictor import POSITION_MODES
from kvlib.lab.figures import recipes
from kvlib.lab.report.paths import ROOT

ENGLISH, CHINESE, GLOSSARY = "README.md", "README.zh.md", "docs/glossary.md"
PAIRS = [(ENGLISH, CHINESE), ("docs/own_video.md", "docs/own_video.zh.md"), ("docs/commands.md", "docs/commands.zh.md")]
OTHERS = [GLOSSARY, "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "data/README.md", "data/reader/README.md"]
DOCUMENTS = [*(name for pair in PAIRS for name in pair), *OTHERS]
TERMS = [
    "Chunk", "Temporal grid", "Merged patch", "Sink", "Window", "History", "Budget", "Position gap", "M-RoPE", "Re-rotation",
    "Snapshot", "Fingerprint", "Prefill", "Decode", "TTFT", "CER", "L1, L2, L3", "Position modes", "Archive, recall",
    "Embedded reader", "Criterion",
]  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(^|\s+)#.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# With a percent sign, a thousands separator or a decimal point; no part of a name such as Qwen2.5.
NUMBER = re.compile(r"(?<![A-Za-z0-9.,_])(?:\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+(?=%))%?(?![0-9])")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    return FENCE.sub("", text(name))


def loaded(name: str) -> dict:
    return yaml.safe_load(text(name))


def pictures(name: str) -> list[str]:
    return [first or second for first, second in re.findall(r'!\[[^\]]*\]\(([^)\s]+)\)|<img src="([^"]+)"', prose(name))]


def targets(name: str) -> set[str]:
    """What a document links to, without places in a page; what is in both languages counts by its English name."""
    links = {target.split("#")[0].replace(".zh.md", ".md").replace("_zh.png", ".png") for target in LINK.findall(prose(name))}
    return links - {"", PurePosixPath(name.replace(".zh.md", ".md")).name}


def slugs(name: str) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_document_is_known():
    found = {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    assert found <= set(DOCUMENTS), "a new page belongs to DOCUMENTS, in both languages to PAIRS"


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_have_the_same_headings(first, second):
    english, chinese = (re.findall(r"^(#+) \S", prose(name), re.MULTILINE) for name in (first, second))
    assert len(english) > 2
    assert english == chinese


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_have_the_same_code_apart_from_comments(first, second):
    english, chinese = ([COMMENT.sub("", block) for block in FENCE.findall(text(name))] for name in (first, second))
    assert len(english) > 1
    assert english == chinese


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_link_the_same_files_and_show_the_same_pictures_each_in_its_language(first, second):
    assert [in_chinese(picture) for picture in pictures(first)] == pictures(second)
    assert targets(first) == targets(second)


def in_chinese(picture: str) -> str:
    return picture if "/screenshots/" in picture else picture.replace(".png", "_zh.png")


def test_every_chinese_picture_has_its_english_one_and_git_keeps_those_that_are_shown():
    for folder in ("figures", "benchmarks"):
        drawn = list((ROOT / folder).rglob("*_zh.png"))
        assert drawn and all(path.with_name(path.name.replace("_zh", "")).is_file() for path in drawn)
    kept = {line.removeprefix("!/") for line in text(".gitignore").splitlines() if line.startswith("!/")}
    assert kept == {picture for picture in pictures(CHINESE) if picture.endswith("_zh.png")}


@pytest.mark.parametrize("picture", [picture for picture in pictures(CHINESE) if picture.endswith("_zh.png")])
def test_a_chinese_picture_is_drawn_from_the_present_data(picture):
    path = ROOT / picture
    drawn_from = json.loads(Image.open(path).text["Description"])["data"]
    name = path.stem.removesuffix("_zh")
    if picture.startswith("figures/"):
        assert drawn_from == recipes.digest(name, path.parent), "draw it again: FIGURE_LANG=zh make figures"
    else:
        expected = hashlib.sha256(path.with_name(f"{name}.json").read_bytes()).hexdigest()
        assert drawn_from == expected, "draw it again: FIGURE_LANG=zh .venv/bin/python benchmarks/draw.py"


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_give_the_same_numbers(first, second):
    english, chinese = (Counter(NUMBER.findall(prose(name))) for name in (first, second))
    assert english == chinese


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_name_the_same_options_and_files(first, second):
    english, chinese = ({" ".join(code.split()) for code in re.findall("`([^`]+)`", prose(name))} for name in (first, second))
    assert {code for code in english ^ chinese if "<" not in code} == set(), "a place for a name, <...>, is translated"


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_both_languages_have_tables_of_the_same_shape(first, second):
    english, chinese = ([row.count(" | ") for row in prose(name).splitlines() if row[:1] == "|"] for name in (first, second))
    assert english == chinese


def test_the_readme_has_pictures_and_numbers():
    assert len(pictures(ENGLISH)) > 3 and len(NUMBER.findall(prose(ENGLISH))) > 100


def test_the_readme_begins_with_what_it_is_for_one_picture_two_commands_and_what_is_not_shown():
    start, *sections = prose(ENGLISH).split("\n## ")
    asked = [
        "kvlib streams a video",
        "figures/full_size/06_recall.png",
        "Two commands",
        "What is not shown",
        "results/index.html",
        GLOSSARY,
    ]
    assert sorted(asked, key=start.index) == asked and start.count("![") + start.count("<img ") == 1
    assert [section.splitlines()[0] for section in sections] == [
        "Your own video and card", "What was found", "Notebooks", "In ten lines", "Other projects", "What is missing",
        "How to cite", "License",
    ]  # fmt: skip


def test_numbers_are_found_in_either_language():
    for found in (
        "a 95% interval of 1,000 to 12.5%, 7.4 times. Qwen2.5-VL, 200.",
        "95%区间为1,000至12.5%，是7.4倍。Qwen2.5-VL，200。",
    ):
        assert NUMBER.findall(found) == ["95%", "1,000", "12.5%", "7.4"]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_first_line_leads_to_the_other_language(first, second):
    for name, other in ((first, second), (second, first)):
        assert f"]({PurePosixPath(other).name})" in text(name).splitlines()[0]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_to_files(name):
    assert [picture for picture in pictures(name) if not ((ROOT / name).parent / picture).is_file()] == []
    links = [target.partition("#") for target in LINK.findall(prose(name)) if ":" not in target]
    assert [target for target, _, _ in links if not ((ROOT / name).parent / target).exists()] == []
    for target, _, place in links:
        page = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert not place or place in slugs(page.relative_to(ROOT).as_posix()), f"{target}#{place}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_of_the_code_that_are_named_exist(name):
    named = re.findall(r"`((?:kvlib|tests|notebooks|data|benchmarks|figures|docs)/[\w./-]*)`", prose(name))
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_glossary_explains_every_term_and_says_where_it_is_used():
    entries = dict(re.findall(r"^\*\*(.+?)\.\*\* (.*?)(?=^\*\*|^## |\Z)", text(GLOSSARY), re.MULTILINE | re.DOTALL))
    assert set(TERMS) <= entries.keys()
    for term in TERMS:
        assert "`kvlib/" in entries[term] or "otebook 04" in entries[term], term
    assert all(f"`{mode}`" in entries["Position modes"] for mode in POSITION_MODES)


@pytest.mark.parametrize("name", [ENGLISH, CHINESE, "CONTRIBUTING.md"])
def test_the_glossary_is_linked(name):
    assert f"]({GLOSSARY})" in text(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_go_through_the_console_command(name):
    assert "python -m kvlib" not in text(name)


def test_make_targets_that_are_named_exist():
    known = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    named = {target for name in DOCUMENTS for target in re.findall(r"`make ([a-z]+)`", text(name))}
    assert {"test", "figures"} <= named <= known


def test_the_citation_is_of_this_version():
    citation = loaded("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), "the format demands these"
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert citation["version"] == PROJECT["version"]


def test_hooks_use_the_pinned_tools_of_the_environment():
    (source,) = loaded(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local", "a repository of hooks would bring versions of its own"
    pins = {r.name: r for r in map(Requirement, PROJECT["optional-dependencies"]["test"])}
    commands = {hook["id"]: hook["entry"].split() for hook in source["hooks"]}
    assert {hook["language"] for hook in source["hooks"]} == {"system"}
    assert commands["ruff-check"][:2] == [".venv/bin/ruff", "check"]
    assert commands["ruff-format"][:2] == [".venv/bin/ruff", "format"]
    assert commands["nbstripout"] == [".venv/bin/nbstripout", "--keep-id"], "without it ids of cells would be numbered anew"
    for program, *_ in commands.values():
        (pin,) = pins[program.removeprefix(".venv/bin/")].specifier
        assert pin.operator == "=="


def test_ci_runs_the_tests_and_the_workbook():
    workflow = loaded(".github/workflows/test.yml")
    assert {"push", "pull_request"} <= workflow[True].keys(), "YAML 1.1 reads the key `on` as true"
    commands = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in workflow["jobs"].items()}
    assert commands == {"test": ["make test"], "workbook": ["make workbook"]}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", s["uses"]) for s in job["steps"] if "uses" in s)
    uploads = [s for s in workflow["jobs"]["workbook"]["steps"] if "upload-artifact" in s.get("uses", "")]
    assert [s["with"]["path"] for s in uploads] == ["results/"]


def test_ci_tests_versions_of_python_that_we_support():
    versions = loaded(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert versions == ["3.11", "3.13"], "as text: the number 3.10 would be 3.1"
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0") for version in versions)

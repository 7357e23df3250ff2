"""The Dockerfile, read and not run: its commands, packages and files are those of the project."""

import json
import re
import shlex
import tomllib

from packaging.specifiers import SpecifierSet

from kvlib.lab.report.paths import ROOT

LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
STEPS = [line.split(None, 1) for line in LINES if line and not line.startswith("#")]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
GUIDES = [ROOT / "docs" / name for name in ("own_video.md", "own_video.zh.md")]


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def settings() -> dict[str, str]:
    return dict(word.split("=", 1) for line in values("ENV") for word in shlex.split(line))


def test_its_python_is_one_that_we_support():
    (image,) = values("FROM")
    version = re.search(r"python:(3\.\d+)-slim$", image).group(1)
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(supported).contains(f"{version}.0")


def test_it_installs_what_the_readme_asks_for_and_what_provenance_reads():
    install = next(line for line in values("RUN") if "apt-get install" in line)
    assert {"make", "git"} <= set(re.search(r"--no-install-recommends (.*?) \$", install).group(1).split())


def test_it_runs_make_targets_that_exist():
    ran = [line for line in values("RUN") if line.startswith("make")]
    assert ran == ["make setup"]
    (command,) = map(json.loads, values("CMD"))
    assert command == ["make", "workbook"] and {"setup", "workbook"} <= TARGETS


def test_all_files_are_copied_before_the_environment_is_made():
    order = [name for name, value in STEPS if (name, value) in {("COPY", ". ."), ("RUN", "make setup")}]
    assert order == ["COPY", "RUN"]


def test_what_is_left_out_is_not_committed():
    left_out = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    ignored = (ROOT / ".gitignore").read_text()
    for pattern in left_out:
        name = pattern.removeprefix("**/").rsplit("/", 1)[-1]
        assert name in ignored, pattern
    assert ".git" not in left_out, "reports name the commit"


def test_torch_comes_from_the_index_of_the_chosen_build():
    assert values("ARG") == ["TORCH=cpu"]
    assert settings()["PIP_EXTRA_INDEX_URL"] == "https://download.pytorch.org/whl/$TORCH"


def test_jupyterlab_is_reached_from_outside_and_its_options_reach_jupyter():
    assert settings()["LAB"].split() == ["--ip=0.0.0.0", "--no-browser"]
    recipe = re.search(r"jupyter lab results(.*?)\n\n", (ROOT / "Makefile").read_text(), re.DOTALL).group(1)
    assert "$(LAB)" in recipe and "--ip" not in recipe, "outside a container only this machine is listened to"


def test_the_guides_mount_the_results_and_publish_the_port_to_this_machine_only():
    (folder,), (port,) = values("WORKDIR"), values("EXPOSE")
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        runs = re.findall(r"^docker run .*$", text, re.MULTILINE)
        assert runs and all(f'-v "$PWD/results:{folder}/results"' in run for run in runs)
        assert f"-p 127.0.0.1:{port}:{port}" in text
        assert set(re.findall(r"kvlib make ([a-z]+)", text)) <= TARGETS

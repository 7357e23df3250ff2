"""pyproject.toml, constraints.txt, environment.yml and what is installed agree; torchvision stays out."""

import importlib.metadata as metadata
import os
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kvlib.lab.report.paths import ROOT

FORBIDDEN = ("torchvision", "torchaudio")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def version_of(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "==", f"{requirement} is not an exact pin"
    assert "*" not in pin.version and "+" not in pin.version, f"{requirement} is not a plain version"
    return pin.version


def lock() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): version_of(r) for r in requirements}


def needed(requirements: list[Requirement]) -> set[str]:
    """Names of everything the installed metadata says these requirements pull in on this platform."""
    found, todo = set(), [(r, extra) for r in requirements for extra in {"", *r.extras}]
    while todo:
        requirement, extra = todo.pop()
        key = (canonicalize_name(requirement.name), extra)
        if key in found:
            continue
        found.add(key)
        for line in metadata.requires(requirement.name) or []:
            child = Requirement(line)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                todo += [(child, e) for e in {"", *child.extras}]
    return {name for name, _ in found}


def test_torch_is_pinned_as_agreed():
    assert lock()["torch"] == "2.13.0"


def test_direct_pins_equal_the_lock():
    assert {canonicalize_name(r.name): version_of(r) for r in DIRECT}.items() <= lock().items()


def test_the_lock_holds_everything_needed_and_nothing_forbidden():
    names = needed(DIRECT)
    assert len(names) > len(DIRECT), "the walk over the metadata found no indirect dependency"
    # torch's GPU builds pull more on Linux (nvidia-*, cuda-*, triton); the lock leaves those to torch's own exact pins.
    gpu = ("nvidia", "cuda", "triton")
    assert not [name for name in names - lock().keys() if not name.startswith(gpu)]
    assert not [name for name in lock() if name.startswith(gpu)]
    assert not [name for name in names | lock().keys() if name.startswith(FORBIDDEN)]


@pytest.mark.parametrize("name", sorted(lock()))
def test_installed_versions_equal_the_lock(name):
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not needed on this platform")
    assert installed.split("+")[0] == lock()[name]


def test_conda_installs_the_same_project_from_the_same_lock():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[test]"]
    conda = [d for d in dependencies if isinstance(d, str)]
    assert conda == ["python=3.11", "pip"], "everything but Python comes from the lock, through pip"
    assert "-c constraints.txt -e '.[test]'" in (ROOT / "Makefile").read_text()


def test_the_conda_python_is_one_we_support():
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11.0")


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    code = "import kvlib, os; print(os.environ['OMP_WAIT_POLICY'])"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected

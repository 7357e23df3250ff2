"""The commit, the versions and the device are those of the run."""

import importlib.metadata
import subprocess

import torch

from kvlib.lab.report import paths, provenance


def test_git_state_follows_the_repository_but_not_its_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert provenance.git_state() == {"commit": None, "dirty": None}

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert provenance.git_state() == {"commit": None, "dirty": None}
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    assert len(provenance.git_state()["commit"]) == 40
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "new.pdf").touch()
    assert provenance.git_state()["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert provenance.git_state()["dirty"] is True


def test_versions_are_those_of_the_installed_packages():
    assert provenance.versions()["torch"] == importlib.metadata.version("torch")


def test_kvlib_need_not_be_installed(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert provenance.versions()["kvlib"] == "not installed"


def test_a_cpu_is_named_with_its_threads():
    named = provenance.device_name("cpu")
    assert named.startswith("cpu (") and named.endswith(f", {torch.get_num_threads()} threads)")
    assert provenance.device_name(torch.device("cpu")) == named

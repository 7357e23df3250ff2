"""Rules that keep the code readable: what `import kvlib` loads, private names, lengths of files and of folders.

Which module may import which is written down in pyproject.toml and checked by lint-imports.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvlib.lab.report.paths import ROOT

LABORATORY = {
    "pandas", "matplotlib", "ipywidgets", "dask", "distributed", "statsmodels", "seaborn", "papermill", "jupyterlab", "typer",
}  # fmt: skip
READABLE = {"_sink_chunks", "_avg_chunk_tokens", "_first_chunk_recorded"}  # of the evictor: existing scripts read them
MOST_LINES, MOST_FILES = 300, 12
CODE = [path for top in ("kvlib", "tests", "benchmarks", "data") for path in sorted((ROOT / top).rglob("*.py"))]
MODULES = {str(path.relative_to(ROOT)): path.read_text() for path in CODE if path.is_relative_to(ROOT / "kvlib")}


def test_the_engine_loads_nothing_of_the_laboratory():
    code = "import sys\nfrom kvlib import *\nprint('EvictionConfig' in dir(), *{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True" and "torch" in found
    assert set(found) & LABORATORY == set()


def test_public_names_are_found_and_others_are_not():
    import kvlib

    assert set(kvlib.__all__) <= set(dir(kvlib))
    for name in kvlib.__all__:
        assert getattr(kvlib, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'kvlib' has no attribute 'Absent'"):
        _ = kvlib.Absent


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, and attributes that it sets on `self` or `cls`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_itself(node):
            found.add(node.attr)
    return {name for name in found if private(name)}


def of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every private name that is imported, or read from anything but `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and not of_itself(node):
            yield node.lineno, node.attr


def private_names_of_others(modules: dict[str, str]) -> list[str]:
    """The lines of `modules` {path: source} that use a private name which only other modules of these define."""
    trees = {path: ast.parse(source) for path, source in modules.items()}
    names = {path: defined(tree) for path, tree in trees.items()}
    everywhere = set().union(*names.values())
    return [
        f"{path}:{line} {name}"
        for path, tree in trees.items()
        for line, name in sorted(uses(tree))
        if name in everywhere - names[path] - READABLE
    ]


def test_private_names_stay_in_their_module():
    assert private_names_of_others(MODULES) == []


def test_private_names_of_others_are_found():
    a = "def _f(): pass\nclass C:\n    def g(self): self._x = self._sink_chunks = 1\n    def h(self, other): return other._x"
    b = "from a import _f\nimport a\na._f()\nc._x\nc._sink_chunks\nself._x\ntorch._private"
    assert private_names_of_others({"a": a, "b": b}) == ["b:1 _f", "b:3 _f", "b:4 _x"]


def test_no_file_is_too_long():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in CODE}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_no_folder_has_too_many_files():
    folders: dict[Path, int] = {}
    for path in CODE:
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(path.relative_to(ROOT)): count for path, count in folders.items() if count > MOST_FILES} == {}

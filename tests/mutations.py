"""Break the engine on purpose, one fault at a time, and see whether a test notices:

    .venv/bin/python tests/mutations.py            # all; writes tests/mutations.md
    .venv/bin/python tests/mutations.py "slack 0"  # some, by name

Each fault is put into a copy of the project, in which the tests named beside it run until the first one fails. That takes
about 25 minutes on two cores; `make test` does not do it.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 600  # a test that hangs has noticed


@dataclass(frozen=True)
class Mutation:
    """A fault of `mutations.toml`, which says what the fields mean."""

    name: str
    file: str
    before: str
    after: str
    tests: str
    note: str = ""


MUTATIONS = [Mutation(**fault) for fault in tomllib.loads((ROOT / "tests/mutations.toml").read_text())["fault"]]


def outcome(mutation: Mutation) -> tuple[str, float]:
    """The first test that fails with this fault, "survived" or "timed out", and the seconds it took."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("kvlib", "tests", "pyproject.toml", "data", "benchmarks"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        broken = copy / "kvlib" / mutation.file
        broken.write_text(broken.read_text().replace(mutation.before, mutation.after))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        command += [f"tests/{name}.py" for name in mutation.tests.split()]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "timed out", time.perf_counter() - began
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        return "survived", seconds
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (failed[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("ERROR ") if failed else done.stdout[-300:]), seconds


def check_is_current(mutation: Mutation) -> None:
    """Raise ValueError unless the text to be replaced stands in its file exactly once."""
    count = (ROOT / "kvlib" / mutation.file).read_text().count(mutation.before)
    if count != 1:
        raise ValueError(f"{mutation.name!r}: its text stands {count} times in kvlib/{mutation.file}; write it anew")


def main(names: list[str]) -> int:
    if unknown := set(names) - {mutation.name for mutation in MUTATIONS}:
        raise SystemExit(f"no such fault in tests/mutations.toml: {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    for mutation in chosen:
        check_is_current(mutation)
    rows = []
    with ThreadPoolExecutor(2) as pool:
        for mutation, (found, seconds) in zip(chosen, pool.map(outcome, chosen), strict=True):
            noticed_by = f"survived: {mutation.note}" if found == "survived" else found
            rows.append(f"| {mutation.name} | `{mutation.file}` | {noticed_by} |")
            print(f"{mutation.name}: {found} ({seconds:.0f} s)", flush=True)
    survivors = [row for row in rows if "| survived" in row]
    head = f"{len(rows) - len(survivors)} of {len(rows)} faults are noticed. Written by `tests/mutations.py`."
    if not names:
        table = "\n".join(["| fault | file | noticed by |", "| --- | --- | --- |", *rows])
        (ROOT / "tests/mutations.md").write_text(f"# Faults put into the engine on purpose\n\n{head}\n\n{table}\n")
    print(head)
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

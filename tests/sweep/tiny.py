"""A small notebook for sweeps, made of these cells."""

import nbformat

PARAMETERS = """
TOKENS = 1
MODE = "keep"
BUDGETS = []
FLAGS = ""
OUTPUT_DIR = ""
"""
MARK = """
from pathlib import Path
print("tokens", TOKENS)
(Path(FLAGS) / f"started {TOKENS} {MODE}").touch()
"""
REPORT = """
from kvlib.lab.report.report import Report
report = Report("tiny", dict(TOKENS=TOKENS, MODE=MODE), 0, "cpu", OUTPUT_DIR)
report.measure("constant", 7)
report.measure("accuracy", TOKENS / 10 + (MODE == "remap"), n=20, interval=(0.0, 2.0), unit="share")
report.measure("answer", "yes")
report.check("P1", "few tokens", TOKENS, TOKENS < 2)
report.write()
"""
QUICK_REPORT = """
import json
measured = [{"name": "tokens", "value": TOKENS, "n": None, "interval": None, "unit": "tokens"}]
Path(OUTPUT_DIR, "tiny_report.json").write_text(json.dumps({"measurements": measured, "criteria": []}))
"""
FAIL_ONCE = """
if TOKENS == 2 and not (Path(FLAGS) / "repaired").exists():
    raise ValueError(f"{TOKENS} tokens are too many")
"""
WAIT = """
import time
time.sleep(60)
"""


def notebook(folder, *cells: str):
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    made.metadata["language_info"] = {"name": "python"}
    made.cells = [nbformat.v4.new_code_cell(source, id=f"cell{i}") for i, source in enumerate((PARAMETERS, *cells))]
    made.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(made, folder / "tiny.ipynb")
    return folder / "tiny.ipynb"

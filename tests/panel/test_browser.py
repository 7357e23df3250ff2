"""The live panel as its user has it: JupyterLab in a real browser, the notebook run, a question asked while the stream runs.

The README's picture is made by
    SCREENSHOT=figures/screenshots/dashboard.png .venv/bin/python -m pytest tests/panel/test_browser.py
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import expect, sync_playwright

from kvlib.lab.report import paths

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}
PATIENCE = 180  # seconds for what a busy machine does slowly
VIEW = {"width": 1150, "height": 1150}  # pixels

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it, on Debian `apt-get install chromium`")


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with nobody's settings on `03.ipynb` with small parameters; gives its address."""
    notebook = load_notebook_node(str(paths.ROOT / "notebooks" / "03_periodic_ask.ipynb"))
    small = notebook.cells[1].metadata["nbmake"]["mock"]
    small |= {"OUTPUT_DIR": str(tmp_path / "results"), "MAX_CACHE_TOKENS": 500}  # the clip is over it soon
    notebook = parameterize_notebook(notebook, small, kernel_name="python3", language="python")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}  # without it Lab asks for a kernel
    nbformat.write(notebook, tmp_path / "03.ipynb")
    for plugin, values in SETTINGS.items():
        path = tmp_path / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    own = {
        name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    own["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, tmp_path / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/03.ipynb?token=secret&reset"
    finally:
        server.terminate()  # its kernels end with it
        server.wait(60)


def wait_for(address: str, server, log: Path) -> None:
    for _ in range(PATIENCE * 5):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *quiet])
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        yield page
        browser.close()


def test_a_question_is_answered_while_the_stream_runs(lab, page):
    page.goto(lab)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()  # what is run before is lost
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.get_by_text("Run All Cells", exact=True).click()
    start = to_the_panel(page)
    assert "ready" in page.locator(".jp-OutputArea").last.inner_text()

    video = page.get_by_label("video", exact=True)
    video.fill("data/clips/lyrics.mp4")
    video.press("Tab")
    start.click()
    said = page.get_by_text("running: ")
    expect(said).to_be_visible()
    expect(page.locator(".film img.evicted").first).to_be_attached()

    ask(page, "What is the title of this video?")
    answers = page.locator("table.answers")
    expect(answers).to_contain_text("of Long Ago")
    expect(said).to_be_visible()  # it goes on
    then = chunks(said)
    expect(said).not_to_contain_text(f": {then} of ")
    assert chunks(said) > then

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("paused: ")).to_be_visible()
    ask(page, "What text is on screen now?")
    expect(answers.locator("tbody tr")).to_have_count(2)
    if "SCREENSHOT" in os.environ:
        page.keyboard.press("Control+b")  # without the list of files
        answers.scroll_into_view_if_needed()
        page.wait_for_timeout(2000)
        page.screenshot(path=os.environ["SCREENSHOT"])
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("stopped: ")).to_be_visible()


def to_the_panel(page):
    """Scroll to the last cell, which is drawn only there, once it has run; its button "Start"."""
    start = page.locator("button.jupyter-button", has_text="Start")
    end = time.monotonic() + PATIENCE
    while not start.is_visible():
        assert time.monotonic() < end, page.locator(".jp-Notebook").inner_text()
        page.locator(".jp-WindowedPanel-outer").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
        page.wait_for_timeout(500)
    return start


def ask(page, question: str) -> None:
    field = page.get_by_label("question", exact=True)
    field.fill(question)
    field.press("Tab")
    page.get_by_role("button", name="Ask").click()


def chunks(said) -> int:
    """How many chunks the panel says it has watched."""
    return int(said.inner_text().split()[1])

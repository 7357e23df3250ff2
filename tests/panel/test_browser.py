"""The live panel as its user has it: JupyterLab in a real browser, the panel of a notebook used in every way.

All tests use one page, one after the other; each begins by stopping what runs.

The README's picture is made by
    SCREENSHOT=figures/screenshots/dashboard.png .venv/bin/python -m pytest tests/panel/test_browser.py
"""

import json
import os
import re
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
PATIENCE = 25  # seconds for what a busy machine does slowly
VIEW = {"width": 1150, "height": 1150}  # pixels
LYRICS = "data/clips/lyrics.mp4"
ASK_IN_A_CELL = """
import threading
print("threads of streams:", sum(thread.name == "kvlib-stream" for thread in threading.enumerate()))
while panel.state == "running":
    panel.stream.ask("What text is on screen now?")
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it, on Debian `apt-get install chromium`")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab with nobody's settings on `03.ipynb` with small parameters; gives its address."""
    folder = tmp_path_factory.mktemp("lab")
    write_notebook(folder)
    for plugin, values in SETTINGS.items():
        path = folder / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/03.ipynb?token=secret&reset"
    finally:
        server.terminate()  # its kernels end with it
        server.wait(60)


def write_notebook(folder: Path) -> None:
    """03 with small parameters, without the cells between its settings and its panel. The panel is called `panel`, and a
    further cell asks it questions until it is interrupted."""
    notebook = load_notebook_node(str(paths.ROOT / "notebooks" / "03_periodic_ask.ipynb"))
    small = notebook.cells[1].metadata["nbmake"]["mock"]
    small |= {"OUTPUT_DIR": str(folder / "results"), "MAX_CACHE_TOKENS": 500}  # the clip is over it soon
    notebook = parameterize_notebook(notebook, small, kernel_name="python3", language="python")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}  # without it Lab asks for a kernel
    *settings, made = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [*settings[:3], *(cell for cell in notebook.cells if cell.cell_type == "markdown"), made]
    made.source = re.sub(r"^Dashboard\(.*", r"panel = \g<0>\npanel", made.source, flags=re.MULTILINE)
    assert made.source.endswith("\npanel")
    notebook.cells.append(nbformat.v4.new_code_cell(ASK_IN_A_CELL))
    nbformat.write(notebook, folder / "03.ipynb")


def wait_for(address: str, server, log: Path) -> None:
    for _ in range(PATIENCE * 5):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def page(lab):
    """The notebook, run in a browser, with the panel in view."""
    with sync_playwright() as playwright:
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *quiet])
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        page.goto(lab)
        ready = page.get_by_text("Python 3 (ipykernel) | Idle")
        expect(ready).to_be_visible(timeout=4000 * PATIENCE)  # what is run before is lost
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.get_by_text("Run All Cells", exact=True).click()
        to_the_panel(page)
        expect(said(page)).to_contain_text("ready")
        yield page
        browser.close()


@pytest.fixture(autouse=True)
def nothing_moves(page):
    """Every test begins with nothing running, and its controls must stand at its end where they stood."""
    if button(page, "Stop").is_enabled():
        button(page, "Stop").click()
    fill(page, "video", LYRICS)
    fill(page, "budget", "500")
    expect(button(page, "Start")).to_be_enabled()
    before = places(page)
    yield
    assert places(page) == before


def test_a_question_is_answered_while_the_stream_runs(page):
    button(page, "Start").click()
    expect(said(page)).to_contain_text("running: ")
    expect(page.locator("img.evicted").first).to_be_attached()

    ask(page, "What is the title of this video?")
    answers = page.locator("table.answers")
    expect(answers).to_contain_text("of Long Ago")
    expect(said(page)).to_contain_text("running: ")  # it goes on
    then = chunks(page)
    expect(said(page)).not_to_contain_text(f": {then} of ")
    assert chunks(page) > then

    button(page, "Pause").click()
    expect(said(page)).to_contain_text("paused: ")
    ask(page, "What text is on screen now?")
    expect(answers.locator("tbody tr")).to_have_count(2)
    if "SCREENSHOT" in os.environ:
        page.keyboard.press("Control+b")  # without the list of files
        page.wait_for_timeout(2000)
        page.screenshot(path=os.environ["SCREENSHOT"])
        page.keyboard.press("Control+b")
        page.wait_for_timeout(1000)
    button(page, "Stop").click()
    expect(said(page)).to_contain_text("stopped: ")


def test_a_wrong_path_is_named_below_its_field_until_it_is_mended(page):
    fill(page, "video", "<b>nowhere</b>.mp4")
    error = page.locator(".widget-html", has_text="<b>nowhere</b>.mp4")  # as text: it is escaped
    expect(error).to_be_visible()
    field, shown = page.get_by_label("video", exact=True).bounding_box(), error.bounding_box()
    assert 0 <= shown["y"] - (field["y"] + field["height"]) < 10
    button(page, "Start").click()
    expect(error).to_be_visible()
    fill(page, "video", LYRICS)
    expect(error).to_have_count(0)
    button(page, "Start").click()
    expect(said(page)).to_contain_text("running: ")


def test_settings_that_change_during_a_pause_are_those_of_the_next_start(page):
    button(page, "Start").click()
    expect(said(page)).to_contain_text("running: ")
    button(page, "Pause").click()
    expect(said(page)).to_contain_text("paused: ")
    fill(page, "budget", "400")
    expect(page.get_by_text("budget: from the next start")).to_be_visible()
    title = page.locator(".kvlib-title")
    expect(title).to_contain_text("budget 500")
    then = chunks(page)
    button(page, "Continue").click()
    expect(said(page)).to_contain_text("running: ")
    expect(said(page)).not_to_contain_text(f": {then} of ")
    assert chunks(page) > then, "it goes on where it was"
    expect(title).to_contain_text("budget 500")
    button(page, "Stop").click()
    expect(said(page)).to_contain_text("stopped: ")
    button(page, "Start").click()
    expect(title).to_contain_text("budget 400")


def test_two_clicks_on_start_and_interrupts_leave_one_stream(page):
    """Interrupts of the kernel while a cell waits for an answer, and while nothing but the stream runs."""
    button(page, "Start").dblclick()
    expect(said(page)).to_contain_text("running: ")
    cell = page.locator(".jp-Notebook .jp-CodeCell").last
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-OutputArea")).to_contain_text("threads of streams: 1")
    for _ in range(2):
        page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
        page.get_by_text("Interrupt Kernel", exact=True).click()
        expect(cell.locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")
    to_the_panel(page)
    expect(said(page)).to_contain_text("running: ")
    then = chunks(page)
    expect(said(page)).not_to_contain_text(f": {then} of ")
    ask(page, "What is the title of this video?")
    expect(page.locator("table.answers tbody tr").first).to_contain_text("What is the title of this video?")


def test_with_dropping_the_pictures_show_all_grids_of_their_chunks(page):
    fill(page, "video", "data/clips/short.mp4")
    fill(page, "frames/chunk", "8")
    fill(page, "drop static", "0.03")
    button(page, "Start").click()
    expect(said(page)).to_contain_text("finished: 3 of 3 chunks")
    assert int(re.search(r"stored, ([\d,]+) dropped", said(page).inner_text())[1].replace(",", "")) > 0
    expect(page.locator("img[title^='chunk']")).to_have_count(3)
    sizes = page.locator("img[title^='chunk']").evaluate_all("all => all.map(one => [one.naturalWidth, one.naturalHeight])")
    assert sizes == [[4 * 72 + 3 * 2, 36]] * 3, "four grids of 36 x 72 pixels, and gaps"
    fill(page, "frames/chunk", "2")
    fill(page, "drop static", "0")


def test_a_stop_in_a_question_and_a_second_stream(page):
    fill(page, "video", "data/clips/short.mp4")
    button(page, "Start").click()
    expect(said(page)).to_contain_text("finished: 12 of 12 chunks")
    ask(page, "What is the title of this video?")
    expect(page.locator("table.answers")).to_contain_text("Clip")
    fill(page, "video", LYRICS)
    button(page, "Start").click()
    expect(said(page)).to_contain_text("running: ")
    expect(said(page)).not_to_contain_text("running: 0 ")  # there is something to ask about
    expect(page.locator("table.answers")).to_have_count(0)
    ask(page, "What is the title of this video?")
    button(page, "Stop").click()
    expect(said(page)).to_contain_text("stopped: ")
    expect(page.locator("table.answers tbody tr")).to_have_count(1)
    page.wait_for_timeout(500)  # the chunk that was being processed is counted behind the answer
    then = chunks(page)
    page.wait_for_timeout(1500)
    assert chunks(page) == then, "it has ended"
    expect(button(page, "Ask")).to_be_enabled()


def to_the_panel(page) -> None:
    """Scroll to the end, which is drawn only there, and until the panel's first field is in view."""
    field = page.get_by_label("model", exact=True)
    end = time.monotonic() + PATIENCE
    while not field.is_visible():
        assert time.monotonic() < end, page.locator(".jp-Notebook").inner_text()
        page.locator(".jp-WindowedPanel-outer").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
        page.wait_for_timeout(500)
    field.evaluate("field => field.scrollIntoView({block: 'start'})")


def button(page, name: str):
    return page.locator("button.jupyter-button", has_text=name)


def said(page):
    """The line that says what state the panel is in."""
    return page.locator(".widget-html", has_text=re.compile("(ready|loading|running|paused|finished|stopped|failed): ")).first


def fill(page, name: str, text: str) -> None:
    field = page.get_by_label(name, exact=True)
    field.fill(text)
    field.press("Tab")


def ask(page, question: str) -> None:
    fill(page, "question", question)
    button(page, "Ask").click()


def chunks(page) -> int:
    """How many chunks the panel says it has processed."""
    return int(said(page).inner_text().split()[1])


def places(page) -> dict[str, float]:
    """The height of the controls and of the plot, counted from the first field."""
    first = page.get_by_label("model", exact=True).bounding_box()["y"]
    parts = {name: button(page, name) for name in ("Pause", "Stop", "Ask")} | {"plot": page.locator(".kvlib-plot")}
    for part in parts.values():
        expect(part).to_be_visible()  # a plot that is just drawn anew has no box
    return {name: round(part.bounding_box()["y"] - first) for name, part in parts.items()}

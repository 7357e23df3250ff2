"""The page of results in a real browser: pictures are shown, and nothing is wider than the window, whatever the texts."""

import shutil

import matplotlib.figure
import pytest
from playwright.sync_api import sync_playwright

from kvlib.lab.report import index
from kvlib.lab.report.report import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it, on Debian `apt-get install chromium`")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with a page of one run with long texts, and a figure; elsewhere than the page that is opened."""
    folder = tmp_path_factory.mktemp("results")
    report = Report("02_oom_free", {"MODEL_PATH": "/models/" + "m" * 200}, 0, "cpu", str(folder))
    report.check("P1", "a criterion in words " * 20, "x" * 300, False)
    report.conclude("A conclusion. " * 60)
    report.write()
    (folder / "data").mkdir()
    (folder / "data" / "02_memory.json").write_text('{"caption": "Memory"}')
    matplotlib.figure.Figure(figsize=(9, 4)).savefig(folder / "02_memory.png", dpi=210)
    index.write_index(folder, folder)
    return folder


@pytest.mark.parametrize("width", [1200, 420])
def test_the_page_alone_shows_its_pictures_and_fits_the_window(results, tmp_path, width):
    shutil.copy(results / "index.html", tmp_path)  # as it is when somebody gets it by mail
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(f"file://{tmp_path}/index.html")
        assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [1890]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        heads = page.locator("h1, h2").all_inner_texts()
        assert heads == ["Results of kvlib", "Conclusions", "Criteria", "Figures", "What each run was made with"]
        assert page.locator("h2").first.bounding_box()["y"] < 900, "conclusions are in sight"

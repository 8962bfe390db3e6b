"""`erase-plugins ui` and a Space, started as people start them and driven in a browser."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests.comfy_nodes.comfy_server import own_port
from tests.hub.page import CHROMIUM

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("ERASE_GRADIO_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="needs an interpreter with Gradio in ERASE_GRADIO_PYTHON"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def hub():
    """A Hub on this machine, which the page publishes to."""
    from erase_plugins.testing.hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def address(tmp_path_factory, hub):
    """The page of `erase-plugins ui`, started on pocket."""
    place = tmp_path_factory.mktemp("ui")
    where = next(Path(item) for item in os.sys.path if (Path(item) / "erase_plugins-0.1.0.dist-info").is_dir())
    env = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{where}", "GRADIO_ANALYTICS_ENABLED": "False",
        "OMP_NUM_THREADS": "1", "TMPDIR": str(place / "passing"), **hub.environment(place / "home"),
    }  # fmt: skip
    (place / "passing").mkdir()
    port = own_port()
    words = ("-m", "erase_plugins.cli.main", "ui", "--port", str(port), "--no-browser", "--device", "cpu",
             "--images", "2", "--budget", "38")  # fmt: skip
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([PYTHON, *words], cwd=place, env=env, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                assert process.poll() is None, (place / "log").read_text()
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/config", timeout=5).read()
                    break
                time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(30)
    assert not list((place / "passing").rglob("*.png")), "what was drawn does not stay behind the page"
    said = (place / "log").read_text()
    assert f"the page is at {address}" in said
    assert "Traceback" not in said, "what people type wrongly is no fault of the program"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


def shot(page, tmp_path, name):
    """A picture of the page, kept where ERASE_SCREENSHOTS says."""
    page.screenshot(path=str(Path(os.environ.get("ERASE_SCREENSHOTS", tmp_path)) / f"ui_{name}.png"), full_page=True)


def picture(url):
    return Image.open(io.BytesIO(urllib.request.urlopen(url).read())).convert("RGB")


def test_a_concept_is_typed_and_the_pair_seen(address, browser, tmp_path):
    import erase_plugins as ep
    from erase_plugins.evaluation.sheet import enlarged

    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}?prompt=a+cat+on+a+table&seed=4&concept=cat")
    page.get_by_label("Forget").wait_for()
    there = "[...document.querySelectorAll('textarea, input')].some(item => item.value === 'a cat on a table')"
    page.wait_for_function(there)  # the address says it
    for _ in range(3):  # begun and left
        page.get_by_role("button", name="Draw before and after").click()
        page.reload()
        page.wait_for_function(there)
    page.get_by_role("button", name="Draw before and after").click()
    shown = page.locator("[data-testid=imageslider] img, .slider-wrap img, .image-container img")
    shown.nth(1).wait_for(timeout=180_000)
    page.wait_for_timeout(1500)
    urls = list(dict.fromkeys(page.evaluate("[...document.images].map(item => item.src)")))
    found = [picture(url).tobytes() for url in urls if "/file=" in url]
    made = ep.erase("pocket", "cat", "uce")
    for artifacts in ([], [made]):
        expected = enlarged(ep.generate("pocket", "a cat on a table", artifacts, seeds=4)[0])
        assert expected.tobytes() in found, "three requests that broke off have left nothing behind"
    shot(page, tmp_path, "drawn")
    values = page.evaluate("[...document.querySelectorAll('textarea, input')].map(item => item.value)")
    assert "?concept=cat&prompt=a+cat+on+a+table&seed=4&strength=1" in values, values
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("tab", name="Publish").click()
    page.get_by_label("Repository").fill("me/no-cat")
    page.get_by_label("Licence").fill("mit")
    page.get_by_role("button", name="Show what would be sent").click()
    page.get_by_text("adapter_config.json").wait_for(timeout=60_000)
    shot(page, tmp_path, "published")
    page.get_by_label("Forget").fill(" ")
    page.get_by_role("button", name="Draw before and after").click()
    said = page.get_by_text(re.compile("write what the model should forget"))
    said.wait_for(timeout=20_000)
    page.get_by_role("tab", name="Save").click()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("write the folder that the files go to").wait_for(timeout=20_000)
    page.wait_for_timeout(1000)  # a message fades out
    assert said.count() == 0, "the message about what was asked before stands there still"
    page.get_by_role("button", name="Draw before and after").click()
    said.wait_for(timeout=20_000)
    page.wait_for_timeout(1000)
    assert page.get_by_test_id("toast-close").count() == 1
    assert errors == []
    page.close()


def test_what_is_typed_before_the_page_is_ready_stays(address, browser):
    page = browser.new_page()
    held = []
    page.route("**/queue/join*", lambda route: held.append(route))  # the page asks what its address says
    page.goto(address)
    page.get_by_label("Forget").fill("owl")
    page.wait_for_timeout(500)
    assert held, "the page asked nothing when it was opened"
    with page.expect_response("**/queue/data*"):
        for route in held:
            route.continue_()
    page.wait_for_timeout(1500)
    assert page.get_by_label("Forget").input_value() == "owl"
    page.close()


def test_a_report_goes_only_with_the_words_it_is_about(address, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(address)
    page.get_by_label("Forget").fill("fox")
    page.get_by_role("tab", name="Measure").click()
    page.get_by_role("button", name="Measure").click()
    page.get_by_text("target rate").first.wait_for(timeout=240_000)
    page.get_by_role("tab", name="Publish").click()
    page.get_by_label("Repository").fill("tester/none")
    page.get_by_role("button", name="Show what would be sent").click()
    page.get_by_text("report.json").first.wait_for(timeout=60_000)
    page.get_by_label("Forget").fill("🦊")  # the model has no token for it
    page.get_by_role("button", name="Draw before and after").click()
    page.get_by_text(re.compile("no token")).first.wait_for(timeout=120_000)
    page.get_by_label("Forget").fill("dog")
    page.get_by_role("button", name="Draw before and after").click()
    page.get_by_text(re.compile("without dog")).first.wait_for(timeout=120_000)
    page.get_by_role("button", name="Show what would be sent").click()
    page.get_by_text("No numbers go with it").wait_for(timeout=60_000)
    assert page.get_by_text("report.json").count() == 0
    page.close()


def test_measuring_and_attacking_are_seen_to_finish(address, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_label("Forget").fill("owl")
    page.get_by_role("tab", name="Measure").click()
    page.get_by_role("button", name="Measure").click()
    page.get_by_text("target rate").first.wait_for(timeout=240_000)
    shown = page.locator("body").inner_text()
    assert re.search(r"100 ?%", shown) and re.search(r"\b0 ?%", shown), shown
    shot(page, tmp_path, "measured")
    page.get_by_role("tab", name="Attack").click()
    page.get_by_role("button", name="Attack").click()
    page.get_by_text("pictures were drawn for it").wait_for(timeout=240_000)
    shot(page, tmp_path, "attacked")
    assert errors == []
    page.close()

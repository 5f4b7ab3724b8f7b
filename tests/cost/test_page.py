"""The report's page in a browser."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from onnxsparse.cost.estimate import Deployment
from onnxsparse.cost.report.html import html
from onnxsparse.cost.sparsity_sweep import curves
from tests.cli.test_netron import CHROMIUM, FLAGS, needs_browser


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page: Page, tmp_path: Path, detector: Deployment, width: int) -> None:
    """Opens offline, draws a bar per layer, sorts, filters, and its table sums to the tile."""
    text = html(detector, "small.onnx", curves(detector.load, detector.backend))
    assert len(text) < 5_000_000
    (tmp_path / "r.html").write_text(text)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((tmp_path / "r.html").as_uri())
    page.wait_for_selector("#figure-knee svg")
    assert page.locator("#figure-latency svg .mark-rect path").count() == len(detector.rows)
    cells = page.locator("td[data-column=latency_ms]")
    shown = [float(value) for value in cells.evaluate_all("cells => cells.map(c => c.dataset.value)")]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == pytest.approx(float(page.locator("#total-latency_ms").inner_text()), abs=1e-3)
    page.locator("th[data-column=node] button").click()
    names = page.locator("td[data-column=node]").all_inner_texts()
    assert names == sorted(names, reverse=True)
    page.locator("#filter").fill("stage2")
    assert all("stage2" in name for name in page.locator("td[data-column=node]").all_inner_texts())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = "[...document.querySelectorAll('.figure')].filter(f => f.scrollWidth > f.clientWidth).map(f => f.id)"
    assert page.evaluate(cut_off) == []
    assert not complaints


@needs_browser
def test_measured_time_of_no_layer_is_in_the_sum_below_the_tile(page: Page, tmp_path: Path, detector: Deployment) -> None:
    (tmp_path / "r.html").write_text(html(replace(detector, other_ms=1.0), "small.onnx", ()))
    page.goto((tmp_path / "r.html").as_uri())
    assert page.locator("#sum").inner_text().endswith(f" {page.locator('#total-latency_ms').inner_text()} ms")

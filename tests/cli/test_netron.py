"""What a person sees who opens an annotated model in Netron, in headless Chromium."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import netron
import onnx
import pytest
from playwright.sync_api import Page, sync_playwright

from onnxsparse import Annotate, Model, Prune, load
from onnxsparse.analysis.layer import NODE_KEYS
from onnxsparse.annotations import COST_KEYS
from onnxsparse.cli.netron_view import for_viewing
from onnxsparse.pipeline.base import StepReport
from tests.graphs import node, proto

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

# Netron takes window.eval away, which the driver needs
KEEP_EVAL = "(() => { const kept = window.eval; Object.defineProperty(window, 'eval', {get: () => kept, set: () => {}}); })()"

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x conv.weight", "c", name="conv1"),
        node("Relu", "c", "r", name="relu1"),
        node("Flatten", "r", "f", name="flat"),
        node("Gemm", "f fc.weight", "y", name="fc", transB=1),
    ]
    return proto(nodes, {"x": "1x3x8x8"}, ["y"], {"conv.weight": "8x3x3x3", "fc.weight": "5x288"})


@pytest.fixture
def pruned() -> Model:
    built = Model.from_proto(network())
    Prune(sparsity_op=0.5, protect="none").run(built)
    return built


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.add_init_script(KEEP_EVAL)
        yield opened
        browser.close()


@pytest.fixture
def served(tmp_path: Path, pruned: Model) -> Iterator[str]:
    """The address at which `onnxsparse view` shows the pruned model."""
    pruned.save(tmp_path / "m.onnx")
    command = [sys.executable, "-c", "from onnxsparse.cli.app import run; run()", "view", str(tmp_path / "m.onnx"), "--no-browse"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(text for text in process.stdout if "http://" in text)
    yield line.split()[line.split().index("at") + 1].rstrip(";")
    process.terminate()
    process.wait()


def click(page: Page, name: str) -> str:
    """Click a node's title and return what the side bar says."""
    page.locator(f'[id="node-name-{name}"] .node-item-type').first.click()
    page.wait_for_selector("#sidebar >> text=Node Properties")
    return page.locator("#sidebar").inner_text() + " ".join(
        box.input_value() for box in page.locator("#sidebar input").all() if box.is_visible()
    )


def open_model(page: Page, address: str) -> None:
    page.goto(address)
    page.click("text=Accept")
    page.wait_for_selector('[id="node-name-conv1"]')


@needs_browser
@pytest.mark.parametrize("name", ["conv1", "fc"])
def test_a_click_shows_the_annotations(page: Page, served: str, pruned: Model, name: str) -> None:
    open_model(page, served)
    shown = click(page, name)
    assert "METADATA" in shown.upper()
    Annotate(backend="cv22").run(pruned)
    written = next(n for n in pruned.proto.graph.node if n.name == name)
    assert [e.key for e in written.metadata_props] == [*COST_KEYS, *NODE_KEYS]
    for entry in written.metadata_props:
        assert entry.value in shown, entry.key


@pytest.fixture
def empty() -> Iterator[str]:
    """The address of a Netron without a model, whose file dialog takes one."""
    host, port = netron.start(None, browse=False)
    yield f"http://{host}:{port}"
    netron.stop((host, port))


@needs_browser
def test_an_attachment_lays_metrics_over_the_untouched_model(page: Page, empty: str, pruned: Model, tmp_path: Path) -> None:
    side_file = tmp_path / "facts.json"
    report: StepReport = Annotate(side_file=side_file).run(pruned)
    with side_file.open("wb") as file:
        report.artifacts[side_file](file)
    pruned.save(tmp_path / "plain.onnx")
    page.goto(empty)
    page.click("text=Accept")
    page.set_input_files("#open-file-dialog", [tmp_path / "plain.onnx"])
    page.wait_for_selector('[id="node-name-conv1"]')
    page.set_input_files("#open-file-dialog", [side_file])
    page.wait_for_timeout(1000)
    shown = click(page, "conv1")
    assert "METRICS" in shown.upper()
    assert "METADATA" not in shown.upper()
    assert "7.78 k" in shown


def test_heat_ranks_nodes_by_name(pruned: Model) -> None:
    shown = for_viewing(pruned, heat=True, target="cv22")
    names = [n.name for n in shown.proto.graph.node]
    assert names == ["#2 overhead 49.9 % conv1", "relu1", "flat", "#1 overhead 50.1 % fc"]
    assert [n.name for n in pruned.proto.graph.node] == ["conv1", "relu1", "flat", "fc"]


def test_the_models_own_file_is_not_changed(served: str, tmp_path: Path) -> None:
    assert served.startswith("http://")
    assert not load(tmp_path / "m.onnx").proto.graph.node[0].metadata_props

"""The list of benchmarks, the one reader of a zoo's manifest, and the one table writer."""

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from benchmarks import __main__ as listing
from benchmarks.tables import saved, table
from benchmarks.zoo import int8
from benchmarks.zoo.int8_graph import counted
from benchmarks.zoo.runner import Entry, at_other_sizes, entries, sizes
from onnxsparse import Model, layers
from onnxsparse.passes.quantize import Quantize
from tests.graphs import chain, node, proto, weight


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two graphs: a chain of convolutions, and a network with open batch and sides."""
    onnx.save(chain(3, 8, 4), tmp_path / "b.onnx")
    onnx.save(proto([node("Conv", "x w", "y")], {"x": "Nx3xHxW"}, ["y"], {"w": "4x3x3x3"}), tmp_path / "a.onnx")
    found = [{"file": name, "run_shapes": {"x": [1, 3, 8, 8]}} for name in ("b.onnx", "a.onnx")]
    (tmp_path / "manifest.json").write_text(json.dumps(found))
    return tmp_path


def test_a_zoo_is_read_by_name_and_bound_to_sizes_that_run(zoo: Path) -> None:
    assert [entry.name for entry in entries(zoo)] == ["a.onnx", "b.onnx"]
    (entry,) = entries(zoo, "a.")
    assert entry.sizes == sizes({"x": [1, 3, 8, 8], "scalar": []}) == ["x=1x3x8x8"]
    assert layers(entry.load()).totals.macs == 4 * 3 * 3 * 3 * 6 * 6  # no padding: 8 − 2 rows and columns


def test_other_sizes_multiply_open_dimensions_alone(zoo: Path) -> None:
    """b has none; a's other sizes are 2x3x8x8 and 1x3x16x16, and 1x3x8x8 again is left out."""
    a, b = entries(zoo)
    assert at_other_sizes(b, b.path, ((2, 1),)) == ""
    assert at_other_sizes(a, a.path, ((2, 1), (1, 2), (1, 1))) == "2 of 2"
    assert at_other_sizes(a, b.path, ((2, 1), (1, 2))) == "0 of 2"


def test_a_table_has_empty_cells_for_what_is_unknown_and_no_bar_in_a_cell() -> None:
    assert table(("a", "b"), [(1, None), ("x|y", 0.5)]) == ["| a | b |", "|---|---|", "| 1 |  |", "| x/y | 0.5 |"]


@dataclass
class Numbered:
    number: int


def test_rows_are_in_the_file_before_the_next_one_is_made(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    found = [(row.number, json.loads(out.read_text())) for row in saved(map(Numbered, (7, 8)), out)]
    assert found == [(7, [{"number": 7}]), (8, [{"number": 7}, {"number": 8}])]


def test_a_graph_that_takes_too_long_does_not_count_as_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LIMIT_S", 0.01)
    line = int8.made_alone(tmp_path, Entry(tmp_path / "slow.onnx", "slow.onnx", {}))
    assert "fault" in int8.cells(int8.rows_of([line])[0])


def test_layers_in_integers_are_counted_in_what_quantize_says() -> None:
    """Two convolutions; x, what is between them, and y have scales."""
    model = Model.from_proto(chain(3, 8, 4))
    samples = [{"x": weight("1x3x8x8")}]
    found = counted(Quantize().run(model, samples), model)
    assert (found.layers, found.other_ops, found.values) == (2, 0, 3)


def test_every_benchmark_is_listed_with_a_line_and_says_how_it_is_run() -> None:
    found = listing.benchmarks()
    assert {"zoo/prune", "zoo/fold", "zoo/channels", "zoo/int8", "peers/int8", "accuracy/int8", "speed/steps"} <= set(found)
    for name, summary in found.items():
        assert summary.endswith("."), name
        assert f"benchmarks.{name.replace('/', '.')} " in (listing.FOLDER / f"{name}.py").read_text(), name


def test_a_name_that_no_benchmark_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "nothing"])
    with pytest.raises(SystemExit, match="no benchmark is called 'nothing'"):
        listing.main()

"""The peers' methods in benchmarks/peers/repair_methods.py, and what the benchmarks of repair measure on."""

import numpy as np
import pytest
import vl_convert

from benchmarks.accuracy.curves import COUNTS, TARGETS, Curves, figure
from benchmarks.accuracy.output_error import unrepaired
from benchmarks.peers import repair_methods
from benchmarks.peers.repair_methods import prune, sparsegpt, wanda
from benchmarks.speed.repair_growth import CHANNELS, SIDE, network
from onnxsparse import Model, layers
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner
from tests.graphs import chain, weight


def correlated(columns: int) -> np.ndarray:
    """Second moments of inputs that are sums of their neighbours."""
    x = np.random.default_rng(0).standard_normal((400, columns))
    x = x + 0.8 * np.roll(x, 1, axis=1)
    return x.T @ x / len(x)


def test_wanda_weighs_magnitudes_by_the_norm_of_their_input() -> None:
    """Norms 4 and 1: 1 · 4 is more than 3 · 1, and 0.5 · 4 less than 3 · 1."""
    found = wanda(np.array([[1.0, 3.0], [0.5, 3.0]]), np.diag([16.0, 1.0]), 0.5)
    assert found.tolist() == [[1, 0], [0, 3]]


def test_sparsegpt_is_magnitude_pruning_on_independent_inputs() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 10))
    smallest = np.argsort(np.abs(rows), axis=None)[:20]
    expected = rows.copy()
    expected.flat[smallest] = 0
    assert sparsegpt(rows, np.eye(10), 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("block", "blocks"), [(8, 4), (128, 1)])
def test_sparsegpt_makes_up_for_its_zeros_across_blocks(monkeypatch: pytest.MonkeyPatch, block: int, blocks: int) -> None:
    """The same zeros without an update cost more, and every block of columns has its share of them."""
    monkeypatch.setattr(repair_methods, "BLOCK", block)
    rows, hessian = np.random.default_rng(2).standard_normal((6, 32)), correlated(32)
    found = sparsegpt(rows, hessian, 0.5)
    parts = np.split(found == 0, range(block, 32, block), axis=1)
    assert [np.count_nonzero(part) for part in parts] == [6 * 32 // 2 // blocks] * blocks
    costs = [np.trace((each - rows) @ hessian @ (each - rows).T) for each in (found, np.where(found == 0, 0, rows))]
    assert costs[0] < 0.9 * costs[1], costs


@pytest.mark.parametrize("in_order", [True, False])
def test_every_layer_of_a_model_is_pruned_to_the_same_sparsity(in_order: bool) -> None:
    model = Model.from_proto(chain(3, 8, 4))
    prune(model, Samples([{"x": weight("1x3x8x8")}]), wanda, 0.5, in_order=in_order)
    zeros = [int(np.count_nonzero(model.weights[f"conv{i}.weight"] == 0)) for i in range(2)]
    assert zeros == [8 * 14, 4 * 36]  # rows of 27 and 72 inputs


def test_the_zeros_of_a_repaired_model_are_those_of_the_unrepaired_one() -> None:
    dense, name = Model.from_proto(chain(3, 8, 4)), "conv0.weight"
    positive = np.maximum(dense.weights[name].astype(np.float32), 0)
    repaired = dense.copy()
    repaired.weights[name] = 2 * positive
    assert unrepaired(dense, repaired, [name]).weights[name].tolist() == positive.tolist()


def test_a_made_network_has_the_layers_asked_for_and_finite_outputs_at_any_depth() -> None:
    for count in (4, 64):
        model = Model.from_proto(network(count))
        assert sum(bool(layer.weights) for layer in layers(model)) == count
        (made,) = runner(model).run({"x": weight(f"1x{CHANNELS}x{SIDE}x{SIDE}")}).values()
        assert 0 < np.abs(made).max() < 100


def test_the_curves_are_drawn_as_a_small_figure() -> None:
    curves = Curves(90.0, dict.fromkeys(TARGETS, 50.0), dict.fromkeys(TARGETS, 80.0), dict.fromkeys(COUNTS, 70.0))
    drawn = vl_convert.vegalite_to_svg(figure(curves))
    assert len(drawn) < 60_000
    assert all(kind in drawn for kind in ("with data", "without data", "dense"))

"""The knee chart: how narrower models are sized, and where pruning stops to pay."""

import itertools
from pathlib import Path

from onnxsparse import Model
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.cost.sparsity_sweep import CHANNEL_FACTORS, SPARSITIES, curves, find_knee, narrow
from onnxsparse.cost.workload import workload
from sample_models.build import LARGE, SMALL, build
from tests.commands import Run
from tests.graphs import chain, model, node


def test_inner_channels_narrow_and_the_ends_stay() -> None:
    """3 → 8 → 16 → 4 channels at half the width: 3 → 4 → 8 → 4."""
    found = narrow(workload(Model.from_proto(chain(3, 8, 16, 4))), 0.5)
    assert [item.weights for item in found] == [4 * 3 * 9, 8 * 4 * 9, 4 * 8 * 9]
    assert [item.output_channels for item in found] == [4, 8, 4]
    assert [item.input_elements for item in found] == [3 * 64, 4 * 64, 8 * 64]
    assert [item.macs for item in found] == [item.weights * 64 for item in found]


def test_a_depthwise_layer_narrows_once() -> None:
    nodes = [node("Conv", "x a", "s"), node("Conv", "s d", "w", group=8), node("Conv", "w z", "y")]
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {"a": "8x3x1x1", "d": "8x1x3x3", "z": "4x8x1x1"})
    assert [item.weights for item in narrow(workload(built), 0.5)] == [4 * 3, 4 * 9, 4 * 4]


def test_an_addition_narrows_with_what_it_adds() -> None:
    nodes = [node("Conv", "x a", "p"), node("Conv", "p b", "q"), node("Add", "p q", "r"), node("Conv", "r z", "y")]
    built = model(nodes, {"x": "1x4x8x8"}, ["y"], {"a": "8x4x1x1", "b": "8x8x1x1", "z": "4x8x1x1"})
    assert [item.input_elements for item in narrow(workload(built), 0.5)] == [256, 256, 512, 256]


def test_the_knee_is_where_the_slope_halves() -> None:
    straight = [100 * (1 - s) for s in SPARSITIES]
    flat_from_half = [100 * (1 - min(s, 0.5)) for s in SPARSITIES]
    assert find_knee(straight) is None
    assert find_knee(flat_from_half) == 0.5
    assert find_knee([100.0] * len(SPARSITIES)) == 0


def test_a_plateau_before_the_savings_is_no_knee() -> None:
    """As where coefficients are waited for: encoded they are no smaller than dense up to 63 % (2.75 bytes for each of 37 %)."""
    assert find_knee([100 * (1 - min(s, 0.3)) - 200 * max(0, s - 0.65) for s in SPARSITIES]) is None


def test_half_the_channels_then_pruned_beats_pruning_alone(detector: Deployment) -> None:
    """The paper's finding: 5 % of the operations either way, faster with half the channels."""
    found = {c.channel_factor: c for c in curves(detector.load, detector.backend) if c.variant == "cv22"}
    alone = found[1.0].latency_ms[SPARSITIES.index(0.95)]
    both = found[0.5].latency_ms[SPARSITIES.index(0.8)]  # a quarter of the operations, a fifth of those kept
    assert both < alone
    assert found[1.0].knee is not None


def test_small_at_80_is_twice_as_fast_as_large_at_95() -> None:
    latency = {}
    for name, widths, sparsity in (("small", SMALL, 0.8), ("large", LARGE, 0.95)):
        built = Model.from_proto(build(widths))
        first = curves(workload(built), deploy(built).backend)[0]
        latency[name] = first.latency_ms[SPARSITIES.index(sparsity)]
    assert 2 * latency["small"] < latency["large"]


def test_the_command_shows_and_writes_the_curve(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("report", source, "--curve", "--curve-csv", tmp_path / "c.csv") == 0
    assert "latency ms over sparsity_op" in run.out
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0] == "variant,channel_factor,sparsity_op,latency_ms,knee,complete"
    assert len(lines) == 1 + 3 * len(CHANNEL_FACTORS) * len(SPARSITIES)


def test_a_narrower_model_is_never_slower(detector: Deployment) -> None:
    found = [c for c in curves(detector.load, detector.backend) if c.variant == "cv22"]
    assert [c.channel_factor for c in found] == list(CHANNEL_FACTORS)
    for wider, narrower in itertools.pairwise(found):
        assert all(a <= b for a, b in zip(narrower.latency_ms, wider.latency_ms, strict=True)), narrower.channel_factor

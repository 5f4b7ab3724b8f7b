"""Predicted cost: the layer model by hand, the paper's rows as calibration, and what never may happen."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxsparse import Model, ParamError, Prune, layers
from onnxsparse.cost.backends.advice import advise
from onnxsparse.cost.backends.base import Bound, Precision
from onnxsparse.cost.backends.hardware import load_hardware, names
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.backends.work import Volume, WorkItem
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.workload import workload
from sample_models.build import LARGE, SMALL, Widths, build
from tests.commands import Run
from tests.graphs import BOOL, FLOAT, chain, model, node, proto, value

CV22 = make_backend(load_hardware("cv22"))


def item(
    *, weights: int = 1000, input_elements: int | None = 101_000, output_elements: int | None = 202_000, **facts: object
) -> WorkItem:
    """Of floats, unless `coefficients`, `reads` or `writes` are given."""
    given = {
        "node": "n",
        "op_type": "Conv",
        "fused": (),
        "macs": 270_000_000,
        "coefficients": (Volume(weights),),
        "nonzeros": 500,
        "weight_share": None,
        "inputs": ("x",),
        "outputs": ("y",),
        "reads": None if input_elements is None else (Volume(input_elements),),
        "writes": None if output_elements is None else (Volume(output_elements),),
        "depthwise": False,
        "output_channels": 80,
    }
    return WorkItem(**{**given, **facts})  # type: ignore[arg-type]  # facts come from the test


class TestTheLayerModel:
    def test_by_hand(self) -> None:
        """270 MMACs at half density and 270 GMAC/s: 0.5 ms; 1000 + 303 000 bytes at 10.1 GB/s: 0.03 ms."""
        cost = CV22.cost(item())
        assert cost is not None
        assert cost.compute_ms == pytest.approx(0.5)
        assert cost.coefficient_bytes == 1000  # dense is smaller than 2.75 bytes for each of 500
        assert cost.io_ms == pytest.approx(304_000 / 10.1e6)
        assert cost.overhead_ms == pytest.approx(0.02)
        assert cost.latency_ms == pytest.approx(0.52)
        assert (cost.bound, cost.passes) == (Bound.COMPUTE, 1)

    def test_a_large_input_is_read_once_per_group_of_outputs(self) -> None:
        cost = CV22.cost(item(input_elements=2_000_000))
        assert cost is not None
        assert cost.passes == 3  # ceil(80 / 32)
        assert cost.io_ms == pytest.approx((1000 + 3 * 2_000_000 + 202_000) / 10.1e6)

    def test_encoded_coefficients(self) -> None:
        cost = CV22.cost(item(weights=8000, nonzeros=800))
        assert cost is not None
        assert cost.coefficient_bytes == 2200 + 130

    def test_zeros_are_skipped_up_to_the_limit(self) -> None:
        limited = make_backend(load_hardware("cv22-skiplimit")).cost(item(weights=1000, nonzeros=50, macs=243_000_000))
        assert limited is not None
        assert limited.compute_ms == pytest.approx(1 / 8.1)
        assert limited.bound is Bound.SKIP_LIMIT

    @pytest.mark.parametrize("missing", ["macs", "input_elements", "output_elements"])
    def test_what_is_unknown_has_no_cost(self, missing: str) -> None:
        assert CV22.cost(item(**{missing: None})) is None  # type: ignore[arg-type]  # missing comes from the table

    def test_sixteen_bits_double_the_bytes(self) -> None:
        eight, sixteen = CV22.cost(item()), make_backend(load_hardware("cv22"), Precision(16, 16)).cost(item())
        assert eight is not None
        assert sixteen is not None
        assert sixteen.input_bytes == 2 * eight.input_bytes
        assert sixteen.coefficient_bytes == 2 * eight.coefficient_bytes


work_items = st.builds(
    item,
    macs=st.integers(0, 10**11),
    weights=st.just(10_000),
    nonzeros=st.integers(0, 10_000),
    input_elements=st.integers(0, 10**8),
    output_elements=st.integers(0, 10**8),
    output_channels=st.integers(0, 4096),
)


@settings(max_examples=200, deadline=None)
@given(work_items, st.integers(0, 10_000), st.sampled_from(["cv22", "cv22-skiplimit", "cv22-stream"]))
def test_pruning_never_costs_and_no_layer_is_faster_than_its_parts(work: WorkItem, fewer: int, target: str) -> None:
    found = make_backend(load_hardware(target))
    cost, pruned = found.cost(work), found.cost(replace(work, nonzeros=min(work.nonzeros, fewer)))
    assert cost is not None
    assert pruned is not None
    assert pruned.latency_ms <= cost.latency_ms
    assert cost.latency_ms >= max(cost.compute_ms or 0, cost.io_ms or 0)
    assert cost.passes >= 1


def test_advice_follows_from_the_model() -> None:
    compute, reread = item(), item(input_elements=30_000_000, weights=1000, nonzeros=100)
    small = item(macs=1000, input_elements=10, output_elements=10, weights=100, nonzeros=0)
    texts = [str(advise(CV22, w, cost)) for w in (compute, reread, small) if (cost := CV22.cost(w)) is not None]
    assert texts == ["prune on: 0.100 ms per 10 %", "cut channels", "nothing left"]


def test_advice_looks_past_the_sparsity_where_encoding_begins_to_pay() -> None:
    """A million dense coefficients, 2.75 bytes each encoded: as many bytes down to 40 %; then 841 250 at 30 %, 158 750 fewer."""
    work = item(macs=1000, weights=10**6, nonzeros=10**6, input_elements=10, output_elements=10)
    cost = CV22.cost(work)
    assert cost is not None
    assert str(advise(CV22, work, cost)) == "prune on past 60 %: 0.016 ms per 10 %"


def pruned_detector(widths: Widths, target: float) -> Model:
    built = Model.from_proto(build(widths))
    Prune(sparsity_op=target, scope="layer", protect="none").run(built)
    return built


class TestCalibration:
    """The two rows that the numbers were fitted to: these tests hold the calibration, they validate nothing."""

    @pytest.mark.parametrize(
        ("widths", "target", "latency_ms", "mem_p_mb", "mem_a_mb"),
        [(SMALL, 0.8, 35.03, 3.08, 12.33), (LARGE, 0.95, 84.51, 3.41, 21.54)],
        ids=["small", "large"],
    )
    def test_the_papers_rows(self, widths: Widths, target: float, latency_ms: float, mem_p_mb: float, mem_a_mb: float) -> None:
        found = deploy(pruned_detector(widths, target))
        assert found.latency_ms == pytest.approx(latency_ms, rel=0.01)
        assert found.variants["cv22-skiplimit"] == pytest.approx(latency_ms, rel=0.01)
        assert found.variants["cv22-stream"] == pytest.approx(latency_ms, rel=0.13)
        assert found.mem_p_mb == pytest.approx(mem_p_mb, rel=0.01)
        assert found.mem_a_mb == pytest.approx(mem_a_mb, rel=0.01)

    @pytest.mark.parametrize("widths", [SMALL, LARGE], ids=["small", "large"])
    def test_speed_up_is_linear_first_and_falls_short_later(self, widths: Widths) -> None:
        latencies = {t: deploy(pruned_detector(widths, t)).variants for t in (0.0, 0.25, 0.5, 0.8)}
        for name in ("cv22", "cv22-skiplimit"):
            for target in (0.25, 0.5):
                assert latencies[target][name] == pytest.approx((1 - target) * latencies[0.0][name], rel=0.03)
        assert latencies[0.8]["cv22"] > 1.1 * 0.2 * latencies[0.0]["cv22"]


class TestWorkload:
    def test_activation_and_normalisation_belong_to_the_layer(self) -> None:
        weights: dict[str, str] = {"w": "8x3x3x3", "g": "8", "b": "8", "m": "8"}
        nodes = [
            node("Conv", "x w", "c"),
            node("BatchNormalization", "c g b m v", "n"),
            node("Sigmoid", "n", "s"),
            node("Mul", "n s", "y"),
        ]
        found = workload(model(nodes, {"x": "1x3x8x8"}, ["y"], {**weights, "v": np.ones(8, np.float32)}))
        assert [(i.node, i.fused) for i in found.items] == [("c", ("n", "s", "y"))]
        assert (found.items[0].input_elements, found.items[0].output_elements) == (192, 288)

    def test_a_residual_is_read_by_an_item_of_its_own(self) -> None:
        nodes = [node("Conv", "x w", "a"), node("Conv", "a w", "b"), node("Add", "a b", "y")]
        found = workload(model(nodes, {"x": "1x4x8x8"}, ["y"], {"w": "4x4x1x1"}))
        assert [i.node for i in found.items] == ["a", "b", "y"]
        assert found.items[2].input_elements == 2 * 256
        assert found.peak() == (256 + 256 + 2 * 256, ("a", "b"))

    def test_views_and_shape_arithmetic_cost_nothing(self) -> None:
        nodes = [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Concat", "n rest", "t", axis=0),
            node("Reshape", "x t", "f"),
            node("Gemm", "f w", "y"),
        ]
        weights = {"zero": np.array([0], np.int64), "rest": np.array([-1], np.int64), "w": "48x5"}
        found = workload(model(nodes, {"x": "2x3x4x4"}, ["y"], weights))
        assert [(i.node, i.inputs) for i in found.items] == [("y", ("x",))]

    def test_a_grouped_convolution_counts_its_groups_outputs(self) -> None:
        found = workload(model([node("Conv", "x w", "y", group=4)], {"x": "1x8x4x4"}, ["y"], {"w": "32x2x1x1"}))
        assert found.items[0].output_channels == 8

    def test_the_totals_are_those_of_the_layers(self) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        assert sum(i.macs or 0 for i in workload(built).items) == layers(built).totals.macs


def test_shared_coefficients_are_held_once_and_read_by_each_layer() -> None:
    """A head on two levels of a pyramid: 16 · 16 bytes held, and moved twice beside 4 · 16 · 64 bytes of activations."""
    nodes = [node("Conv", "x w", "a"), node("Conv", "a w", "y")]
    found = deploy(model(nodes, {"x": "1x16x8x8"}, ["y"], {"w": "16x16x1x1"}))
    assert found.mem_p_mb * 1e6 == 256
    assert found.dram_mb * 1e6 == 2 * 256 + 4 * 16 * 64


def test_an_unknown_op_is_listed_and_left_out() -> None:
    info = [value("h", "4x8")]
    nodes = [node("MatMul", "x w", "a"), node("Mystery", "a", "h", name="magic", domain="acme"), node("MatMul", "h w", "y")]
    found = deploy(model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1}, value_info=info))
    assert [(row.item.node, row.reason) for row in found.unknown] == [("magic", "unknown op")]
    assert found.latency_ms == pytest.approx(sum(r.cost.latency_ms for r in found.rows if r.cost is not None))


def test_a_branch_with_layers_is_one_item() -> None:
    then = helper.make_graph([node("MatMul", "x w", "t")], "t", [], [helper.make_tensor_value_info("t", FLOAT, [4, 8])])
    other = helper.make_graph([node("Relu", "x", "e")], "e", [], [helper.make_tensor_value_info("e", FLOAT, [4, 8])])
    built = model([node("If", "c", "y", then_branch=then, else_branch=other)], {"x": "4x8", "c": ("", BOOL)}, ["y"], {"w": "8x8"})
    assert [(i.node, i.macs) for i in workload(built).items] == [("y", 256)]


class TestHardwareFiles:
    def text(self, old: str = "", new: str = "") -> str:
        shipped = Path(__file__).parent.parent.parent / "onnxsparse" / "targets" / "cv22.toml"
        return shipped.read_text().replace(old, new) if old else shipped.read_text()

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(self.text('name = "cv22"', 'name = "mine"').replace("value = 270", "value = 300"))
        found = load_hardware(tmp_path / "mine.toml")
        assert (found.name, found.numbers.rate_gmac_per_s.value) == ("mine", 300)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("low = 230", "low = 400", r"numbers.rate_gmac_per_s: low 400, value 270 and high 320 are not in order"),
            ('status = "assumed"', 'status = "guessed"', "status: Input should be 'calibrated', 'assumed' or 'datasheet'"),
            ("low = 230\n", "low = 0\n", "numbers.rate_gmac_per_s: must be above 0, at the low end too"),
            ("[cost.numbers.skip_limit]", "[cost.numbers.skip]", "cost.numbers.skip: Unexpected keyword argument"),
            ('source = "whether zeros are skipped without limit', '#"', "numbers.skip_limit.source: Field required"),
            ("format = 1", "format = 1\nspeed = 3", "speed: Unexpected keyword argument"),
            ("value = 20", 'value = "20 us"', "numbers.overhead_us.value: Input should be a valid number"),
            ("format = 1", "format = ", "is not TOML"),
        ],
    )
    def test_a_wrong_file_is_refused_by_name(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        (tmp_path / "mine.toml").write_text(self.text(old, new))
        with pytest.raises(ParamError, match=message):
            load_hardware(tmp_path / "mine.toml")

    def test_no_such_target(self) -> None:
        with pytest.raises(ParamError, match="no target 'cv99': it is none of cv22, cv22-skiplimit, cv22-stream"):
            load_hardware("cv99")

    @pytest.mark.parametrize("name", names())
    def test_shipped_targets_load_and_know_their_variants(self, name: str) -> None:
        found = load_hardware(name)
        assert found.name == name
        assert all(load_hardware(other) for other in found.variants)


class TestTheCommand:
    def test_text_says_first_how_far_to_trust_it(self, run: Run, source: Path) -> None:
        assert run("report", source) == 0
        lines = run.out.splitlines()
        assert "no held-out point" in lines[1]
        assert "latency range" in lines[3]
        assert "the number with the largest effect" in lines[4]

    def test_json(self, run: Run, source: Path) -> None:
        assert run("report", source, "--json", "-") == 0
        found = json.loads(run.out)
        keys = {
            "latency_ms",
            "latency_ms_low",
            "latency_ms_high",
            "fps",
            "macs",
            "nonzero_macs",
            "sparsity_op",
            "mem_p_mb",
            "mem_a_mb",
        }
        assert keys <= set(found["totals"])
        row = {"node", "op_type", "latency_ms", "compute_ms", "io_ms", "bound", "density", "advice"}
        assert all(row <= set(layer) for layer in found["layers"])
        assert found["totals"]["latency_ms"] == pytest.approx(sum(layer["latency_ms"] for layer in found["layers"]))
        assert found["fidelity"]

    def test_open_sizes_are_listed(self, run: Run, tmp_path: Path) -> None:
        onnx.save(proto([node("Conv", "x w", "y")], {"x": "1x3xHxW"}, ["y"], {"w": "4x3x3x3"}), tmp_path / "open.onnx")
        assert run("report", tmp_path / "open.onnx") == 0
        assert "cost unknown and not in the total: y (open sizes)" in run.out
        assert "open input sizes: x: 1x3x?x?; give them with --input-shape" in run.out
        assert "latency range" not in run.out
        assert run("report", tmp_path / "open.onnx", "--json", "-") == 0
        found = json.loads(run.out)
        assert (found["totals"]["latency_ms"], found["totals"]["mem_p_mb"]) == (None, None)
        assert (found["layers"][0]["io_ms"], found["layers"][0]["bound"]) == (None, None)

"""A reason is a finding: what is said of a layer was established of it, and where nothing was, that is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse.analysis.context import GraphContext
from onnxsparse.analysis.layers import layers
from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.observe import observe_ranges
from onnxsparse.calibration.preprocessing import Preprocessing
from onnxsparse.channels.groups import solve
from onnxsparse.channels.reference import masked_reference
from onnxsparse.errors import ModelError, ParamError, PassError
from onnxsparse.ir.model import Model
from onnxsparse.ops import OpSpec
from onnxsparse.passes.prune import Prune
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.samples import Samples
from tests.commands import Run
from tests.graphs import FLOAT16, Array, chain, model, node, proto, weight

IMAGE = {"x": "1x3x6x6"}
PADS = [1, 1, 1, 1]


def why_frozen(built: Model) -> dict[str, str]:
    return {f"{f.node} {f.channels} of {f.of}": f.reason for f in solve(built).frozen()}


class TestChannels:
    def test_an_output_is_one(self) -> None:
        assert why_frozen(Model.from_proto(chain(3, 8))) == {"conv0 8 of 8": "is an output of the model (y)"}

    def test_what_is_added_to_another_goes_together_with_an_output_and_is_none(self) -> None:
        nodes = [node("Conv", "x a", "c0", pads=PADS), node("Conv", "c0 b", "c1", pads=PADS), node("Add", "c0 c1", "y")]
        built = model(nodes, IMAGE, ["y"], {"a": "8x3x3x3", "b": "8x8x3x3"})
        told = "is tied to channels of an output of the model (y)"
        assert why_frozen(built) == {"c0 8 of 8": told, "c1 8 of 8": told}

    def test_a_head_that_is_reshaped_to_an_output_says_so(self) -> None:
        """24 channels are 6 anchors × 4 numbers, both axes of the output: neither factor is cut in the place of the other."""
        nodes = [
            node("Conv", "x a", "c0", pads=PADS),
            node("Conv", "c0 b", "head", pads=PADS),
            node("Transpose", "head", "t", perm=[0, 2, 3, 1]),
            node("Reshape", "t s", "y"),
        ]
        built = model(nodes, IMAGE, ["y"], {"a": "8x3x3x3", "b": "24x8x3x3", "s": np.array([1, -1, 4])})
        assert why_frozen(built) == {"head 24 of 24": "has no factor that can be cut alone (y): is an output of the model (y)"}

    def test_every_factor_has_its_reason(self) -> None:
        nodes = [
            node("Conv", "x a", "c", pads=PADS),
            node("Reshape", "c s", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
            node("ReduceMax", "t", "y", axes=[1], keepdims=0),
        ]
        built = model(nodes, IMAGE, ["y"], {"a": "8x3x3x3", "s": np.array([1, 2, 4, 6, 6])})
        told = "has no factor that can be cut alone (r): ReduceMax reduces over it (y) and is an output of the model (y)"
        assert why_frozen(built) == {"c 8 of 8": told}

    def test_another_factor_is_cut_where_one_is(self) -> None:
        """A weight makes 2 × 4 outputs, which the next one reads as 8: either factor can be cut, and one is."""
        nodes = [
            node("Einsum", "x a", "e", equation="nk,kij->nij"),
            node("Reshape", "e s", "r"),
            node("MatMul", "r b", "y"),
        ]
        built = model(nodes, {"x": "3x6"}, ["y"], {"a": "6x2x4", "s": np.array([3, 8]), "b": "8x5"})
        solution = solve(built)
        (group,) = solution.groups
        other = {4: 2, 2: 4}[group.classes.size]
        found = why_frozen(built)
        assert found[f"e {other} of {other}"] == "another factor of its axis is cut instead (r)"

    def test_reasons_are_counted_one_by_one(self) -> None:
        """Of 8 channels, 3 are an output; Softmax looks over 5 others."""
        sizes: dict[str, str | Array] = {"a": "8x3x3x3", "s": np.array([3, 5])}
        nodes = [
            node("Conv", "x a", "c", pads=PADS),
            node("Split", "c s", "p q", axis=1),
            node("Softmax", "q", "m", axis=1),
            node("ReduceSum", "m k", "z", keepdims=0),
        ]
        built = model(nodes, IMAGE, ["p", "z"], sizes | {"k": np.array([1])})
        assert why_frozen(built) == {"c 3 of 8": "is an output of the model (p)", "c 5 of 8": "Softmax reduces over it (m)"}

    def test_sizes_that_cannot_be_are_not_called_open(self) -> None:
        """The file says that 192 elements are reshaped to 200."""
        nodes = [node("Conv", "x a", "c"), node("Reshape", "c s", "r"), node("MatMul", "r b", "y")]
        built = proto(nodes, {"x": "1x3x4x4"}, ["y"], {"a": "12x3x1x1", "s": np.array([1, 20, 10]), "b": "10x5"})
        with pytest.raises(ParamError, match="Reshape 'r' cannot reshape 1x12x4x4 to 1x20x10: 192 elements meet 200") as refusal:
            why_frozen(Model.from_proto(built))
        assert "open" not in str(refusal.value)

    def test_open_sizes_are_only_asked_for_where_they_matter(self) -> None:
        """The batch is open, and what keeps the channels is the output."""
        nodes = [node("Conv", "x a", "y")]
        with pytest.raises(ParamError, match=r"is an output of the model\); see --plan"):
            PruneChannels().run(model(nodes, {"x": "1x3xHxW"}, ["y"], {"a": "8x3x3x3"}))


def broken_rule(*_: object) -> Any:
    raise IndexError("a bug")


@pytest.mark.parametrize("field", ["macs", "couple"])
def test_a_bug_in_a_rule_is_seen(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = GraphContext.spec

    def spec(self: GraphContext, given: onnx.NodeProto) -> OpSpec | None:
        found = known(self, given)
        if found is None or given.op_type != "Conv":
            return found
        if field == "macs":
            return replace(found, macs=broken_rule)
        return replace(found, channels=replace(found.channels, couple=broken_rule))

    monkeypatch.setattr(GraphContext, "spec", spec)
    ask: Callable[[Model], object] = layers if field == "macs" else solve
    with pytest.raises(IndexError, match="a bug"):
        ask(Model.from_proto(chain(3, 8)))


class TestMacs:
    def test_open_sizes_are_told_from_others(self) -> None:
        built = model([node("Conv", "x a", "y")], {"x": "1x3xHxW"}, ["y"], {"a": "8x3x3x3"})
        (layer,) = layers(built)
        assert (layer.macs, layer.unknown, layer.open_size) == (None, "its output 0 has open sizes", True)

    def test_sides_that_do_not_meet_are_not_open(self) -> None:
        """The batch of another input is open, and has nothing to do with the sides that do not meet."""
        nodes = [node("Gemm", "x a", "h"), node("Relu", "z", "y")]
        built = model(nodes, {"x": "3x8", "z": "Nx8"}, ["h", "y"], {"a": "9x4"})
        with pytest.raises(ParamError, match=r"cannot multiply 3x8 by 9x4: 8 meets 9, whatever its open sizes are") as refusal:
            Prune(sparsity_op=0.5).run(built)
        assert "--input-shape" not in str(refusal.value)

    def test_a_known_layer_has_no_reason(self) -> None:
        assert [layer.unknown for layer in layers(Model.from_proto(chain(3, 8, 4)))] == [None, None]


def test_our_own_reference_is_named_when_it_does_not_load(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Model:
        reference = masked_reference(*args)
        reference.proto.graph.node[0].op_type = "NoSuchOp"
        return reference

    monkeypatch.setattr("onnxsparse.channels.proof.masked_reference", broken)
    onnx.save(chain(3, 16, 4), tmp_path / "in.onnx")
    message = run.fails(1, "prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert "onnxruntime cannot load the reference with masked channels of in.onnx" in message


def test_the_model_is_named_when_it_does_not_load_itself() -> None:
    nodes = [node("Conv", "x a", "h"), node("Mystery", "x", "z", domain="acme"), node("Conv", "h b", "y")]
    built = model(nodes, IMAGE, ["y", "z"], {"a": "16x3x1x1", "b": "4x16x1x1"}, domains={"acme": 1})
    with pytest.raises(PassError, match="onnxruntime cannot load the model"):
        PruneChannels().run(built)


class TestData:
    def ranges(self, x: Array) -> None:
        built = model([node("Sub", "x x", "h"), node("Relu", "h", "y")], {"x": "1x4"})
        observe_ranges(built, ["h"], open_data([{"x": x}], built, Preprocessing()))

    def test_an_infinite_input_is_to_blame_for_its_nan(self) -> None:
        """∞ − ∞ is NaN."""
        with pytest.raises(ModelError, match="sample 1 has infinite values in input 'x', from which the model computes NaN"):
            self.ranges(np.array([[1, np.inf, 2, 3]], np.float32))

    def test_so_is_one_that_is_nan(self) -> None:
        with pytest.raises(ModelError, match="activation 'h' of the model into NaN: its input 'x' has NaN values"):
            self.ranges(np.array([[1, np.nan, 2, 3]], np.float32))

    def test_samples_that_are_alike_say_nothing_of_the_model(self) -> None:
        """Equal samples cannot move an output; another one does."""
        built = Model.from_proto(chain(3, 4))
        feeds = seeded_samples(built, 1).feeds
        assert compare(built, built, Samples((*feeds, *feeds))).outputs[0].vacuous is None

    def test_an_output_whose_elements_are_equal_is_not_constant(self) -> None:
        nodes = [node("ReduceMean", "x", "m", keepdims=1), node("Expand", "m s", "y")]
        built = model(nodes, {"x": "1x4"}, ["y"], {"s": np.array([1, 6])})
        assert compare(built, built).outputs[0].vacuous is None


class TestQuantize:
    def skipped(self, nodes: list[onnx.NodeProto], weights: dict[str, str | Array], **options: Any) -> dict[str, str]:
        built = model(nodes, {"x": "2x8"}, ["y"], weights)
        report = Quantize(target="onnxruntime-x86", **options).run(built, seeded_samples(built, 1).feeds)
        return {skip.node: skip.reason.removeprefix("stays float: ") for skip in report.skipped} | {"": " ".join(report.notes)}

    def test_half_floats(self) -> None:
        built = model([node("MatMul", "x a", "y")], {"x": ("2x8", FLOAT16)}, ["y"], {"a": weight("8x4").astype(np.float16)})
        report = Quantize(target="onnxruntime-x86").run(built, seeded_samples(built, 1).feeds)
        told = "stays float: it computes in a type other than float32"
        assert [(skip.node, skip.reason) for skip in report.skipped] == [("y", told)]
        assert report.notes == [f"nothing to quantize: 1 × {told}"]

    def test_what_is_left_out_is_not_all_that_there_is(self) -> None:
        """One layer is excluded, the target has no integers for the other."""
        nodes = [node("MatMul", "x a", "h"), node("Einsum", "h b", "y", equation="ij,jk->ik")]
        found = self.skipped(nodes, {"a": "8x8", "b": "8x4"}, exclude=("h",))
        assert found["h"] == "--exclude names it"
        assert found["y"] == "onnxruntime-x86 has no integers for Einsum"
        assert "--exclude names it" in found[""]
        assert "has no integers for Einsum" in found[""]

    def test_a_layer_is_quantized_though_its_bias_is_computed(self) -> None:
        """So what is computed is no reason for anything."""
        nodes = [node("RandomNormal", "", "r", shape=[4], seed=1.0), node("Gemm", "x a r", "y")]
        assert "y" not in self.skipped(nodes, {"a": "8x4"})

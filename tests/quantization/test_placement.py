"""Where quantizers go: small graphs in, and what reads integers then, worked out by hand. `v'` is v through its quantizer."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse.analysis.checker import first_fault
from onnxsparse.calibration.methods import Range
from onnxsparse.ir.model import Model
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import Target, load_target
from onnxsparse.quantization.write.qdq import write_integers
from tests.graphs import INT64, Array, Values, model, node, proto, weight

CV22, X86 = load_target("cv22"), load_target("onnxruntime-x86")
BOUNDARIES = ("QuantizeLinear", "DequantizeLinear")


def placed(built: Model, target: Target = CV22, kept: Mapping[int, str] | None = None) -> Placement:
    return place(built, target, dict(kept or {}))


def quantized(built: Model, target: Target = CV22, kept: Mapping[int, str] | None = None) -> Model:
    """Quantized with ranges that differ from value to value: ±1, ±2, ±3, …"""
    placement = placed(built, target, kept)
    ranges = {name: Range(-at, at) for at, name in enumerate(placement.calibrated, start=1)}
    done = write_integers(placement, Choices(ranges)).model
    assert first_fault(done) is None
    return done


def graph(done: Model) -> list[str]:
    """`y = Conv(x', w')` for each node that is no quantizer, in order."""
    nodes = done.proto.graph.node
    made = {name: n for n in nodes for name in n.output}

    def shown(name: str) -> str:
        behind = made.get(name)
        if behind is None or behind.op_type != "DequantizeLinear":
            return name.removesuffix("_unquantized")
        before = made.get(behind.input[0])
        source = behind.input[0] if before is None else before.input[0]
        return re.sub(r"_quantized(_\d+)?$|_unquantized$", "", source) + "'"

    def line(n: onnx.NodeProto) -> str:
        results = ", ".join(name.removesuffix("_unquantized") for name in n.output)
        return f"{results} = {n.op_type}({', '.join(shown(name) for name in n.input)})"

    return [line(n) for n in nodes if n.op_type not in BOUNDARIES]


def scale(done: Model, name: str) -> float:
    """The scale of a value's quantizer in steps of 1/127, the first value's."""
    return round(float(done.weights[f"{name}_scale"]) * 127, 4)


def skipped(built: Model, target: Target = CV22, kept: Mapping[int, str] | None = None) -> dict[str, str]:
    return {skip.node: skip.reason.removeprefix("stays float: ") for skip in placed(built, target, kept).skipped}


def convolved(*behind: onnx.NodeProto, outputs: str = "y", weights: Values | None = None, **own: str | Array) -> Model:
    """A convolution `c` of `x` by `w`, and what is behind it."""
    constants = {"w": "4x4x1x1", **(weights or {}), **own}
    return model([node("Conv", "x w", "c"), *behind], {"x": "1x4x4x4"}, outputs.split(), constants)


SILU = [node("Sigmoid", "c", "s"), node("Mul", "c s", "y")]
HARD_SWISH = [node("Add", "c three", "p"), node("Clip", "p zero six", "q"), node("Mul", "c q", "m"), node("Div", "m six", "y")]
NUMBERS = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}


class TestActivations:
    @pytest.mark.parametrize(
        "behind",
        [[node("Relu", "c", "y")], [node("Clip", "c zero six", "y")], SILU, HARD_SWISH, [node("HardSwish", "c", "y")]],
        ids=["Relu", "Clip", "SiLU", "HardSwish in steps", "HardSwish"],
    )
    def test_no_quantizer_between_a_convolution_and_its_activation(self, behind: list[onnx.NodeProto]) -> None:
        done = quantized(convolved(*behind, weights=NUMBERS))
        lines = graph(done)
        assert lines[0] == "c = Conv(x', w')"
        assert not [line for line in lines[1:] if "'" in line]
        assert (scale(done, "x"), scale(done, "y")) == (1, 2)
        assert done.proto.graph.output[0].name == "y"

    def test_x86_has_integers_for_a_sigmoid_but_not_within_the_convolution(self) -> None:
        done = quantized(convolved(*SILU, node("Conv", "y v", "z"), outputs="z", v="4x4x1x1"), X86)
        assert graph(done) == ["c = Conv(x', w')", "s = Sigmoid(c')", "y = Mul(c', s')", "z = Conv(y', v')"]

    def test_everything_after_the_last_layer_is_float(self) -> None:
        assert graph(quantized(convolved(*SILU), X86)) == ["c = Conv(x', w')", "s = Sigmoid(c')", "y = Mul(c', s)"]

    def test_a_value_that_is_read_elsewhere_as_well_ends_the_unit(self) -> None:
        built = convolved(node("Relu", "c", "a"), node("Conv", "c v", "d"), node("Add", "a d", "y"), v="4x4x1x1")
        assert graph(quantized(built)) == ["c = Conv(x', w')", "a = Relu(c')", "d = Conv(c', v')", "y = Add(a, d')"]

    def test_an_activation_that_was_to_stay_float(self) -> None:
        built = convolved(node("Relu", "c", "r"), node("Conv", "r v", "y"), v="4x4x1x1")
        assert graph(quantized(built, kept={1: "asked"})) == ["c = Conv(x', w')", "r = Relu(c')", "y = Conv(r', v')"]
        assert skipped(built, kept={1: "asked"}) == {"r": "asked"}


class TestArithmetic:
    def test_both_branches_of_a_residual_and_their_sum_have_scales(self) -> None:
        nodes = [node("Conv", "c v", "d"), node("Add", "c d", "a"), node("Relu", "a", "r"), node("Conv", "r w", "y")]
        done = quantized(convolved(*nodes, v="4x4x1x1"))
        assert graph(done)[1:] == ["d = Conv(c', v')", "a = Add(c', d')", "r = Relu(a)", "y = Conv(r', w')"]
        assert [scale(done, name) for name in ("x", "c", "d", "r", "y")] == [1, 2, 3, 4, 5]

    def test_a_sum_with_what_was_never_integers_stays_float(self) -> None:
        built = convolved(node("Add", "c x", "a"), node("Conv", "a w", "y"))
        assert graph(quantized(built)) == ["c = Conv(x', w')", "a = Add(c', x)", "y = Conv(a', w')"]

    def test_a_constant_operand_is_on_the_grid_of_activations(self) -> None:
        built = convolved(
            node("MaxPool", "c", "p", kernel_shape=[1, 1]),
            node("Mul", "p k", "m"),
            node("GlobalAveragePool", "m", "g"),
            node("Conv", "g w", "y"),
            k=np.array([0, 1, 2, -4], np.float32).reshape(4, 1, 1),
        )
        done = quantized(built)
        assert graph(done)[1:] == ["p = MaxPool(c')", "m = Mul(p', k')", "g = GlobalAveragePool(m')", "y = Conv(g', w')"]
        assert done.weights["k"].ravel().tolist() == [0, 32, 64, -127]  # of steps of 4 / 127

    @pytest.mark.parametrize("target", [CV22, X86], ids=lambda t: t.name)
    def test_a_concat_has_a_scale_of_its_own(self, target: Target) -> None:
        done = quantized(joined(), target)
        assert graph(done)[2:] == ["j = Concat(c', d')", "y = Conv(j', u')"]
        if target is CV22:
            assert [scale(done, name) for name in ("c", "d", "j")] == [2, 3, 4]

    def test_one_scale_where_the_target_wants_it(self) -> None:
        """That of the widest of the inputs."""
        done = quantized(joined(), dataclasses.replace(CV22, one_scale=("Concat",)))
        assert [scale(done, name) for name in ("c", "d", "j")] == [3, 3, 3]
        assert scale(done, "x") == 1


def joined() -> Model:
    nodes = [node("Conv", "x v", "d"), node("Concat", "c d", "j", axis=1), node("Conv", "j u", "y")]
    return convolved(*nodes, v="4x4x1x1", u="2x8x1x1")


class TestMoving:
    @pytest.mark.parametrize(
        "move",
        [
            node("MaxPool", "c", "m", kernel_shape=[1, 1]),
            node("Resize", "c _ twice", "m", mode="nearest"),
            node("Transpose", "c", "m", perm=[0, 1, 3, 2]),
            node("Reshape", "c sizes", "m"),
        ],
        ids=lambda v: v.op_type,
    )
    def test_what_is_moved_keeps_its_scale(self, move: onnx.NodeProto) -> None:
        numbers: Values = {"twice": np.array([1, 1, 2, 2], np.float32), "sizes": np.array([1, 4, 2, 8], np.int64)}
        done = quantized(convolved(move, node("Conv", "m w", "y"), weights=numbers))
        assert graph(done)[1].startswith(f"m = {move.op_type}(c'")
        assert graph(done)[2] == "y = Conv(m', w')"
        assert (scale(done, "c"), scale(done, "m"), scale(done, "y")) == (2, 2, 3)

    def test_a_chain_of_moves_and_both_halves_of_a_split(self) -> None:
        nodes = [
            node("Transpose", "c", "t", perm=[0, 1, 3, 2]),
            node("Split", "t", "p q", axis=1),
            node("Conv", "p v", "a"),
            node("Conv", "q v", "b"),
        ]
        done = quantized(convolved(*nodes, outputs="a b", v="3x2x1x1"))
        assert graph(done)[1:] == ["t = Transpose(c')", "p, q = Split(t')", "a = Conv(p', v')", "b = Conv(q', v')"]
        assert [scale(done, name) for name in "xctpqab"] == [1, 2, 2, 2, 2, 3, 4]

    def test_what_moves_floats_stays_float_up_to_the_layer(self) -> None:
        nodes = [node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("Conv", "t w", "y")]
        assert graph(quantized(model(nodes, {"x": "1x4x4x4"}, ["y"], {"w": "4x4x1x1"}))) == [
            "t = Transpose(x)",
            "y = Conv(t', w')",
        ]


class TestStaysFloat:
    def test_the_tail_of_a_detector_that_mixes_boxes_and_scores(self) -> None:
        nodes = [
            node("Conv", "x w", "c"),
            node("Conv", "c bw", "b"),
            node("Conv", "c sw", "s"),
            node("Reshape", "b flat", "boxes"),
            node("Mul", "boxes stride", "pixels"),
            node("Reshape", "s flat", "logits"),
            node("Sigmoid", "logits", "scores"),
            node("Concat", "pixels scores", "y", axis=1),
        ]
        numbers = {"flat": np.array([1, -1, 16], np.int64), "stride": np.float32(32)}
        built = model(nodes, {"x": "1x4x4x4"}, ["y"], {"w": "4x4x1x1", "bw": "4x4x1x1", "sw": "2x4x1x1", **numbers})
        for target in (CV22, X86):
            assert graph(quantized(built, target))[3:] == [
                "boxes = Reshape(b', flat)",
                "pixels = Mul(boxes, stride)",
                "logits = Reshape(s', flat)",
                "scores = Sigmoid(logits)",
                "y = Concat(pixels, scores)",
            ]

    @pytest.mark.parametrize("mean", ["Conv", "MatMul"])
    def test_the_mean_over_a_distribution(self, mean: str) -> None:
        """A detector's DFL: positions, weighted by a Softmax."""
        ramp = np.arange(4, dtype=np.float32)
        moved = [node("Transpose", "p", "t", perm=[0, 2, 3, 1]), node("MatMul", "t r", "y")]
        last = [node("Conv", "p r", "y")] if mean == "Conv" else moved
        built = convolved(node("Softmax", "c", "p", axis=1), *last, r=ramp.reshape((1, 4, 1, 1) if mean == "Conv" else (4, 1)))
        assert "'" not in "".join(line.partition("(")[2] for line in graph(quantized(built))[2:])
        assert graph(quantized(built))[1] == "p = Softmax(c')"
        assert skipped(built) == {"y": "it takes the mean over a distribution"}
        assert quantized(built).weights["r"].dtype == np.float32

    @pytest.mark.parametrize("kind", ["Softmax", "LayerNormalization"])
    def test_shares_and_norms_between_layers(self, kind: str) -> None:
        inner = node("Softmax", "a", "m") if kind == "Softmax" else node("LayerNormalization", "a g", "m")
        nodes = [node("MatMul", "x w", "a"), inner, node("MatMul", "m v", "y")]
        built = model(nodes, {"x": "2x4"}, ["y"], {"w": "4x4", "v": "4x4", "g": "4"})
        rest = "" if kind == "Softmax" else ", g"
        assert graph(quantized(built)) == ["a = MatMul(x', w')", f"m = {kind}(a'{rest})", "y = MatMul(m', v')"]

    @pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).min, -1e9, -1e4])
    def test_a_mask_is_no_part_of_the_product_before_it(self, low: float) -> None:
        """On one scale with -1e9 every score would be 0."""
        nodes = [node("MatMul", "x w", "a"), node("Add", "a mask", "m"), node("Softmax", "m", "s"), node("MatMul", "s v", "y")]
        mask = np.triu(np.full((4, 4), low, np.float32), 1)
        built = model(nodes, {"x": "4x4"}, ["y"], {"w": "4x4", "v": "4x4", "mask": mask})
        lines = ["a = MatMul(x', w')", "m = Add(a', mask)", "s = Softmax(m)", "y = MatMul(s', v')"]
        assert graph(quantized(built)) == lines

    def test_what_a_target_cannot_do_is_said(self) -> None:
        built = convolved(node("ConvTranspose", "c v", "y"), v="4x4x2x2")
        assert graph(quantized(built, X86)) == ["c = Conv(x', w')", "y = ConvTranspose(c', v)"]
        assert skipped(built, X86) == {"y": "onnxruntime-x86 has no integers for ConvTranspose"}
        assert graph(quantized(built)) == ["c = Conv(x', w')", "y = ConvTranspose(c', v')"]

    def test_weights_and_biases_that_are_not_finite(self) -> None:
        broken = weight("4x4x1x1")
        broken[0, 0] = np.nan
        endless = np.array([0, np.inf, 0, 0], np.float32)
        nodes = [node("Conv", "x w", "c"), node("Conv", "c n", "d"), node("Conv", "d w b", "y")]
        built = model(nodes, {"x": "1x4x2x2"}, ["y"], {"w": "4x4x1x1", "n": broken, "b": endless})
        assert skipped(built) == {"d": "its weights are not finite", "y": "its bias is not finite"}
        assert graph(quantized(built)) == ["c = Conv(x', w')", "d = Conv(c', n)", "y = Conv(d, w, b)"]

    def test_layers_of_other_types(self) -> None:
        nodes = [node("MatMul", "x w", "y"), node("MatMul", "i j", "z")]
        halves = {"w": weight("4x4").astype(np.float16), "j": np.ones((4, 4), np.int64)}
        built = model(nodes, {"x": ("2x4", onnx.TensorProto.FLOAT16), "i": ("2x4", INT64)}, ["y", "z"], halves)
        assert skipped(built) == dict.fromkeys("yz", "it computes in a type other than float32")

    def test_unknown_ops_stay_float(self) -> None:
        nodes = [node("Conv", "x w", "c"), node("Special", "c", "s", domain="our.own"), node("Conv", "s w", "y")]
        known = [helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [1, 4, 4, 4])]
        built = model(nodes, {"x": "1x4x4x4"}, ["y"], {"w": "4x4x1x1"}, domains={"our.own": 1}, value_info=known)
        assert graph(quantized(built)) == ["c = Conv(x', w')", "s = Special(c')", "y = Conv(s', w')"]
        assert skipped(built) == {"s": "its op is unknown"}
        untyped = proto(nodes, {"x": "1x4x4x4"}, ["c"], {"w": "4x4x1x1"}, domains={"our.own": 1})
        assert skipped(Model.from_proto(untyped))["y"] == "the type of an input is unknown"

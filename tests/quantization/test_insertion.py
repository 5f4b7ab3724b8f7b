"""Integers written into a model: what stays of it, wherever weights are stored, and what is quantized already."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxsparse.analysis.checker import first_fault
from onnxsparse.calibration.methods import Range
from onnxsparse.ir.model import Model
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import Target
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.session import runner
from tests.graphs import BOOL, FLOAT, INT64, Array, chain, model, node, op_types, value, weight
from tests.quantization.test_placement import CV22, X86, graph

REACH = Range(-8, 8)


def quantized(built: Model, target: Target = CV22, kept: Sequence[int] = ()) -> Model:
    """Quantized with ±8 everywhere; it passes the checker and runs."""
    placement = place(built, target, dict.fromkeys(kept, "asked"))
    done = write_integers(placement, Choices(dict.fromkeys(placement.calibrated, REACH))).model
    assert first_fault(done) is None
    onnx.checker.check_model(onnx.load_from_string(done.to_bytes()))
    return done


def assert_close(built: Model, done: Model, tolerance: float = 0.3, **feeds: Array) -> None:
    given = feeds or {v.name: random(v) for v in built.proto.graph.input if v.name not in built.weights}
    before, after = outputs(built, given), outputs(done, given)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert np.abs(after[name] - expected).max() < tolerance, name


def outputs(built: Model, given: dict[str, Array]) -> dict[str, Array]:
    return dict(runner(built).run(given))


def random(given: onnx.ValueInfoProto) -> Array:
    found: Array = np.random.default_rng(1).standard_normal([d.dim_value or 2 for d in given.type.tensor_type.shape.dim])
    return found.astype(np.float32).clip(-2, 2)


def light(shape: str, seed: int = 0) -> Array:
    """Weights that keep values within ±8."""
    found: Array = weight(shape, seed) / 4
    return found


def interface(built: Model) -> tuple[bytes, ...]:
    graph = built.proto.graph
    fed = [v for v in graph.input if v.name not in built.weights]
    return tuple(v.SerializeToString(deterministic=True) for v in (*fed, *graph.output))


def two_layers(opset: int = 17, ir_version: int = 8, outputs: str = "y") -> Model:
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r v", "y")]
    weights = {"w": light("4x3x3x3"), "b": light("4", 1), "v": light("2x4x1x1", 2)}
    return model(nodes, {"x": "1x3x6x6"}, outputs.split(), weights, opset=opset, ir_version=ir_version)


class TestWhatStays:
    def test_names_docs_and_metadata(self) -> None:
        built = two_layers()
        built.proto.doc_string, built.proto.graph.doc_string = "the model", "the graph"
        built.proto.metadata_props.add(key="author", value="someone")
        built.proto.graph.metadata_props.add(key="part", value="head")
        for at in built.proto.graph.node:
            at.doc_string = f"doc of {at.name}"
            at.metadata_props.add(key="module", value=at.name)
        done = quantized(built)
        for field in ("doc_string", "metadata_props", "ir_version", "opset_import", "functions"):
            assert getattr(done.proto, field) == getattr(built.proto, field), field
        assert done.proto.graph.metadata_props == built.proto.graph.metadata_props
        before = {n.name: (n.op_type, n.doc_string, n.metadata_props[0].value) for n in built.proto.graph.node}
        after = {n.name: (n.op_type, n.doc_string, n.metadata_props[0].value) for n in done.proto.graph.node if n.doc_string}
        assert after == before
        assert interface(done) == interface(built)

    def test_quantizers_are_named_after_their_tensor(self) -> None:
        done = quantized(two_layers())
        assert [n.name for n in done.proto.graph.node if n.name.startswith("r_")] == ["r_QuantizeLinear", "r_DequantizeLinear"]
        assert {t.name for t in done.proto.graph.initializer} >= {"w", "w_scale", "w_zero_point", "r_scale", "y_zero_point"}

    def test_outputs_keep_their_names_also_where_they_are_read(self) -> None:
        built = two_layers(outputs="y r")
        done = quantized(built)
        assert [o.name for o in done.proto.graph.output] == ["y", "r"]
        assert_close(built, done)
        for name in ("y", "r"):  # what comes out has gone through integers
            found = outputs(done, {"x": random(built.proto.graph.input[0])})[name]
            steps = found / (8 / 127)
            assert np.abs(steps - np.rint(steps)).max() < 1e-3, name

    def test_names_that_are_taken_also_inside_bodies(self) -> None:
        body = helper.make_graph([node("Neg", "r", "x_scale", name="r_QuantizeLinear")], "body", [], [value("x_scale", None)])
        nodes = [
            *two_layers().proto.graph.node[:2],
            node("If", "on", "branch", then_branch=body, else_branch=body),
            node("Identity", "x", "x_dequantized"),
            node("Conv", "r v", "y"),
        ]
        weights = {"w": light("4x3x3x3"), "b": light("4", 1), "v": light("2x4x1x1", 2)}
        built = model(nodes, {"x": "1x3x6x6", "on": ("", BOOL)}, ["y", "branch", "x_dequantized"], weights)
        done = quantized(built)
        names = [n.name for n in done.proto.graph.node]
        assert len(set(names)) == len(names)
        assert "x_scale" not in done.weights
        assert_close(built, done, x=random(built.proto.graph.input[0]), on=np.array(True))

    def test_functions(self) -> None:
        body = [node("Relu", "a", "b")]
        own = helper.make_function("our.own", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        nodes = [node("Conv", "x w", "c"), node("Act", "c", "r", domain="our.own"), node("Conv", "r v", "y")]
        weights = {"w": light("4x3x1x1"), "v": light("2x4x1x1", 1)}
        built = model(nodes, {"x": "1x3x4x4"}, ["y"], weights, domains={"our.own": 1}, functions=[own])
        done = quantized(built)
        assert done.proto.functions == built.proto.functions
        assert graph(done)[:2] == ["c = Conv(x', w')", "r = Act(c')"]
        assert_close(built, done)


class TestWhereWeightsAre:
    def test_shared_by_two_convolutions(self) -> None:
        nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r w b", "y")]
        built = model(nodes, {"x": "1x4x4x4"}, ["y"], {"w": light("4x4x1x1"), "b": light("4", 1)})
        done = quantized(built)
        assert graph(done) == ["c = Conv(x', w', b')", "r = Relu(c)", "y = Conv(r', w', b')"]
        assert "b" not in done.weights  # each has integers of its own, and nobody reads the floats
        assert done.weights["w"].dtype == np.int8
        assert op_types(done).count("DequantizeLinear") == 3 + 1 + 2
        assert_close(built, done)

    def test_read_by_others_too(self) -> None:
        nodes = [node("Gather", "w i", "e"), node("MatMul", "e w", "y"), node("Conv", "x k b", "z"), node("Neg", "b", "n")]
        weights = {"w": light("4x4"), "k": light("4x3x1x1", 1), "b": light("4", 2)}
        built = model(nodes, {"i": ("2", INT64), "x": "1x3x2x2"}, ["y", "z", "n"], weights)
        done = quantized(built)
        assert graph(done) == ["e = Gather(w, i)", "y = MatMul(e', w')", "z = Conv(x', k', b')", "n = Neg(b)"]
        for name in ("w", "b"):
            assert np.array_equal(done.weights[name], built.weights[name])
        assert done.weights["w_quantized"].dtype == np.int8
        assert_close(built, done, i=np.array([1, 3]), x=random(built.proto.graph.input[1]))

    @pytest.mark.parametrize(("move", "shape", "axis"), [("Transpose", "6x4", 0), ("Identity", "4x6", 1)])
    def test_read_through_ops_that_move_them(self, move: str, shape: str, axis: int) -> None:
        built = model([node(move, "w", "t"), node("MatMul", "x t", "y")], {"x": "2x4"}, ["y"], {"w": light(shape)})
        done = quantized(built)
        assert graph(done) == [f"t = {move}(w')", "y = MatMul(x', t)"]
        assert done.weights.shape("w_scale") == (6,)
        dequantize = next(n for n in done.proto.graph.node if n.input[0] == "w")
        assert dequantize.attribute[0].i == axis
        assert_close(built, done)

    def test_constant_nodes(self) -> None:
        stored = numpy_helper.from_array(light("4x3x1x1"), "any")
        nodes = [node("Constant", "", "w", value=stored), node("Conv", "x w", "y")]
        built = model(nodes, {"x": "1x3x4x4"})
        done = quantized(built)
        assert graph(done) == ["y = Conv(x', w')"]
        assert "w" not in done.weights
        assert_close(built, done)

    @pytest.mark.parametrize("opset", [11, 12])
    def test_ir_3_lists_them_as_inputs(self, opset: int) -> None:
        built = two_layers(opset, 3)
        built.proto.graph.input.extend(value(n, s) for n, s in (("w", "4x3x3x3"), ("b", "4"), ("v", "2x4x1x1")))
        built.proto.graph.output[0].CopyFrom(value("y", "1x2x4x4"))
        done = quantized(built)
        listed = {v.name: v.type.tensor_type.elem_type for v in done.proto.graph.input}
        assert listed == {"x": FLOAT} | {t.name: t.data_type for t in done.proto.graph.initializer}
        assert interface(done) == interface(built)
        assert_close(built, done)

    def test_a_tensor_that_became_unused_is_no_input_either(self) -> None:
        nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r w b", "y")]
        built = model(nodes, {"x": "1x4x4x4"}, ["y"], {"w": light("4x4x1x1"), "b": light("4", 1)}, opset=12, ir_version=3)
        built.proto.graph.input.extend((value("w", "4x4x1x1"), value("b", "4")))
        built.proto.graph.output[0].CopyFrom(value("y", "1x4x4x4"))
        done = quantized(built)
        assert "b" not in {v.name for v in done.proto.graph.input}
        assert_close(built, done)

    def test_as_it_is_and_transposed(self) -> None:
        """Their outputs are different axes of it, so that it has one scale."""
        nodes = [node("MatMul", "x w", "a"), node("Transpose", "w", "t"), node("MatMul", "a t", "y")]
        built = model(nodes, {"x": "2x4"}, ["y"], {"w": light("4x6")})
        done = quantized(built)
        assert graph(done) == ["a = MatMul(x', w')", "t = Transpose(w')", "y = MatMul(a', t)"]
        assert done.weights["w"].dtype == np.int8
        assert done.weights.shape("w_scale") == ()
        assert_close(built, done)

    def test_what_bodies_read_stays_float_for_them(self) -> None:
        inner = helper.make_graph([node("Conv", "r v", "z")], "loop", [], [value("z", None)])
        other = helper.make_graph([node("Conv", "x w", "p"), node("Slice", "p s e a", "q")], "else", [], [value("q", None)])
        ints = {name: np.array([number]) for name, number in (("s", 0), ("e", 2), ("a", 1))}
        nodes = [
            node("Conv", "x w", "c"),
            node("Relu", "c", "r"),
            node("If", "on", "branch", then_branch=inner, else_branch=other),
            node("Conv", "r v", "y"),
        ]
        built = model(
            nodes, {"x": "1x4x4x4", "on": ("", BOOL)}, ["y", "branch"], {"w": light("4x4x1x1"), "v": light("2x4x1x1", 1), **ints}
        )
        done = quantized(built)
        assert done.proto.graph.node[-1].op_type == "DequantizeLinear"
        assert [n for n in done.proto.graph.node if n.op_type == "If"] == [n for n in built.proto.graph.node if n.op_type == "If"]
        assert np.array_equal(done.weights["w"], built.weights["w"])
        for on in (True, False):
            assert_close(built, done, x=random(built.proto.graph.input[0]), on=np.array(on))
        skipped = {skip.node: skip.reason for skip in place(built, CV22, {}).skipped}
        assert skipped == {"branch": "stays float: its bodies are not quantized"}


class TestOpsets:
    @pytest.mark.parametrize("opset", [11, 13, 21])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_sixteen_bits_are_onnxruntimes_before_opset_21(self, opset: int, bits: int) -> None:
        built = two_layers(opset, 10 if opset == 21 else 8)
        wide = CV22.changed(activation_bits=16 if bits == 16 else None, weight_bits=16 if bits == 16 else None)
        done = quantized(built, wide)
        domains = {n.domain for n in done.proto.graph.node if n.op_type == "QuantizeLinear"}
        assert domains == {"com.microsoft" if bits == 16 and opset < 21 else ""}
        assert {o.domain for o in done.proto.opset_import} == {"", *domains}
        assert done.weights["v"].dtype == np.dtype(f"int{bits}")
        assert done.weights.shape("v_scale") == (() if opset < 13 else (2,))
        assert_close(built, done, 0.3 if bits == 8 else 2e-3)


class TestQuantizedBefore:
    def test_twice_is_once(self) -> None:
        for target in (CV22, X86):
            done = quantized(Model.from_proto(chain(3, 8, 4)), target)
            placement = place(done, target, {})
            assert not placement.units
            assert len(placement.quantized_before) == 2

    def test_what_is_float_is_quantized_around_what_is_not(self) -> None:
        part = quantized(two_layers(), kept=[2])
        assert graph(part) == ["c = Conv(x', w', b')", "r = Relu(c)", "y = Conv(r', v)"]
        done = quantized(part)
        assert graph(done) == ["c = Conv(x', w', b')", "r = Relu(c)", "y = Conv(r', v')"]
        scales = [name for name in part.weights if name.endswith("scale")]
        assert all(done.weights[name] == part.weights[name] for name in scales if part.weights.shape(name) == ())
        assert len([n for n in done.proto.graph.node if n.op_type == "QuantizeLinear"]) == 3
        assert_close(two_layers(), done)

    def test_floats_that_have_a_quantizer_are_read_through_it(self) -> None:
        nodes = [
            node("QuantizeLinear", "x s z", "q"),
            node("DequantizeLinear", "q s z", "d"),
            node("DequantizeLinear", "v vs vz", "vd"),
            node("MatMul", "d vd", "y"),
            node("MatMul", "x w", "n"),
        ]
        scales = {"s": np.float32(0.1), "z": np.int8(0), "v": np.ones((4, 4), np.int8), "vs": np.float32(0.1), "vz": np.int8(0)}
        done = quantized(model(nodes, {"x": "2x4"}, ["y", "n"], {"w": light("4x4"), **scales}))
        assert graph(done) == ["y = MatMul(x', v')", "n = MatMul(x', w')"]
        assert [n.input[1] for n in done.proto.graph.node if n.op_type == "QuantizeLinear"] == ["s", "n_scale"]

    def test_a_quantizer_for_integers_alone_goes_on_reading_floats(self) -> None:
        nodes = [node("Conv", "x w", "c"), node("QuantizeLinear", "c s z", "q"), node("Conv", "c w", "y")]
        built = model(nodes, {"x": "1x4x2x2"}, ["q", "y"], {"w": light("4x4x1x1"), "s": np.float32(0.1), "z": np.int8(0)})
        done = quantized(built)
        assert graph(done) == ["c = Conv(x', w')", "y = Conv(c', w')"]
        assert [n for n in done.proto.graph.node if n.name == "q"] == [built.proto.graph.node[1]]

    @staticmethod
    def trained(moved: str) -> Model:
        """As training in integers leaves it: a float weight through Q and DQ, activations through theirs."""
        nodes = [
            node("QuantizeLinear", "x xs xz", "xq"),
            node("DequantizeLinear", "xq xs xz", "xd"),
            node("QuantizeLinear", "w ws wz", "wq", axis=1),
            node("DequantizeLinear", "wq ws wz", "wd", axis=1),
        ]
        read, factor = "xd", "wd"
        if moved == "weight":
            nodes.append(node("Transpose", "wd", "wt", perm=[1, 0]))
            factor = "wt"
        if moved == "activation":
            nodes.append(node("Transpose", "xd", "xt", perm=[1, 0]))
            read = "xt"
        nodes += [node("MatMul", f"{read} {factor}", "m"), node("Relu", "m", "y")]
        scales = {"xs": np.float32(0.1), "xz": np.uint8(7), "ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}
        return model(nodes, {"x": "4x4"}, ["y"], {"w": light("4x4"), **scales})

    @pytest.mark.parametrize("moved", ["", "weight", "activation"])
    def test_trained_scales_stay(self, moved: str) -> None:
        built = self.trained(moved)
        placement = place(built, CV22, {})
        assert not placement.units
        assert len(placement.quantized_before) == 1
        assert not placement.skipped

    def test_integers_alone(self) -> None:
        nodes = [node("MatMulInteger", "x w", "y")]
        built = model(nodes, {"x": ("2x4", onnx.TensorProto.UINT8)}, ["y"], {"w": np.ones((4, 4), np.int8)})
        assert not place(built, CV22, {}).units

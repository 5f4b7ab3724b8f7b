"""Every pass sees the same graph: inputs with defaults, functions, settled Ifs, sequences, outputs that nothing reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxsparse import Annotate, Fold, Model, ModelError, ParamError, Prune, PruneChannels, Quantize, compare, layers
from onnxsparse.analysis.flattening import flatten
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner
from tests.folding.folded import BN, statistics
from tests.graphs import BOOL, FLOAT, model, node, op_types, proto, value, weight


def branch(nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto) -> onnx.GraphProto:
    """A body without inputs, whose output is the last node's."""
    out = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [out], list(initializers))


def quantized(built: Model, **feeds: np.ndarray) -> tuple[Model, list[str], dict[str, str]]:
    """The model, the notes, and why nodes stay float."""
    done = built.copy()
    report = Quantize(target="onnxruntime-x86").run(done, samples=[feeds])
    return done, list(report.notes), {skip.node: skip.reason for skip in report.skipped}


class TestDefaults:
    """From IR version 4 on, an initializer that is an input as well is a default, which a caller may override."""

    def built(self) -> Model:
        nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r v", "y")]
        made = proto(nodes, {"x": "2x4"}, ["y"], {"w": "4x16", "v": "16x3"})
        made.graph.input.append(value("w", "4x16"))
        return Model.from_proto(made)

    def test_it_is_pruned_as_the_weight_that_runs_unless_overridden(self) -> None:
        built = self.built()
        assert layers(built).totals.weight_macs == 2 * (4 * 16 + 16 * 3)
        Prune(sparsity=0.5, protect="none", scope="layer").run(built)
        assert np.count_nonzero(built.weights["w"] == 0) == 32
        assert [v.name for v in built.proto.graph.input] == ["x", "w"]

    def test_its_channels_stay(self) -> None:
        with pytest.raises(ParamError, match=r"all channels have to stay .*is an input, which callers may override"):
            PruneChannels(round_to=1).run(self.built())

    def test_its_layer_stays_float_and_the_input_remains(self) -> None:
        done, _, stays = quantized(self.built(), x=weight("2x4", 3))
        assert stays == {
            "a": "stays float: its weights are inputs, which callers may override; "
            "fold --constant-defaults makes them constants"
        }  # fmt: skip
        other = {"x": weight("2x4", 3), "w": np.zeros((4, 16), np.float32)}
        assert np.array_equal(runner(done).run(other)["y"], np.zeros((2, 3)))

    def test_a_condition_that_callers_may_override_settles_nothing(self) -> None:
        """Both branches count as possible, the larger one is taken."""
        then, other = (branch([node("MatMul", f"x {weights}", weights * 2)]) for weights in "wv")
        made = proto(
            [node("If", "c", "y", then_branch=then, else_branch=other)],
            {"x": "2x4"},
            ["y"],
            {"w": "4x16", "v": "4x3", "c": np.array(False)},
        )
        assert layers(Model.from_proto(made)).totals.macs == 2 * 4 * 3
        assert flatten(Model.from_proto(made))
        made.graph.input.append(value("c", "", BOOL))
        assert layers(Model.from_proto(made)).totals.macs == 2 * 4 * 16
        assert not flatten(Model.from_proto(made))


OWN = "our.own"


def function(name: str, nodes: list[onnx.NodeProto], output: str, attributes: Sequence[str] = ()) -> onnx.FunctionProto:
    """Of one input `a`."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]
    made: onnx.FunctionProto = helper.make_function(OWN, name, ["a"], [output], nodes, imports, attributes=list(attributes))
    return made


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return node("Constant", "", name, value=numpy_helper.from_array(array))


def dense_twice() -> onnx.ModelProto:
    """Two calls of one function that holds its weight, a Relu between; another function inside it."""
    inner = function("Product", [constant("w", weight("8x8", 5)), node("MatMul", "a w", "o", name="mm")], "o")
    outer = function("Relu", [node("Product", "a", "p", domain=OWN, name="call"), node("Relu", "p", "o")], "o")
    nodes = [
        node("Relu", "x", "h", domain=OWN, name="first"),
        node("MatMul", "h v", "k"),
        node("Relu", "k", "l", domain=OWN, name="second"),
        node("MatMul", "l u", "y"),
    ]
    nodes[1].metadata_props.add(key="who", value="me")
    weights = {"v": weight("8x8", 6), "u": weight("8x3", 7)}
    return proto(nodes, {"x": "2x8"}, ["y"], weights, domains={OWN: 1}, functions=[inner, outer], ir_version=10)


class TestFunctions:
    def test_a_small_constant_inside_is_a_weight_of_each_call(self) -> None:
        found = layers(Model.from_proto(dense_twice()))
        assert [(layer.node, layer.elements, layer.macs) for layer in found] == [
            ("first/call/mm", 64, 128),
            ("k", 64, 128),
            ("second/call/mm", 64, 128),
            ("y", 24, 48),
        ]
        assert found.totals.weights == 64 + 64 + 24

    def test_quantize_sees_what_inspect_counts(self) -> None:
        built = Model.from_proto(dense_twice())
        x = weight("2x8", 3)
        done, notes, stays = quantized(built, x=x)
        assert stays == {}
        assert notes[0] == "2 calls of model-local functions were inlined, so that passes see the nodes in them"
        assert not done.proto.functions
        assert [entry.value for n in done.proto.graph.node for entry in n.metadata_props] == ["me"]
        assert [name for name in done.weights if name.startswith("w")]
        assert (compare(built, done, Samples(({"x": x},))).worst_sqnr_db or 0) > 20

    def test_channels_go_through(self) -> None:
        """Its weight is shared by the calls: 8 rows that follow x stay, and with them its columns, which are v's rows."""
        built = Model.from_proto(dense_twice())
        PruneChannels(round_to=1).run(built)
        assert built.weights.shape("u") == (4, 3)

    def test_fold_writes_them_out_where_that_is_smaller(self, tmp_path: Path) -> None:
        """One call of a function whose batch normalisation goes into a convolution; nothing is gained in the other model."""
        weights = [constant(name, values) for name, values in statistics(8).items()]
        body = [*weights, constant("w", weight("8x3x1x1")), node("Conv", "a w", "c"), node("BatchNormalization", f"c {BN}", "o")]
        call = node("Block", "x", "y", domain=OWN, name="block")
        built = model([call], {"x": "1x3x4x4"}, domains={OWN: 1}, functions=[function("Block", body, "o")])
        done = built.copy()
        report = Fold().run(done)
        assert op_types(done) == ["Conv"]
        assert "1 × BatchNormalization folded into Conv" in report.notes
        assert done.written_bytes < built.written_bytes
        twice = Model.from_proto(dense_twice())
        assert Fold().run(twice).notes == ["nothing to fold"]
        assert len(twice.proto.functions) == 2

    def test_overloads_and_one_name_in_two_domains_are_told_apart(self) -> None:
        """f of 8 columns, its overload of 4, and another domain's of 2; another overload is not called, and so not inlined."""
        made = [
            function("F", [constant("w", weight(f"3x{n}")), node("MatMul", "a w", "o", name="mm")], "o") for n in (8, 4, 2, 1)
        ]
        made[1].overload, made[2].domain, made[3].overload = "wide", "other", "unused"
        calls = [node("F", "x", name, domain=d) for name, d in (("p", OWN), ("q", OWN), ("r", "other"))]
        calls[1].overload = "wide"
        join = node("Concat", "p q r", "y", axis=1)
        domains = {OWN: 1, "other": 1}
        built = model([*calls, join], {"x": "2x3"}, domains=domains, functions=made, ir_version=10)
        assert [(layer.node, layer.macs, layer.elements) for layer in layers(built)] == [
            ("p/mm", 2 * 3 * 8, 24), ("q/mm", 2 * 3 * 4, 12), ("r/mm", 2 * 3 * 2, 6)
        ]  # fmt: skip
        done, _, stays = quantized(built, x=weight("2x3", 3))
        assert stays == {}
        assert [(f.name, f.overload) for f in done.proto.functions] == [("F", "unused")]

    def test_a_function_of_another_opset_is_written_out_where_its_ops_are_the_same(self) -> None:
        """MatMul is since 13 what it is; ReduceMean is another one since 18."""
        for last, seen in ((node("Relu", "p", "o"), True), (node("ReduceMean", "p", "o", axes=[1]), False)):
            made = function("F", [constant("w", weight("4x5")), node("MatMul", "a w", "p", name="mm"), last], "o")
            built = proto([node("Relu", "x", "y")], {"x": "2x4"}, opset=18, domains={OWN: 1})
            built.graph.node[0].CopyFrom(node("F", "x", "y", domain=OWN))
            built.functions.append(made)
            if seen:
                assert layers(Model.from_proto(built)).totals.macs == 2 * 4 * 5
            else:
                with pytest.raises(ModelError, match="cannot be inlined"):
                    layers(Model.from_proto(built))

    def test_a_weight_that_a_call_gives_as_an_attribute_is_one(self) -> None:
        given = node("Constant", "", "w")
        given.attribute.add(name="value", ref_attr_name="matrix", type=onnx.AttributeProto.TENSOR)
        made = function("Dense", [given, node("MatMul", "a w", "o", name="mm")], "o", attributes=["matrix"])
        call = node("Dense", "x", "y", domain=OWN, matrix=numpy_helper.from_array(weight("4x5")))
        built = model([call], {"x": "2x4"}, domains={OWN: 1}, functions=[made])
        assert [(layer.macs, layer.elements) for layer in layers(built)] == [(2 * 4 * 5, 20)]
        Prune(sparsity=0.5, protect="none").run(built)
        assert layers(built).totals.zero_weights == 10
        _, _, stays = quantized(built, x=weight("2x4", 3))
        assert stays == {}

    def test_calls_in_a_body_are_seen_too(self) -> None:
        made = function("Dense", [constant("w", weight("4x5")), node("MatMul", "a w", "o", name="mm")], "o")
        then = branch([node("Dense", "x", "t", domain=OWN, name="call")])
        other = branch([node("Identity", "z", "e")])
        choice = node("If", "c", "y", then_branch=then, else_branch=other)
        inputs = {"x": "2x4", "z": "2x5", "c": ("", BOOL)}
        built = model([choice], inputs, domains={OWN: 1}, functions=[made])
        found = layers(built)
        assert [(layer.node, layer.macs, layer.elements) for layer in found] == [("y.then_branch/call/mm", 40, 20)]
        assert not found.unknown
        Annotate().run(built)
        call = next(a.g for a in built.proto.graph.node[0].attribute if a.name == "then_branch").node[0]
        assert {entry.key: entry.value for entry in call.metadata_props}["macs"] == "40"


class TestSettledIfs:
    def built(self, x: str = "2x4x5x5") -> Model:
        """A convolution in the branch that runs where x has four axes of which the second is 4, and another value's names."""
        sizes = [node("Shape", "x", "s"), node("Gather", "s one", "g"), node("Equal", "g four", "c")]
        inner = [node("Conv", "x w", "a", name="conv"), node("Relu", "a", "b")]
        then = branch(inner, numpy_helper.from_array(weight("16x4x3x3"), "w"))
        other = branch([node("Conv", "x v", "e", name="other")], numpy_helper.from_array(weight("16x4x3x3", 1), "v"))
        tail = [node("If", "c", "h", then_branch=then, else_branch=other, name="if"), node("Conv", "h u", "y", name="conv")]
        weights = {"one": np.array(1), "four": np.array(4), "u": weight("3x16x1x1", 2)}
        return model([*sizes, *tail], {"x": x}, ["y"], weights)

    def test_the_cut_goes_through_the_branch_that_runs(self) -> None:
        built = self.built()
        report = PruneChannels(round_to=1).run(built)
        assert "1 × If replaced by the branch that runs: constants and fixed sizes settle its condition" in report.notes
        assert (built.weights.shape("w"), built.weights.shape("u")) == ((8, 4, 3, 3), (3, 8, 1, 1))

    def test_fold_leaves_the_branch_and_the_same_outputs(self) -> None:
        built = self.built()
        done = built.copy()
        Fold().run(done)
        assert [(n.op_type, n.name) for n in done.proto.graph.node] == [
            ("Conv", "if.then_branch/conv"),
            ("Relu", "if.then_branch/b"),
            ("Conv", "conv"),
        ]
        assert [layer.node for layer in layers(done)] == [layer.node for layer in layers(built)]
        assert done.written_bytes < built.written_bytes
        x = {"x": weight("2x4x5x5", 4)}
        assert np.allclose(runner(done).run(x)["y"], runner(built).run(x)["y"])

    def test_quantize_reaches_it(self) -> None:
        _, notes, stays = quantized(self.built(), x=weight("2x4x5x5", 4))
        assert stays == {}
        assert any("2 layers" in note for note in notes)

    def test_a_size_that_was_assumed_settles_nothing(self) -> None:
        built = self.built("NxCxHxW").bind(["x:2,4,5,5"])
        assert layers(built).totals.macs == 16 * 4 * 9 * 2 * 9 + 3 * 16 * 2 * 9
        done = built.copy()
        Fold().run(done)
        assert "If" in op_types(done)

    def test_a_fixed_size_settles_it_where_others_are_open(self) -> None:
        """The second size is 4 whatever the others are, and 5 is not 4 at any of them."""
        for four, kept in ((4, "w"), (5, "v")):
            built = self.built("Nx4xHxW")
            built.weights["four"] = np.array(four)
            flatten(built)
            assert [n.op_type for n in built.proto.graph.node if n.op_type == "If"] == []
            assert kept in built.weights

    def test_ifs_of_one_name_are_told_apart(self) -> None:
        """One condition is true, the other is not; the inner one hangs in the branch that runs."""
        inner = node(
            "If", "f", "i", name="if", then_branch=branch([node("Neg", "x", "p")]), else_branch=branch([node("Abs", "x", "q")])
        )
        first = node("If", "t", "a", name="if", then_branch=branch([inner]), else_branch=branch([node("Exp", "x", "r")]))
        second = node(
            "If", "f", "b", name="if", then_branch=branch([node("Sin", "x", "s")]), else_branch=branch([node("Cos", "x", "u")])
        )
        built = model([first, second, node("Add", "a b", "y")], {"x": "4"}, weights={"t": np.array(True), "f": np.array(False)})
        done = built.copy()
        flatten(done)
        assert op_types(done) == ["Abs", "Cos", "Add"]
        x = weight("4")
        assert np.allclose(runner(done).run({"x": x})["y"], np.abs(x) + np.cos(x))

    def test_a_recorded_size_of_an_inner_value_settles_nothing(self) -> None:
        """Exporters record what they traced; the input says that it may be another."""
        built = self.built("NxCxHxW")
        nodes = built.proto.graph.node
        nodes[0].input[0] = "z"
        nodes.insert(0, node("Relu", "x", "z"))
        built.proto.graph.value_info.append(value("z", "2x4x5x5"))
        assert not flatten(built)

    def test_results_that_are_handed_on_or_given_twice(self) -> None:
        then = branch([node("Relu", "x", "a")])
        then.output.add().CopyFrom(then.output[0])
        then.output.add(name="x").type.CopyFrom(then.output[0].type)
        other = branch([node("Neg", "x", "e")])
        other.output.extend([other.output[0], other.output[0]])
        built = model([node("If", "c", "p q r", then_branch=then, else_branch=other), node("Sum", "p q r", "y")],
                      {"x": "4"}, weights={"c": np.array(True)})  # fmt: skip
        done = built.copy()
        assert flatten(done) == ["1 × If replaced by the branch that runs: constants and fixed sizes settle its condition"]
        assert op_types(done) == ["Relu", "Identity", "Identity", "Sum"]
        x = weight("4")
        assert np.allclose(runner(done).run({"x": x})["y"], 2 * np.maximum(x, 0) + x)

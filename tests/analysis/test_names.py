"""Names of nodes are for people: no pass gives another result where nodes have none, or share them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxsparse import annotations
from onnxsparse.analysis.layer_filter import choose
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.profiler import with_names
from onnxsparse.ir.graph import Graph, all_nodes
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import bodies
from onnxsparse.passes.annotate import Annotate
from onnxsparse.passes.fold import Fold
from onnxsparse.passes.prune import Prune
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.inputs import seeded_samples
from tests.graphs import Array, Naming, chain, model, node, op_types, proto, rename, value, weight


def residual() -> onnx.ModelProto:
    """A normalisation to fold, a shortcut, a Concat and a MatMul, whose weight is transposed on its way."""
    nodes = [
        node("Conv", "x a b", "c0", name="stem", pads=[1] * 4),
        node("BatchNormalization", "c0 s b m v", "n0", name="norm"),
        node("Relu", "n0", "r0"),
        node("Conv", "r0 c b", "c1", name="body", pads=[1] * 4),
        node("Add", "c1 r0", "sum"),
        node("Concat", "sum r0", "cat", axis=1),
        node("GlobalAveragePool", "cat", "pool"),
        node("Flatten", "pool", "flat"),
        node("Transpose", "d", "dt", perm=[1, 0]),
        node("MatMul", "flat dt", "y"),
    ]
    weights: dict[str, str | Array] = {"a": "8x3x3x3", "b": "8", "c": "8x8x3x3", "s": "8", "m": "8", "d": "5x16"}
    return proto(nodes, {"x": "1x3x6x6"}, ["y"], weights | {"v": np.abs(weight("8", 9)) + np.float32(1)})


def called() -> onnx.ModelProto:
    """A function called twice, between layers of the main graph."""
    inner = [node("MatMul", "a b", "t"), node("Relu", "t", "u"), node("MatMul", "u b", "o")]
    function = helper.make_function("local", "Dense", ["a", "b"], ["o"], inner, [helper.make_opsetid("", 17)])
    nodes = [
        node("MatMul", "x v", "g"),
        node("Dense", "g w", "h", domain="local"),
        node("Dense", "h w", "i", domain="local"),
        node("MatMul", "i u", "y"),
    ]
    weights: dict[str, str | Array] = {"v": "8x8", "w": "8x8", "u": "8x3"}
    return proto(nodes, {"x": "4x8"}, ["y"], weights, domains={"local": 1}, functions=[function])


def branching() -> onnx.ModelProto:
    built = chain(3, 8, 16, 4)
    rename(built.graph, Naming.REPEATED)
    return built


BUILT: list[Callable[[], onnx.ModelProto]] = [lambda: chain(3, 8, 16, 4), residual, called, branching]


def stripped(built: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no node has a name, those of bodies and functions neither."""
    twin = onnx.ModelProto()
    twin.CopyFrom(built)
    nodes = [*twin.graph.node, *(n for f in twin.functions for n in f.node)]
    for given in nodes:
        given.ClearField("name")
        nodes += [n for a in given.attribute for body in bodies(a) for n in body.node]
    return twin


def outcome(work: Model, run: Callable[[Model], Any]) -> list[object]:
    """What a pass leaves of a model, but for what nodes and new tensors are called."""
    run(work)
    found = layers(work)
    return [
        found.totals,
        [(layer.op_type, layer.macs, layer.weight_share) for layer in found],
        [(work.weights.shape(name), work.weights[name].tobytes()) for name in work.weights],
        [[(entry.key, entry.value) for entry in n.metadata_props] for _, n in all_nodes(Graph(work.proto.graph))],
    ]


def outcomes(built: onnx.ModelProto) -> dict[str, object]:
    """What every pass makes of a model."""
    start = Model.from_proto(built)
    data = seeded_samples(start, 2).feeds
    runs: dict[str, Callable[[Model], Any]] = {
        "inspect": layers,
        "prune": Prune(sparsity_op=0.5).run,
        "prune-channels": PruneChannels(ratio=0.5, round_to=1).run,
        "quantize": lambda work: Quantize(target="onnxruntime-x86", wide_layers=0).run(work, data),
        "fold": Fold().run,
        "annotate": Annotate(backend="cv22").run,
    }
    found: dict[str, object] = {name: outcome(Model.from_proto(built), run) for name, run in runs.items()}
    return found | {"report": deploy(start, "cv22").latency_ms}


@pytest.mark.parametrize("build", BUILT, ids=["chain", "residual", "called", "branching"])
def test_no_pass_depends_on_names(build: Callable[[], onnx.ModelProto]) -> None:
    with_names, without = outcomes(build()), outcomes(stripped(build()))
    assert with_names.keys() == without.keys()
    for name, found in with_names.items():
        assert found == without[name], name


def test_quantize_takes_layers_with_biases_and_no_names() -> None:
    """Its bias correction runs each layer's twin, and two nodes of the same name are no model."""
    built = Model.from_proto(stripped(chain(3, 8, 4)))
    report = Quantize(target="onnxruntime-x86").run(built, seeded_samples(built, 2).feeds)
    assert op_types(built).count("DequantizeLinear") == 3 + 2 + 2  # values, weights, biases
    assert "2 biases of 32 bits" in " ".join(report.notes)


def if_of(name: str, output: str, number: float) -> onnx.NodeProto:
    """An If whose branches add `number` and one more, which both call k, to x; their nodes are called `conv`."""
    branches: dict[str, Any] = {
        attribute: helper.make_graph(
            [node("Add", "x k", "sum", name="conv")],
            attribute,
            [],
            [value("sum", "4")],
            [numpy_helper.from_array(np.full(4, number + at, np.float32), "k")],
        )
        for at, attribute in enumerate(("else_branch", "then_branch"))
    }
    return node("If", "c", output, name=name, **branches)


class TestBodies:
    def built(self, *names: str) -> Model:
        nodes = [if_of(name, f"y{at}", 10.0 * at) for at, name in enumerate(names)]
        return model(nodes, {"x": "4", "c": ("", 9)}, [f"y{at}" for at in range(len(names))])

    @pytest.mark.parametrize("names", [("same", "same"), ("y1", ""), ("", ""), ("a", "b")])
    def test_tensors_of_the_same_name_are_told_apart(self, names: tuple[str, str]) -> None:
        built = self.built(*names)
        graph = Graph(built.proto.graph)
        found = [
            built.weights[built.weights.find(body.scope, "k") or ""][0] for at in range(2) for body in graph.bodies(at).values()
        ]
        assert found == [0, 1, 10, 11]
        assert len(built.weights) == 4

    def test_a_body_is_shown_under_its_node(self) -> None:
        graph = Graph(self.built("first", "").proto.graph)
        assert [body.names for body in graph.bodies(0).values()] == [["first.else_branch/conv"], ["first.then_branch/conv"]]
        assert [body.names for body in graph.bodies(1).values()] == [["#1 y1.else_branch/conv"], ["#1 y1.then_branch/conv"]]


def every_name(built: onnx.ModelProto) -> list[str]:
    return [name for name, _ in all_nodes(Graph(built.graph))]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["", "", ""], ["#0 a", "#1 b", "#2 y"]),
        (["n", "n", "m"], ["#0 a", "#1 b", "m"]),
        (["#1 b", "", "m"], ["#0 a", "#1 b", "m"]),  # a name that looks like what another node without one is called
        (["#9 z", "", "m"], ["#9 z", "#1 b", "m"]),
    ],
)
def test_every_node_is_called_differently(names: list[str], shown: list[str]) -> None:
    nodes = [node("Relu", "x", "a", name=names[0]), node("Relu", "a", "b", name=names[1]), node("Relu", "b", "y", name=names[2])]
    assert every_name(proto(nodes, {"x": "4"})) == shown


def test_a_name_like_a_path_into_a_body_is_not_taken_for_it() -> None:
    nodes = [if_of("if", "i", 1.0), node("Relu", "i", "y", name="if.then_branch/conv")]
    found = every_name(proto(nodes, {"x": "4", "c": ("", 9)}))
    assert found == ["if", "if.else_branch/conv", "if.then_branch/conv", "#1 y"]


def test_nodes_after_a_call_have_the_same_name_in_every_pass() -> None:
    """A function of three nodes that is written out moves what follows, and so what a node without a name is called."""
    built = Model.from_proto(stripped(called()))
    inspected = [layer.within for layer in layers(built)]
    assert inspected == ["#0 g", "#1 h", "#1 h", "#2 i", "#2 i", "#3 y"]
    assert choose(layers(built), ["#3 y"], "--only", "m") == {"#3 y"}
    Quantize(target="onnxruntime-x86", exclude=("#3 y",)).run(built, seeded_samples(built, 1).feeds)
    left = [n.input[1] for n in built.proto.graph.node if n.op_type == "MatMul"]
    assert left[-1] == "u"
    assert left[0] != "v"


def test_a_layer_that_is_called_like_a_part_of_a_call_is_its_own() -> None:
    inner = [node("MatMul", "a b", "o", name="fc")]
    function = helper.make_function("local", "F", ["a", "b"], ["o"], inner, [helper.make_opsetid("", 17)])
    nodes = [node("F", "x w", "h", name="model", domain="local"), node("MatMul", "h w", "y", name="model/head")]
    built = model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"local": 1}, functions=[function])
    assert [(layer.node, layer.within) for layer in layers(built)] == [("model/fc", "model"), ("model/head", "model/head")]


def test_netron_is_told_nothing_of_a_name_that_a_body_repeats() -> None:
    nodes = [node("MatMul", "x w", "h", name="conv"), node("MatMul", "h w", "z", name="own"), if_of("if", "y", 1.0)]
    built = model(nodes, {"x": "4x4", "c": ("", 9)}, ["y", "z"], {"w": "4x4"})
    text, unreachable = annotations.attachment(built.proto, layers(built))
    assert '"target": "own"' in text
    assert '"target": "conv"' not in text
    assert unreachable == 1


def test_the_profiler_tells_a_body_from_a_node_of_the_same_name() -> None:
    nodes = [node("Relu", "x", "h", name="conv"), if_of("if", "y", 1.0)]
    named = with_names(model(nodes, {"x": "4", "c": ("", 9)}, ["h", "y"])).proto
    inner = [n.name for a in named.graph.node[1].attribute for n in a.g.node]
    assert named.graph.node[0].name == "conv"
    assert inner == ["if.else_branch/conv", "if.then_branch/conv"]

"""Sizes that cannot be: which node is named, with what exit code, and that no model is refused which runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import ParamError, layers
from onnxsparse.ir.model import Model
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner
from tests.commands import Run, files
from tests.graphs import BOOL, FLOAT, INT64, model, node, proto

MS = "com.microsoft"
ints = np.array


def built_in_batch() -> onnx.ModelProto:
    """A Reshape to 1x128 after a convolution: at batch 4 it gets 4·8·4·4 = 512 elements for 128."""
    nodes = [node("Conv", "x w", "c"), node("Reshape", "c s", "r", name="flatten"), node("MatMul", "r v", "y")]
    return proto(nodes, {"x": "Nx3x4x4"}, ["y"], {"w": "8x3x1x1", "s": ints([1, 128]), "v": "128x5"})


COMMANDS: list[list[str]] = [
    ["inspect", "in.onnx"],
    ["prune", "in.onnx", "out.onnx", "--sparsity-op", "0.5"],
    ["prune-channels", "in.onnx", "out.onnx"],
    ["annotate", "in.onnx", "out.onnx"],
    ["fix-shapes", "in.onnx", "out.onnx"],
    ["quantize", "in.onnx", "out.onnx", "--data", "calib.npz"],
    ["report", "in.onnx"],
    ["run", "recipe.yaml", "in.onnx", "out.onnx"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_every_command_refuses_sizes_that_cannot_be(
    command: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(built_in_batch(), "in.onnx")
    Path("recipe.yaml").write_text("passes:\n  - prune: {sparsity_op: 0.5}\n")
    np.savez("calib.npz", x=np.zeros((4, 3, 4, 4), np.float32))
    before = files(tmp_path)
    line = run.fails(2, *command, "--dim", "N=4")
    assert "in.onnx cannot run with --dim N=4: Reshape 'flatten'" in line
    assert "4x8x4x4 to 1x128: 512 elements meet 128" in line
    assert files(tmp_path) == before


def test_fix_shapes_takes_the_size_that_can_be(run: Run, tmp_path: Path) -> None:
    onnx.save(built_in_batch(), tmp_path / "in.onnx")
    assert run("fix-shapes", tmp_path / "in.onnx", tmp_path / "out.onnx", "--dim", "N=1") == 0


CASES: list[tuple[str, list[onnx.NodeProto], Mapping[str, str], Mapping[str, Any], str]] = [
    ("Gemm", [node("Gemm", "x w", "y")], {"x": "Nx3"}, {"w": "4x5"}, "cannot multiply 2x3 by 4x5: 3 meets 4"),
    ("Gemm transposed", [node("Gemm", "x w", "y", transB=1)], {"x": "Nx3"}, {"w": "5x4"}, "multiply 2x3 by 4x5: 3 meets 4"),
    ("Gemm's bias", [node("Gemm", "x w c", "y")], {"x": "Nx4"}, {"w": "4x5", "c": "3"}, "a bias of 3 to 2x5: 3 meets 5"),
    ("MatMul", [node("MatMul", "x w", "y")], {"x": "7xNx3"}, {"w": "4x5"}, "multiply 7x2x3 by 4x5: 3 meets 4"),
    ("MatMul's batch", [node("MatMul", "x w", "y")], {"x": "Nx6x3"}, {"w": "5x3x4"}, "2x6x3 by 5x3x4: 2 meets 5"),
    ("Conv", [node("Conv", "x w", "y")], {"x": "Nx3x8x8"}, {"w": "4x5x3x3"}, "3 channels meet 5"),
    ("Conv in groups", [node("Conv", "x w", "y", group=2)], {"x": "Nx3x8x8"}, {"w": "4x2x3x3"}, "3 channels meet 4"),
    ("a kernel not in groups", [node("Conv", "x w", "y", group=2)], {"x": "Nx4x8x8"}, {"w": "3x2x3x3"}, "3 channels of a kernel"),
    (
        "SpaceToDepth",
        [node("SpaceToDepth", "x", "y", blocksize=2)],
        {"x": "Nx3x5x4"},
        {},
        "cannot divide 5 positions into blocks of 2",
    ),
    (
        "a skip of another length",
        [node("SkipLayerNormalization", "x s g", "y", domain=MS)],
        {"x": "3xNx8"},
        {"s": "3x4x8", "g": "8"},
        "cannot normalise 3x2x8 with 3x4x8: 2 meets 4",
    ),
    (
        "an initial state",
        [node("LSTM", "x w r _ _ h", "y", hidden_size=8)],
        {"x": "5xNx3"},
        {"w": "1x32x3", "r": "1x32x8", "h": "1x1x8"},
        "an initial state of 1x1x8: 2 meets 1",
    ),
    (
        "heads of MultiHeadAttention",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=3)],
        {"x": "1xNx16", "k": "1x6x16", "v": "1x6x16"},
        {},
        "the last axis of 1x2x16 into 3 heads",
    ),
    (
        "keys and values of MultiHeadAttention",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=4)],
        {"x": "1x5x16", "k": "1xNx16", "v": "1x6x16"},
        {},
        "cannot attend from 1x5x16 to 1x2x16 and 1x6x16: 2 meets 6",
    ),
    ("a slope", [node("PRelu", "x s", "y")], {"x": "1xNx4x4"}, {"s": "4x1x1"}, "cannot broadcast 1x2x4x4 and 4x1x1: 2 meets 4"),
    ("a bias of BiasGelu", [node("BiasGelu", "x c", "y", domain=MS)], {"x": "4xN"}, {"c": "3"}, "by 3 to 4x2: 3 meets 2"),
    ("Conv of another rank", [node("Conv", "x w", "y")], {"x": "Nx3x8"}, {"w": "4x3x3x3"}, "3 axes meet 4"),
    ("a kernel too large", [node("Conv", "x w", "y")], {"x": "1x3xNx9"}, {"w": "4x3x3x3"}, "kernel spans 3, its padded input 2"),
    ("ConvTranspose", [node("ConvTranspose", "x w", "y")], {"x": "Nx3x8"}, {"w": "4x5x3"}, "3 channels meet 4"),
    ("Add", [node("Add", "x w", "y")], {"x": "5xN"}, {"w": "3"}, "cannot broadcast 5x2 and 3: 2 meets 3"),
    ("Concat", [node("Concat", "x w", "y", axis=1)], {"x": "Nx3"}, {"w": "4x3"}, "along axis 1: 2 meets 4"),
    ("Concat of ranks", [node("Concat", "x r", "y", axis=0)], {"x": "Nx3", "r": "N"}, {}, "1 axes meet 2"),
    ("Split", [node("Split", "x s", "y z", axis=0)], {"x": "Nx3"}, {"s": ints([1, 2])}, "cannot take 2x3 and [1, 2]"),
    ("Einsum", [node("Einsum", "x w", "y", equation="ij,jk->ik")], {"x": "3xN"}, {"w": "4x5"}, "2 meets 4 along 'j'"),
    ("Gather", [node("Gather", "x i", "y", axis=0)], {"x": "Nx3"}, {"i": ints([0, 2])}, "cannot take index 2 of 2 in 2x3"),
    ("LayerNormalization", [node("LayerNormalization", "x g", "y")], {"x": "5xN"}, {"g": "3"}, "by 3 to 5x2: 3 meets 2"),
    (
        "FusedMatMul",
        [node("FusedMatMul", "x w", "y", domain=MS, transA=1)],
        {"x": "Nx3"},
        {"w": "4x5"},
        "cannot multiply 3x2 by 4x5: 2 meets 4",
    ),
    (
        "FusedConv's residual",
        [node("FusedConv", "x w _ z", "y", domain=MS, activation="Relu")],
        {"x": "1x3x8x8", "z": "1x4xNx6"},
        {"w": "4x3x3x3"},
        "cannot add 1x4x2x6 to 1x4x6x6",
    ),
    (
        "behind a fused op and shape arithmetic",
        [
            node("BiasGelu", "x b", "a", domain=MS),
            node("Shape", "a", "s"),
            node("Concat", "s one", "t", axis=0),
            node("Reshape", "a t", "r"),  # 2x3x1
            node("MatMul", "r w", "y"),
        ],
        {"x": "Nx3"},
        {"b": "3", "one": ints([1]), "w": "4x5"},
        "cannot multiply 2x3x1 by 4x5: 1 meets 4",
    ),
]


@pytest.mark.parametrize(("nodes", "inputs", "weights", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_node_and_the_two_sizes_are_named(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any], reason: str
) -> None:
    nodes[-1].name = ""  # unnamed, as from helper.make_node
    built = loaded(nodes, inputs, weights)
    with pytest.raises(ParamError) as caught:
        layers(built.bind(dim=["N=2"]))
    assert f"{nodes[-1].op_type} '#{len(nodes) - 1} {nodes[-1].output[0]}'" in str(caught.value)
    assert reason in str(caught.value)


def loaded(nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any]) -> Model:
    """A model whose output says nothing of its shape: the builder infers, which fails at some of these sizes."""
    made = proto([node("Identity", "x", "y")], inputs, ["y"], weights, domains={MS: 1})
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, None))
    return Model.from_proto(made)


def test_a_size_that_is_assumed_is_said_to_be() -> None:
    built = Model.from_proto(proto([node("Add", "x w", "y")], {"x": "N"}, ["y"], {"w": "1"}))
    assert layers(built).totals.macs == 0
    wrong = loaded([node("Reshape", "x s", "y")], {"x": "Nx8"}, {"s": ints([2, 8])})
    with pytest.raises(ParamError, match=r"cannot run where axis 0 of input 'x' is 1 \(batch\): Reshape .* give the sizes"):
        layers(wrong)
    assert layers(wrong.bind(dim=["N=2"])).totals.macs == 0


def test_a_file_that_fixes_such_sizes_itself_is_at_fault(run: Run, tmp_path: Path) -> None:
    wrong = loaded([node("Gemm", "x w", "y", name="fc")], {"x": "2x3"}, {"w": "4x5"})
    with pytest.raises(ParamError, match="cannot run: Gemm 'fc' cannot multiply 2x3 by 4x5: 3 meets 4"):
        layers(wrong)
    onnx.save(wrong.proto, tmp_path / "in.onnx")
    assert "Gemm 'fc'" in run.fails(2, "inspect", tmp_path / "in.onnx")


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)])


BROKEN, SOUND = node("MatMul", "x w", "t", name="broken"), node("Relu", "x", "e")


def choice(then: onnx.NodeProto, other: onnx.NodeProto, **condition: Any) -> Model:
    other.output[0] = "e"
    nodes = [node("If", "c", "y", name="if", then_branch=branch("t", then), else_branch=branch("e", other))]
    inputs = {"x": "Nx3"} | ({} if condition else {"c": ""})
    built = loaded(nodes, inputs, {"w": "4x5", **condition})
    for value in built.proto.graph.input:
        if value.name == "c":
            value.type.tensor_type.elem_type = BOOL
    return built.bind(dim=["N=2"])


def test_a_branch_that_may_not_be_taken_is_no_reason() -> None:
    layers(choice(BROKEN, SOUND))
    with pytest.raises(ParamError, match=r"MatMul 'if\.then_branch/broken' cannot multiply 2x3 by 4x5"):
        layers(choice(BROKEN, SOUND, c=np.array(True)))
    layers(choice(BROKEN, SOUND, c=np.array(False)))
    with pytest.raises(ParamError, match="broken"):
        layers(choice(BROKEN, onnx.NodeProto.FromString(BROKEN.SerializeToString())))


def loop(trips: np.ndarray | None) -> Model:
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("MatMul", "x w", "t", name="broken"), node("Identity", "h", "k")],
        "body",
        [helper.make_tensor_value_info(n, k, s) for n, k, s in (("i", INT64, []), ("go", BOOL, []), ("h", FLOAT, None))],
        [helper.make_tensor_value_info(n, k, s) for n, k, s in (("on", BOOL, []), ("k", FLOAT, None), ("t", FLOAT, None))],
    )
    inputs = {"x": "Nx3"} | ({"n": ""} if trips is None else {})
    weights = {"w": "4x5", "yes": np.array(True)} | ({} if trips is None else {"n": trips})
    built = loaded([node("Loop", "n yes x", "y s", name="loop", body=body)], inputs, weights)
    if trips is None:
        built.proto.graph.input[1].type.tensor_type.elem_type = INT64
    return built.bind(dim=["N=2"])


def test_a_body_counts_where_it_is_sure_to_turn() -> None:
    with pytest.raises(ParamError, match=r"'loop\.body/broken'"):
        layers(loop(np.array(3)))
    layers(loop(np.array(0)))
    layers(loop(None))


def test_a_node_in_a_function_is_named_with_its_call() -> None:
    function = helper.make_function(
        "local", "Dense", ["a", "b"], ["o"], [node("MatMul", "a b", "o", name="product")], [helper.make_opsetid("", 17)]
    )
    made = loaded([node("Dense", "x w", "y", name="first", domain="local")], {"x": "Nx3"}, {"w": "4x5"}).proto
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(ParamError, match="MatMul 'first/product' cannot multiply 2x3 by 4x5"):
        layers(Model.from_proto(made).bind(dim=["N=2"]))


RUNS: list[tuple[str, list[onnx.NodeProto], Mapping[str, str], Mapping[str, Any]]] = [
    (
        "an empty part of a Concat",  # onnx's inference refuses it, onnxruntime skips it
        [node("Slice", "x s e a", "z"), node("Concat", "z x", "y", axis=1)],
        {"x": "Nx3"},
        {"s": ints([9]), "e": ints([10]), "a": ints([0])},
    ),
    ("a skip that broadcasts", [node("SkipLayerNormalization", "x s g", "y", domain=MS)], {"x": "Nx4x8"}, {"s": "4x8", "g": "8"}),
    ("a scale of all axes", [node("LayerNormalization", "x g", "y", axis=2)], {"x": "Nx4x8"}, {"g": "1x4x8"}),
    ("a kernel that padding makes room for", [node("Conv", "x w", "y", pads=[1] * 4)], {"x": "Nx3x1x1"}, {"w": "4x3x3x3"}),
    ("a Reshape with zeros", [node("Reshape", "x s", "y")], {"x": "Nx8"}, {"s": ints([0, 4, 2])}),
    ("a vector", [node("MatMul", "x w", "y")], {"x": "Nx5x4"}, {"w": "4"}),
    ("an index from the end", [node("Gather", "x i", "y")], {"x": "Nx3"}, {"i": ints([-2, 1])}),
]


@pytest.mark.parametrize(("nodes", "inputs", "weights"), [case[1:] for case in RUNS], ids=[case[0] for case in RUNS])
def test_what_runs_is_not_refused(nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any]) -> None:
    built = loaded(nodes, inputs, weights).bind(dim=["N=2"])
    layers(built)
    assert runner(built).run(seeded_samples(built, 1).feeds[0])["y"].size


def test_a_node_that_no_output_needs_is_no_reason() -> None:
    nodes = [node("MatMul", "x w", "z"), node("Relu", "x", "y")]
    layers(loaded(nodes, {"x": "Nx3"}, {"w": "4x5"}).bind(dim=["N=2"]))


def test_recorded_shapes_are_no_evidence() -> None:
    info = [helper.make_tensor_value_info("a", FLOAT, [7, 7])]
    built = model([node("Relu", "x", "a"), node("MatMul", "a w", "y")], {"x": "2x3"}, ["y"], {"w": "3x5"})
    built.proto.graph.value_info.extend(info)
    assert layers(built).totals.macs == 2 * 3 * 5

"""Sizes that cannot be: which node is named, with what exit code, and that no model is refused which runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import BackendError, ParamError, layers
from onnxsparse.ir.model import Model
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner
from tests.analysis.conflict_cases import ACCEPTED, MS, REFUSED
from tests.commands import Run, files
from tests.graphs import BOOL, FLOAT, INT64, model, node, proto

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


@pytest.mark.parametrize(
    ("nodes", "inputs", "weights", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_the_node_and_the_two_sizes_are_named(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any], reason: str
) -> None:
    nodes[-1].name = ""  # unnamed, as from helper.make_node
    built = loaded(nodes, inputs, weights)
    with pytest.raises(ParamError) as caught:
        layers(built.bind(dim=["N=2"]))
    assert f"{nodes[-1].op_type} '#{len(nodes) - 1} {nodes[-1].output[0]}'" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(("nodes", "inputs", "weights"), [case[1:4] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_onnxruntime_refuses_these_sizes_too(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any]
) -> None:
    built = loaded(nodes, inputs, weights).bind(dim=["N=2"])
    with pytest.raises(BackendError):
        runner(built).run(seeded_samples(built, 1).feeds[0])


ATTENTION: list[tuple[int, Mapping[str, str], str, str | None]] = [
    (3, {"x": "1xNx16", "k": "1x4x16", "v": "1x4x16"}, "2x4", "cannot divide the last axis of 1x2x16 into 3 heads"),
    (2, {"x": "1xNx16", "k": "1x4x8", "v": "1x4x8"}, "2x4", "cannot attend from 1x2x16 to 1x4x8: 8 meets 4"),
    (2, {"x": "1x3x16", "k": "1xNx16", "v": "1x4x16"}, "3x4", "cannot attend from 1x3x16 to 1x4x16: 2 meets 4"),
    (2, {"x": "1xNx16", "k": "1x4x16", "v": "1x4x16"}, "3x4", "cannot mask 1x2x16 with 3x4: 2 meets 3"),
    (2, {"x": "1xNx16", "k": "1x4x16", "v": "1x4x6"}, "2x4", None),
    (2, {"x": "3xNx16", "k": "3x4x16", "v": "3x4x16"}, "1x1x2x4", None),
]


@pytest.mark.parametrize(("heads", "inputs", "mask", "reason"), ATTENTION)
def test_attention_of_the_standard_is_checked(heads: int, inputs: Mapping[str, str], mask: str, reason: str | None) -> None:
    built = loaded([node("Attention", "x k v m", "y", q_num_heads=heads, kv_num_heads=heads)], inputs, {"m": mask})
    built.proto.opset_import[0].version, built.proto.ir_version = 23, 11
    built = built.bind(dim=["N=2"])
    if reason is None:
        layers(built)
        assert runner(built).run(seeded_samples(built, 1).feeds[0])["y"].size
        return
    with pytest.raises(ParamError, match=reason):
        layers(built)
    with pytest.raises(BackendError):
        runner(built).run(seeded_samples(built, 1).feeds[0])


def loaded(nodes: list[onnx.NodeProto], inputs: Mapping[str, str], weights: Mapping[str, Any]) -> Model:
    """A model whose output says nothing of its shape: the builder infers, which fails at some of these sizes."""
    made = proto([node("Identity", "x", "y")], inputs, ["y"], weights, domains={MS: 1})
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, None))
    return Model.from_proto(made)


def test_fix_shapes_refuses_what_onnxruntime_refuses(run: Run, tmp_path: Path) -> None:
    """Heads of 12 / 4 = 3 elements: onnxruntime's kernel wants multiples of 8, which is no fault of the model."""
    attention = node("GroupQueryAttention", "q q q _ _ last all", "y k v", domain=MS, num_heads=4, kv_num_heads=4)
    built = loaded([attention], {"q": "1x4xN"}, {"last": np.array([3], np.int32), "all": np.array(4, np.int32)})
    onnx.save(built.proto, tmp_path / "in.onnx")
    before = files(tmp_path)
    line = run.fails(2, "fix-shapes", tmp_path / "in.onnx", tmp_path / "out.onnx", "--dim", "N=12")
    assert "in.onnx cannot run with --dim N=12: GroupQueryAttention 'y' is refused by onnxruntime: head_size" in line
    assert line.endswith("--no-compare writes the model anyway\n")
    assert files(tmp_path) == before
    assert run("fix-shapes", tmp_path / "in.onnx", tmp_path / "out.onnx", "--dim", "N=12", "--no-compare") == 0


def test_values_that_onnxruntime_refuses_are_no_reason(run: Run, tmp_path: Path) -> None:
    """The random position, 1, is outside an axis of size 1; other positions are not."""
    built = loaded([node("GatherElements", "x i", "y")], {"x": "Nx3", "i": "1x3"}, {})
    built.proto.graph.input[1].type.tensor_type.elem_type = INT64
    onnx.save(built.proto, tmp_path / "in.onnx")
    assert run("fix-shapes", tmp_path / "in.onnx", tmp_path / "out.onnx", "--dim", "N=1") == 0
    assert "the outputs were not compared: onnxruntime cannot run in.onnx" in run.out


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


def test_a_loop_is_checked_in_its_first_round() -> None:
    """MatMul of a carried Nx3 by 4x4, whose result is carried on: the sizes of round 1 do not match, whatever round 2 has."""

    def carrying(width: str, trips: int) -> Model:
        body = helper.make_graph(
            [node("Identity", "go", "on"), node("MatMul", "h w", "k", name="broken")],
            "body",
            [helper.make_tensor_value_info(n, k, s) for n, k, s in (("i", INT64, []), ("go", BOOL, []), ("h", FLOAT, None))],
            [helper.make_tensor_value_info(n, k, s) for n, k, s in (("on", BOOL, []), ("k", FLOAT, None))],
        )
        weights = {"w": "4x4", "yes": np.array(True), "n": np.array(trips)}
        return loaded([node("Loop", "n yes x", "y", name="loop", body=body)], {"x": f"Nx{width}"}, weights).bind(dim=["N=2"])

    with pytest.raises(ParamError, match=r"MatMul 'loop\.body/broken' cannot multiply 2x3 by 4x4: 3 meets 4"):
        layers(carrying("3", 2))
    layers(carrying("3", 0))
    layers(carrying("4", 2))


def test_positions_outside_a_sequence_are_named() -> None:
    nodes = [node("SplitToSequence", "x", "s"), node("SequenceErase", "s i", "t"), node("ConcatFromSequence", "t", "y", axis=0)]
    for at in (2, -3):
        with pytest.raises(ParamError, match=f"SequenceErase 't' cannot take position {at} of a sequence of 2"):
            layers(loaded(nodes, {"x": "Nx3"}, {"i": ints(at)}).bind(dim=["N=2"]))
    layers(loaded(nodes, {"x": "Nx3"}, {"i": ints(-2)}).bind(dim=["N=2"]))


def test_a_node_in_a_function_is_named_with_its_call() -> None:
    function = helper.make_function(
        "local", "Dense", ["a", "b"], ["o"], [node("MatMul", "a b", "o", name="product")], [helper.make_opsetid("", 17)]
    )
    made = loaded([node("Dense", "x w", "y", name="first", domain="local")], {"x": "Nx3"}, {"w": "4x5"}).proto
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(ParamError, match="MatMul 'first/product' cannot multiply 2x3 by 4x5"):
        layers(Model.from_proto(made).bind(dim=["N=2"]))


@pytest.mark.parametrize(("nodes", "inputs", "weights"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
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

"""Files made to hurt: a clear line or a correct result, never a traceback, a hang or a partial file."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.robustness.fuzz import MODELS, alarm, attempt, branches, mutate
from onnxsparse.cli import app as cli
from onnxsparse.errors import ModelError
from tests.commands import files
from tests.graphs import chain, node, proto, value


def cycle() -> onnx.ModelProto:
    built = chain(3, 8, 4)
    built.graph.node.extend([node("Add", "a y", "b"), node("Concat", "b b", "a", axis=0)])
    return built


def cycle_in_weights() -> onnx.ModelProto:
    built = chain(3, 4)
    built.graph.node.insert(0, node("Transpose", "q", "p"))
    built.graph.node.insert(0, node("Identity", "p", "q"))
    built.graph.node[2].input[1] = "q"
    return built


def twice_the_same_name() -> onnx.ModelProto:
    built = chain(3, 8, 8, 4)
    for at in built.graph.node:
        at.name = "same"
    return built


def twice_the_same_value() -> onnx.ModelProto:
    built = chain(3, 8, 8, 4)
    built.graph.node[2].output[0] = built.graph.node[0].output[0]
    return built


def overflowing_dimensions() -> onnx.ModelProto:
    built = chain(3, 4)
    built.graph.initializer[0].dims[:] = [2**40, 2**40, 2**40, 3]
    return built


def negative_dimensions() -> onnx.ModelProto:
    built = chain(3, 4)
    built.graph.initializer[0].dims[0] = -4
    return built


def huge_input() -> onnx.ModelProto:
    return proto([node("MatMul", "x w", "y")], {"x": f"{2**40}x{2**20}x8"}, ["y"], {"w": "8x8"})


def huge_expansion() -> onnx.ModelProto:
    shape = numpy_helper.from_array(np.array([2**40, 2**10], np.int64), "s")
    built = proto([node("ConstantOfShape", "s", "big"), node("MatMul", "x w", "y")], {"x": "2x8"}, ["y"], {"w": "8x8"})
    built.graph.initializer.append(shape)
    return built


def opset(version: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        built = chain(3, 4)
        built.opset_import[0].version = version
        return built

    return make


def no_such_opset_domain() -> onnx.ModelProto:
    built = chain(3, 4)
    built.graph.node[0].domain = "acme"
    return built


def endless_function() -> onnx.ModelProto:
    body = [node("F", "a", "b", domain="local")]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
    graph = helper.make_graph([node("F", "x", "y", domain="local")], "g", [value("x", "4")], [value("y", "4")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)


def wrong_type() -> onnx.ModelProto:
    built = chain(3, 64)
    built.graph.initializer[0].data_type = TensorProto.STRING
    return built


def no_such_type() -> onnx.ModelProto:
    built = chain(3, 64)
    built.graph.initializer[0].data_type = 42
    return built


def scale_along_text() -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", "q s", "w", axis=b"0"), node("MatMul", "x w", "y")]
    built = proto([node("Identity", "x", "y")], {"x": "2x8"}, ["y"], {"q": np.ones((8, 8), np.int8), "s": "8"})
    del built.graph.node[:]
    built.graph.node.extend(nodes)
    return built


def with_body(op: str, body: list[onnx.NodeProto], *inputs: str) -> onnx.ModelProto:
    """A node whose body has `inputs` and gives out `go` and `h`; its attributes and the types of its values are missing."""
    read, made = ([onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, ("go", "h")))
    built = chain(3, 8, 8)
    built.graph.node.append(node(op, "n yes y", "z", body=helper.make_graph(body, "body", read, made)))
    built.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="z"))
    built.graph.initializer.extend(
        numpy_helper.from_array(np.array(held), name)
        for name, held in (("n", 3), ("yes", True), ("w", np.ones((8, 8), np.float32)))
    )
    return built


PRODUCT = node("MatMul", "x w", "h")


def scan_of_unknown_inputs() -> onnx.ModelProto:
    return with_body("Scan", [PRODUCT, node("Identity", "x", "go")], "x")


def loop_while_nothing() -> onnx.ModelProto:
    return with_body("Loop", [PRODUCT, node("Identity", "", "go")], "i", "on", "x")


def loop_while_damaged() -> onnx.ModelProto:
    damaged = TensorProto(name="go", data_type=TensorProto.BOOL, dims=[2], raw_data=b"1")
    return with_body("Loop", [PRODUCT, node("Constant", "", "go", value=damaged)], "i", "on", "x")


def version_beyond_32_bits() -> onnx.ModelProto:
    built = branches()  # bodies are inferred node by node
    built.ir_version, built.opset_import[0].version = 2**32 - 1, 1
    return built


HOSTILE = [
    cycle,
    cycle_in_weights,
    twice_the_same_name,
    twice_the_same_value,
    overflowing_dimensions,
    negative_dimensions,
    huge_input,
    huge_expansion,
    opset(0),
    opset(2**31),
    opset(-5),
    no_such_opset_domain,
    endless_function,
    wrong_type,
    no_such_type,
    scale_along_text,
    scan_of_unknown_inputs,
    loop_while_nothing,
    loop_while_damaged,
    version_beyond_32_bits,
]
NAMES = [getattr(make, "__name__", "") + str(i) for i, make in enumerate(HOSTILE)]


@pytest.mark.parametrize("make", HOSTILE, ids=NAMES)
@pytest.mark.parametrize("command", ["inspect", "prune", "annotate", "fold"])
def test_a_hostile_model_ends_in_a_line_or_a_result(
    make: Callable[[], onnx.ModelProto], command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(make().SerializeToString())
    before = source.read_bytes()
    arguments = [command, str(source)] + ([] if command == "inspect" else [str(target)])
    code = cli.main(arguments)
    err = capsys.readouterr().err
    if code:
        assert code in (1, 2)
        assert err.count("\n") == 1
        assert err.startswith("onnxsparse: ")
        assert files(tmp_path) == ["in.onnx"]
    elif command != "inspect":
        onnx.load(target)
    assert source.read_bytes() == before


def test_a_hang_is_seen_where_code_takes_every_exception_for_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: Path) -> None:
        try:
            alarm()
        except Exception as error:
            raise ModelError(str(error)) from None

    monkeypatch.setattr("benchmarks.robustness.fuzz.load", slow)
    assert attempt(tmp_path / "in.onnx", tmp_path / "out.onnx") == "HANG"


def test_mutations_end_in_a_line_or_a_result(tmp_path: Path) -> None:
    """A thousand; benchmarks/robustness/fuzz.py does a hundred thousand."""
    originals = [build().SerializeToString() for build in MODELS]
    for seed in range(1_000_000, 1_001_000):
        path = tmp_path / "in.onnx"
        path.write_bytes(mutate(originals[seed % len(originals)], random.Random(seed)))
        ending = attempt(path, tmp_path / "out.onnx")
        assert not ending.startswith("BUG"), f"seed {seed}: {ending}"

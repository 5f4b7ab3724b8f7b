"""Editing through graphsurgeon: what is not touched stays, what is touched still computes the same."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxsparse import Model, layers
from onnxsparse.analysis.checker import first_fault
from onnxsparse.errors import BackendError
from onnxsparse.runtime.session import runner
from tests.bodies import if_model, loop_model
from tests.graphs import BOOL, FLOAT, chain, model, node, proto

# onnx divides by zero on purpose where it generates its cases
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@cache
def test_data() -> list[tuple[str, onnx.ModelProto]]:
    """The models of onnx's own tests: the files it ships and the node cases it generates."""
    folder = Path(onnx.__file__).parent / "backend/test/data"
    files = [(p.stem, onnx.load(p, load_external_data=False)) for p in sorted(folder.rglob("*.onnx"))]
    return files + [(case.name, case.model) for case in node_cases.collect_testcases(None) if case.model is not None]


test_data.__test__ = False  # type: ignore[attr-defined]  # it is no test, only named like one


def unedited(built: onnx.ModelProto) -> onnx.ModelProto:
    opened = Model.from_proto(built)
    with opened.edit():
        pass
    return onnx.ModelProto.FromString(opened.to_bytes())


def test_opening_and_closing_changes_nothing_in_any_test_model() -> None:
    assert len(test_data()) > 1900
    different = [name for name, built in test_data() if unedited(built) != built]
    assert not different, different[:5]


def with_attribute(attribute: AttributeProto) -> onnx.ModelProto:
    built = proto([node("Mystery", "x", "y", domain="acme")], {"x": "4"}, domains={"acme": 1})
    built.graph.node[0].attribute.append(attribute)
    return built


def features() -> Iterator[tuple[str, onnx.ModelProto]]:
    """One model for every field that graphsurgeon loses or breaks."""
    base = chain(3, 8, 4)
    for holder in ("node", "graph", "initializer", "value_info", "input"):
        built = onnx.ModelProto()
        built.CopyFrom(base)
        built.graph.value_info.append(helper.make_tensor_value_info("conv0", FLOAT, [1, 8, 8, 8]))
        place = built.graph if holder == "graph" else getattr(built.graph, holder)[0]
        place.metadata_props.add(key="who", value="me")
        if holder != "graph":
            place.doc_string = "about it"
        yield f"metadata of {holder}", built
    built = onnx.ModelProto()
    built.CopyFrom(base)
    built.metadata_props.add(key="a", value="b")
    built.doc_string, built.domain, built.model_version, built.producer_version = "doc", "d", 7, "9"
    built.training_info.add().initialization.name = "init"
    yield "header and training", built
    built = onnx.ModelProto()
    built.CopyFrom(base)
    note = built.graph.quantization_annotation.add(tensor_name="conv0")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="conv0.bias")
    yield "quantization annotation", built
    built = onnx.ModelProto()
    built.CopyFrom(base)
    built.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    yield "unused initializer", built
    yield "overridable input", proto([node("MatMul", "x w", "y")], {"x": "2x8", "w": "8x8"}, ["y"], {"w": "8x8"}, ir_version=4)
    for data_type in ("INT4", "UINT4", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "BFLOAT16", "FLOAT4E2M1"):
        built = onnx.ModelProto()
        built.CopyFrom(base)
        built.graph.initializer.append(helper.make_tensor("odd", getattr(TensorProto, data_type), [4], [1, 0, 2, 1]))
        yield f"{data_type} tensor", built
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", FLOAT, [1], [2.0]), helper.make_tensor("i", TensorProto.INT64, [1], [3]), [8]
    )
    built = onnx.ModelProto()
    built.CopyFrom(base)
    built.graph.sparse_initializer.append(sparse)
    yield "sparse initializer", built
    kind = helper.make_tensor_type_proto(FLOAT, [2, None])
    yield "type attribute", with_attribute(helper.make_attribute("kind", kind))
    yield "types attribute", with_attribute(helper.make_attribute("kinds", [kind, kind]))
    yield "sparse attribute", with_attribute(helper.make_attribute("sparse", sparse))
    tensors = [helper.make_tensor("", FLOAT, [1], [1.0])] * 2
    yield "tensors attribute", with_attribute(helper.make_attribute("tensors", tensors))
    yield "bytes that are no text", with_attribute(helper.make_attribute("raw", b"\xff\xfe"))
    yield "not a number", with_attribute(helper.make_attribute("nan", float("nan")))
    yield "documented attribute", with_attribute(helper.make_attribute("i", 3, doc_string="three"))
    yield "empty list", with_attribute(AttributeProto(name="none", type=AttributeProto.INTS))
    optional = proto([node("OptionalHasElement", "x", "y")], {"x": "4"}, opset=18)
    optional.graph.input[0].type.CopyFrom(helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [4])))
    yield "optional type", optional
    body = [node("Relu", "a", "b"), node("Neg", "b", "c")]
    function = helper.make_function("local", "F", ["a"], ["c"], body, [helper.make_opsetid("", 17)], overload="v1")
    function.metadata_props.add(key="who", value="me")
    function.value_info.append(helper.make_tensor_value_info("b", FLOAT, [4]))
    call = node("F", "x", "y", domain="local")
    call.overload = "v1"
    yield "overloaded function", proto([call], {"x": "4"}, domains={"local": 1}, functions=[function], ir_version=10)


@pytest.mark.parametrize(("name", "built"), list(features()), ids=lambda v: v if isinstance(v, str) else "")
def test_opening_and_closing_keeps_every_field(name: str, built: onnx.ModelProto) -> None:
    assert unedited(built) == built


def with_detours(opened: Model) -> int:
    """Put an Identity in front of every node's first input, in bodies and functions too; returns how many."""
    with opened.edit() as graph:
        return sum(detour(body) for body in [graph, *graph.functions])


def detour(graph: gs.Graph) -> int:
    count = 0
    for position in range(len(graph.nodes) - 1, -1, -1):
        at = graph.nodes[position]
        for value in at.attrs.values():
            if isinstance(value, gs.Graph):
                count += detour(value)
        if at.inputs and at.inputs[0].name:
            through = gs.Variable(f"{at.outputs[0].name}/detour/{position}")
            graph.nodes.insert(position, gs.Node("Identity", through.name, inputs=[at.inputs[0]], outputs=[through]))
            at.inputs[0] = through
            count += 1
    return count


def without_detours(opened: Model) -> None:
    with opened.edit() as graph:
        for body in [graph, *graph.functions]:
            remove_detours(body)


def remove_detours(graph: gs.Graph) -> None:
    for at in list(graph.nodes):
        for value in at.attrs.values():
            if isinstance(value, gs.Graph):
                remove_detours(value)
        if at.op == "Identity" and "/detour/" in at.name:
            source, through = at.inputs[0], at.outputs[0]
            for user in list(through.outputs):
                user.inputs = [source if i is through else i for i in user.inputs]
            graph.nodes.remove(at)


@pytest.mark.parametrize("part", range(4))
def test_nodes_come_and_go_and_nothing_else_changes(part: int) -> None:
    """Over a quarter of the test models each: insert, check, remove, compare with the original."""
    broken = []
    for name, built in test_data()[part::4]:
        opened = Model.from_proto(built)
        sound = first_fault(opened) is None
        count = with_detours(opened)
        if count and sound and (fault := first_fault(opened)) is not None:
            broken.append(f"{name}: {fault}")
        without_detours(opened)
        if not built.opset_import or all(o.domain for o in built.opset_import):
            opened.proto.opset_import.pop()  # the detours' operators, which had to be imported
        if onnx.ModelProto.FromString(opened.to_bytes()) != built:
            broken.append(f"{name} does not come back")
    assert not broken, broken[:5]


def runs(opened: Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    try:
        return runner(opened).run(feeds)
    except BackendError:
        return None


def test_edited_models_compute_the_same_in_onnxruntime() -> None:
    """Every eighth node case, with the inputs that onnx ships for it, wherever it ran before."""
    compared = 0
    for case in node_cases.collect_testcases(None)[::8]:
        if case.model is None or not case.data_sets:
            continue
        inputs = case.data_sets[0][0]
        if not all(isinstance(value, np.ndarray | np.generic) for value in inputs):
            continue
        feeds = {v.name: np.asarray(a) for v, a in zip(case.model.graph.input, inputs, strict=False)}
        opened = Model.from_proto(case.model)
        before = runs(opened, feeds)
        if before is None or any("random" in n.op_type.lower() or n.op_type == "Bernoulli" for n in case.model.graph.node):
            continue
        with_detours(opened)
        after = runs(opened, feeds)
        assert after is not None, case.name
        compared += 1
        for output, expected in before.items():
            np.testing.assert_equal(after[output].tolist(), expected.tolist(), case.name)
    assert compared > 100


@pytest.mark.parametrize("built", [if_model(), loop_model(np.array(3, np.int64))], ids=["If", "Loop"])
def test_bodies_are_edited_in_place(built: Model) -> None:
    feeds = {"x": np.ones((4, 8), np.float32)} | ({"c": np.array(False)} if len(built.proto.graph.input) > 1 else {})
    before, fault = runs(built, feeds), first_fault(built)
    assert with_detours(built) > 1
    assert first_fault(built) == fault
    after = runs(built, feeds)
    assert before is not None
    assert after is not None
    assert np.array_equal(before["y"], after["y"])


class TestConstants:
    def test_reading_values_changes_nothing(self) -> None:
        built = chain(3, 64, 4)
        opened = Model.from_proto(built)
        with opened.edit() as graph:
            assert graph.tensors()["conv0.weight"].values.shape == (64, 3, 3, 3)
        assert onnx.ModelProto.FromString(opened.to_bytes()) == built

    def test_new_values_are_written(self) -> None:
        opened = Model.from_proto(chain(3, 64, 4))
        with opened.edit() as graph:
            graph.tensors()["conv0.weight"].values = np.zeros((64, 3, 3, 3), np.float32)
        assert not opened.weights["conv0.weight"].any()
        assert layers(opened).totals.zero_weights == 64 * 27

    def test_new_values_of_bodies_with_one_name_stay_apart(self) -> None:
        branches: dict[str, Any] = {}
        for key in ("then_branch", "else_branch"):
            output = helper.make_tensor_value_info(key, FLOAT, [4, 8])
            held = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
            branches[key] = helper.make_graph([node("MatMul", "x w", key)], key, [], [output], [held])
        opened = model([node("If", "c", "y", **branches)], {"x": ("4x8", FLOAT), "c": ("", BOOL)})
        with opened.edit() as graph:
            for key, scale in (("then_branch", 2), ("else_branch", 3)):
                held = graph.nodes[0].attrs[key].nodes[0].inputs[1]
                held.values = held.values * scale
        for condition, expected in ((True, 16), (False, 24)):
            found = runs(opened, {"x": np.ones((4, 8), np.float32), "c": np.array(condition)})
            assert found is not None
            assert (found["y"] == expected).all()

    def test_new_constants_become_initializers(self) -> None:
        opened = Model.from_proto(chain(3, 8, 4))
        with opened.edit() as graph:
            large = gs.Constant("large", np.full((1, 4, 8, 8), 2, np.float32))
            end = graph.nodes[-1]
            inner = gs.Variable("inner")
            output, end.outputs = end.outputs[0], [inner]
            graph.nodes.append(gs.Node("Mul", "double", inputs=[inner, large], outputs=[output]))
        assert first_fault(opened) is None
        assert (opened.weights["large"] == 2).all()

    def test_what_a_removed_node_used_goes_and_the_unused_stays(self) -> None:
        built = chain(3, 8, 8, 4)
        built.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
        built.graph.value_info.append(helper.make_tensor_value_info("conv1", FLOAT, [1, 8, 8, 8]))
        opened = Model.from_proto(built)
        with opened.edit() as graph:
            gone = next(n for n in graph.nodes if n.name == "conv1")
            user = gone.outputs[0].outputs[0]
            user.inputs = [gone.inputs[0]]
            graph.nodes.remove(gone)
        names = {t.name for t in opened.proto.graph.initializer}
        assert "conv1.weight" not in names
        assert "unused" in names
        assert not opened.proto.graph.value_info
        assert first_fault(opened) is None


def test_a_renamed_value_keeps_its_record() -> None:
    built = chain(3, 8, 4)
    built.graph.value_info.append(helper.make_tensor_value_info("conv0", FLOAT, [1, 8, 8, 8]))
    opened = Model.from_proto(built)
    with opened.edit() as graph:
        graph.tensors()["conv0"].name = "first"
        graph.tensors()["conv0.weight"].name = "first.weight"
    assert [v.name for v in opened.proto.graph.value_info] == ["first"]
    assert "first.weight" in opened.weights
    assert first_fault(opened) is None


def large(value: float) -> TensorProto:
    """A tensor that is too large to stay in the skeleton."""
    return numpy_helper.from_array(np.full((32, 32), value, np.float32), "w")


def test_constants_of_functions_with_one_name_are_read() -> None:
    built = proto([node("F", "x", "h", domain="a"), node("F", "h", "y", domain="b")], {"x": "1x32"}, domains={"a": 1, "b": 1})
    for domain, value in (("a", 1.0), ("b", 2.0)):
        nodes = [node("Constant", "", "w", value=large(value)), node("MatMul", "x w", "y")]
        built.functions.append(helper.make_function(domain, "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    with Model.from_proto(built).edit() as graph:
        read = {f.domain: float(f.nodes[0].attrs["value"].values[0, 0]) for f in graph.functions}
    assert read == {"a": 1.0, "b": 2.0}


def test_a_large_tensor_in_any_attribute_is_read_and_replaced() -> None:
    opened = Model.from_proto(with_attribute(helper.make_attribute("t", large(3.0))))
    with opened.edit() as graph:
        held = graph.nodes[0].attrs["t"]
        assert held.values[0, 0] == 3.0
        held.values = held.values + 1
    after = onnx.ModelProto.FromString(opened.to_bytes()).graph.node[0].attribute[0].t
    assert np.array_equal(numpy_helper.to_array(after), np.full((32, 32), 4.0, np.float32))


def test_attributes_change_one_by_one() -> None:
    opened = Model.from_proto(chain(3, 8, 4))
    opened.proto.graph.node[0].doc_string = "stem"
    with opened.edit() as graph:
        graph.nodes[0].attrs["pads"] = [0, 0, 0, 0]
        graph.nodes[0].attrs["group"] = 1
    changed = opened.proto.graph.node[0]
    assert {a.name: list(a.ints) or a.i for a in changed.attribute} == {"pads": [0, 0, 0, 0], "group": 1}
    assert changed.doc_string == "stem"


def test_a_new_domain_is_imported() -> None:
    opened = model([node("Relu", "x", "y")], {"x": ("4", FLOAT), "c": ("", BOOL)})
    with opened.edit() as graph:
        graph.nodes[0].outputs[0].name = "h"
        end = gs.Variable("y", np.float32, [4])
        graph.nodes.append(gs.Node("Mystery", "m", inputs=[graph.nodes[0].outputs[0]], outputs=[end], domain="acme"))
        graph.outputs = [end]
    assert ("acme", 1) in {(o.domain, o.version) for o in opened.proto.opset_import}


def test_an_error_in_the_block_leaves_the_model_alone() -> None:
    opened = Model.from_proto(chain(3, 8, 4))
    before = opened.to_bytes()
    with pytest.raises(ZeroDivisionError), opened.edit() as graph:
        graph.nodes.clear()
        _ = 1 / 0
    assert opened.to_bytes() == before

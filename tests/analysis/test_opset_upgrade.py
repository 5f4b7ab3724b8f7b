"""Raising the opset: forms that changed, bodies, functions, names, and what is refused."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import Model
from onnxsparse.analysis.checker import first_fault
from onnxsparse.analysis.opset_upgrade import raise_opset
from tests.analysis.raising import DOUBLE, FLOAT16, X, feeds, raised, run
from tests.graphs import BOOL, FLOAT, INT64, model, node, op_types, proto, single, value, weight


def refused(built: Model) -> str:
    """Why a model is not raised; it stays what it was."""
    done = built.copy()
    why = raise_opset(done)
    assert why is not None
    assert done.proto == built.proto
    return why


def attributes(built: Model, index: int = 0) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in built.proto.graph.node[index].attribute}


def test_a_dropout_keeps_its_ratio() -> None:
    done = raised(single("Dropout", "x", X, opset=11, ratio=0.25))
    assert done.weights["y_ratio"] == np.float32(0.25)


def test_an_unused_mask_of_floats_is_removed() -> None:
    built = model([node("Dropout", "x", "y mask")], X, opset=9, ir_version=6, value_info=[value("mask", "2x3x4x4")])
    assert list(raised(built).proto.graph.node[0].output) == ["y"]


def test_a_resize_has_sizes_or_scales() -> None:
    empty = np.zeros(0, np.float32)
    built = single("Resize", "x r s n", X, {"r": empty, "s": empty, "n": np.array([2, 3, 7, 5])}, opset=11)
    assert list(raised(built).proto.graph.node[0].input) == ["x", "r", "", "n"]


@pytest.mark.parametrize(("kind", "upper"), [(FLOAT, []), (DOUBLE, [float(np.finfo(np.float32).max)]), (FLOAT16, [np.inf])])
def test_a_clip_without_bounds_still_ends_where_float32_does(kind: int, upper: list[float]) -> None:
    built = single("Clip", "x", {"x": ("4", kind)}, opset=10, min=-1.0)
    assert raise_opset(built) is None
    limits = [built.weights[name] for name in built.proto.graph.node[0].input[1:]]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    assert all(limit.dtype == dtype and limit.shape == () for limit in limits)
    assert [float(limit) for limit in limits] == [-1.0, *upper]


def test_a_clip_passes_what_is_no_number() -> None:
    raised(single("Clip", "x", {"x": "4"}, opset=10), {"x": np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)})


@pytest.mark.parametrize(
    ("x", "axis", "after", "left"),
    [
        ("2x5", 1, 1, ["Softmax"]),
        ("2x5x1x1", 1, 1, ["Softmax"]),
        ("2x1x5x1", 1, 2, ["Softmax"]),
        ("Nx5", 1, 1, ["Softmax"]),
        ("5xN", 0, -1, ["Flatten", "Softmax", "Reshape"]),  # N may be 1 in this run and 7 in the next
        ("Nx5x2", 1, -1, ["Flatten", "Softmax", "Reshape"]),  # one open size: −1 stands for it
        ("NxMx2", 1, -1, ["Flatten", "Shape", "Softmax", "Reshape"]),
    ],
)
def test_a_softmax_is_flattened_only_where_more_than_one_axis_counts(x: str, axis: int, after: int, left: list[str]) -> None:
    done = raised(single("Softmax", "x", {"x": x}, opset=11, axis=axis))
    assert op_types(done) == left
    assert attributes(done, op_types(done).index("Softmax"))["axis"] == after


@pytest.mark.parametrize(
    ("built", "why"),
    [
        (single("Resize", "x r s", X, {"r": "0", "s": np.array([1, 1, 2, 2], np.float32)}, opset=12,
                coordinate_transformation_mode="tf_half_pixel_for_nn"), "tf_half_pixel_for_nn"),
        (single("Resize", "x s", {**X, "s": "4"}, opset=10), "scales are computed"),
        (single("Resize", "x s", X, {"s": np.array([1, 1, 2, 0.5], np.float32)}, opset=10), "enlarges and shrinks"),
        (single("Dropout", "x", X, outputs="y m", opset=11), None),
        (model([node("Dropout", "x", "y m")], X, ["y", "m"], opset=11), "mask is used"),
        (single("OneHot", "i d v", {"i": ("4", INT64)}, {"d": np.array(3), "v": "2"}, opset=10), "indices below zero"),
        (single("OneHot", "i d v", {}, {"i": np.array([-1]), "d": np.array(3), "v": "2"}, opset=10), "indices below zero"),
        (single("BatchNormalization", "x a b c d", X, dict.fromkeys("abcd", "3x4x4"), opset=8, spatial=0), "spatial=0"),
        (single("ConvTranspose", "x w", X, {"w": "3x2x3x3"}, opset=10, output_shape=[9, 9], strides=[2, 2]), "other side"),
        (single("ConvTranspose", "x w", X, {"w": "3x2x3x3"}, opset=10, auto_pad="SAME_UPPER"), "other side"),
        (single("SimplifiedLayerNormalization", "x g", X, {"g": "4"}, opset=12), "opset 13 has no SimplifiedLayerNormalization"),
        (single("Scan", "_ x", {"x": "1x3x2"}, opset=8, num_scan_inputs=1, body=helper.make_graph(
            [node("Relu", "i", "o")], "body", [value("i", "2")], [value("o", "2")])), "batch axis"),
        (single("Relu", "x", X, opset=6), "opset 6"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_in_opset_13_is_refused(built: Model, why: str | None) -> None:
    if why is None:
        raised(built)
    else:
        assert why in refused(built)


def test_a_refusal_names_the_node() -> None:
    built = model([node("Squeeze", "x", "a", axes=[0]), node("Blah", "a", "y", name="odd")], {"x": "1x3"}, opset=11)
    assert refused(built) == "Blah 'odd': opset 13 has no Blah"


def test_names_metadata_and_unknown_domains_stay() -> None:
    nodes = [
        node("Unsqueeze", "x", "a", axes=[0], name="first"),
        node("Blah", "a", "b", name="theirs", domain="com.example", axes=[1]),
        node("Softmax", "b", "y", name="last", axis=1),
    ]
    given = proto(nodes, {"x": "3x4"}, opset=11, domains={"com.example": 4}, value_info=[value("b", "1x3x4")])
    given.doc_string, given.producer_name, given.graph.doc_string = "kept", "someone", "kept too"
    given.metadata_props.add(key="k", value="v")
    for each in given.graph.node:
        each.doc_string = f"doc of {each.name}"
        each.metadata_props.add(key="pkg.torch.name", value=each.name)
    done = Model.from_proto(given)
    assert raise_opset(done) is None
    after = done.proto
    assert [(o.domain, o.version) for o in after.opset_import] == [("", 13), ("com.example", 4)]
    for field in ("doc_string", "producer_name", "metadata_props", "ir_version"):
        assert getattr(after, field) == getattr(given, field), field
    assert after.graph.doc_string == "kept too"
    assert (after.graph.input, after.graph.output, after.graph.value_info) == (
        given.graph.input, given.graph.output, given.graph.value_info,
    )  # fmt: skip
    kept = {n.name: n for n in after.graph.node}
    assert kept["theirs"] == given.graph.node[1]
    for name in ("first", "last"):
        assert (kept[name].doc_string, kept[name].metadata_props[0].value) == (f"doc of {name}", name)


def test_new_names_are_unused_names() -> None:
    built = single("Squeeze", "x", {"x": "1x3"}, {"y_axes": "2"}, opset=11, axes=[0])
    done = raised(built)
    assert list(done.proto.graph.node[0].input) == ["x", "y_axes_1"]
    assert done.weights["y_axes_1"].tolist() == [0]


def test_before_ir_4_new_tensors_are_inputs_too() -> None:
    done = raised(single("Squeeze", "x", {"x": "1x3"}, opset=11, ir_version=3, axes=[0]))
    assert [i.name for i in done.proto.graph.input] == ["x", "y_axes"]


def branch(name: str, kind: int) -> onnx.GraphProto:
    """x as `kind`, under a name that both branches use, padded, shared out, and summed up."""
    nodes = [
        node("Pad", "x", "wide", name=f"{name}_outer", pads=[0, 0, 0, 1], value=0.7),
        node("Cast", "wide", "c", name=f"{name}_cast", to=kind),
        node("Pad", "c", "padded", name=f"{name}_pad", pads=[0, 1, 0, 0], value=0.3),
        node("Cast", "padded", "f", name=f"{name}_back", to=FLOAT),
        node("Softmax", "f", "s", name=f"{name}_softmax", axis=0),
        node("ReduceSum", "s", f"{name}_y", axes=[1]),
    ]
    return helper.make_graph(nodes, name, [], [value(f"{name}_y", "2x1")])


@pytest.mark.parametrize("ir_version", [3, 6])
@pytest.mark.parametrize("condition", [True, False])
def test_bodies_are_raised_with_their_own_types(condition: bool, ir_version: int) -> None:
    nodes = [
        node("If", "go", "z", then_branch=branch("then", FLOAT), else_branch=branch("else", DOUBLE)),
        node("Relu", "z", "y"),
    ]
    built = model(nodes, {"x": "2x3", "go": ("1", BOOL)}, opset=10, ir_version=ir_version)
    given = {"x": weight("2x3"), "go": np.array([condition])}
    done = built.copy()
    assert raise_opset(done) is None
    assert first_fault(done) is None
    (expected,), (found,) = (list(run(m, given).values()) for m in (built, done))
    assert expected.tobytes() == found.tobytes()
    bodies = [a.g for a in done.proto.graph.node[0].attribute]
    assert all(len(body.initializer) == (6 if ir_version > 3 else 0) for body in bodies)
    assert not any(body.input for body in bodies)
    assert len(done.proto.graph.initializer) == 0


def function(nodes: list[onnx.NodeProto], opset: int, parameters: list[str]) -> onnx.FunctionProto:
    made = helper.make_function("pkg", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", opset)], parameters)
    made.doc_string = "what F does"
    return made


def test_functions_are_raised_by_their_own_import() -> None:
    nodes = [node("Softmax", "a", "s"), node("Unsqueeze", "s", "u", axes=[0]), node("ReduceSum", "u", "b", axes=[1])]
    built = model(
        [node("F", "x", "y", domain="pkg"), node("Squeeze", "y", "z", axes=[1])], {"x": "2x3x4"}, ["z"],
        opset=12, domains={"pkg": 1}, functions=[function(nodes, 11, [])],
    )  # fmt: skip
    done = built.copy()
    assert raise_opset(done) is None
    after = done.proto.functions[0]
    assert (after.opset_import[0].version, after.doc_string) == (13, "what F does")
    assert [n.op_type for n in after.node if n.op_type != "Constant"] == [
        "Flatten", "Shape", "Softmax", "Reshape", "Unsqueeze", "ReduceSum",
    ]  # fmt: skip
    onnx.checker.check_model(onnx.load_from_string(done.to_bytes()), full_check=True)
    given = feeds(built)
    assert run(built, given)["z"].tobytes() == run(done, given)["z"].tobytes()


def test_an_attribute_of_a_functions_calls_is_no_constant() -> None:
    made = node("Squeeze", "a", "b", name="inner")
    made.attribute.add(name="axes", ref_attr_name="which", type=onnx.AttributeProto.INTS)
    call = node("F", "x", "y", domain="pkg", which=[0])
    built = model([call], {"x": "1x3"}, opset=11, domains={"pkg": 1}, functions=[function([made], 11, ["which"])])
    assert refused(built) == "Squeeze 'F/inner': its 'axes' is given by the calls of the function it is in"


def test_what_is_in_opset_13_stays_as_it_is() -> None:
    built = single("Relu", "x", X, opset=13)
    before = built.proto.SerializeToString()
    assert raise_opset(built) is None
    assert built.proto.SerializeToString() == before

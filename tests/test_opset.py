"""Raising the opset: onnxruntime computes the same bits before and after, and nothing is lost on the way."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsparse import Model
from onnxsparse.analysis.checker import first_fault
from onnxsparse.analysis.opset_upgrade import raise_opset
from onnxsparse.ops.raising import OLDEST_OPSET, RAISED_OPSET, RULES
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.session import Execution, runner
from tests.graphs import BOOL, FLOAT, INT8, INT32, INT64, Array, model, node, proto, single, value, weight

DOUBLE, FLOAT16 = TensorProto.DOUBLE, TensorProto.FLOAT16


def feeds(built: Model) -> dict[str, Array]:
    """Values of each input's type; a symbolic size is 3."""
    rng = np.random.default_rng(5)
    found: dict[str, Array] = {}
    constants = {tensor.name for tensor in built.proto.graph.initializer}
    for given in built.proto.graph.input:
        if given.name in constants:
            continue
        kind = given.type.tensor_type
        shape = [d.dim_value or 3 for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[given.name] = (rng.standard_normal(shape) * 4).astype(dtype)
    return found


def run(built: Model, given: dict[str, Array]) -> dict[str, Array]:
    return runner(built, execution=Execution.NODE_BY_NODE).run(given)


def raised(built: Model, given: dict[str, Array] | None = None) -> Model:
    """The model in opset 13, which computes bit for bit what `built` does."""
    done = built.copy()
    assert raise_opset(done) is None
    assert done.opset() == RAISED_OPSET
    assert done.proto.ir_version == built.proto.ir_version
    assert first_fault(done) is None
    onnx.checker.check_model(onnx.load_from_string(done.to_bytes()), full_check=True)
    given = feeds(built) if given is None else given
    before, after = run(built, given), run(done, given)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert expected.dtype == after[name].dtype, name
        assert expected.shape == after[name].shape, name
        assert expected.tobytes() == after[name].tobytes(), (name, expected, after[name])
    return done


def refused(built: Model) -> str:
    """Why a model is not raised; it stays what it was."""
    done = built.copy()
    why = raise_opset(done)
    assert why is not None
    assert done.proto == built.proto
    return why


def ops(built: Model) -> list[str]:
    return [n.op_type for n in built.proto.graph.node]


def attributes(built: Model, index: int = 0) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in built.proto.graph.node[index].attribute}


X = {"x": "2x3x4x4"}
TWELVE = (11, 12)
TEN = (10, *TWELVE)
ALL = (7, 8, 9, *TEN)
TO_TEN = (7, 8, 9, 10)

Case = tuple[tuple[int, ...], str, str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]

CASES: list[Case] = [
    # opsets, op, inputs, shapes, weights, attributes
    (ALL, "Squeeze", "x", {"x": "1x3x1x4"}, {}, {"axes": [0, 2]}),
    (ALL, "Squeeze", "x", {"x": "1x3x1x4"}, {}, {}),
    (TWELVE, "Squeeze", "x", {"x": "1x3x1x4"}, {}, {"axes": [-2]}),
    (ALL, "Unsqueeze", "x", {"x": "3x4"}, {}, {"axes": [0, 3]}),
    (TWELVE, "Unsqueeze", "x", {"x": "3x4"}, {}, {"axes": [-1]}),
    (ALL, "ReduceSum", "x", X, {}, {"axes": [1, 3], "keepdims": 0}),
    (ALL, "ReduceSum", "x", X, {}, {}),
    (ALL, "ReduceMean", "x", X, {}, {"axes": [2, 3]}),
    (ALL, "Split", "x", {"x": "2x6"}, {}, {"outputs": "y z", "axis": 1, "split": [2, 4]}),
    (ALL, "Split", "x", {"x": "2x6"}, {}, {"outputs": "y z", "axis": 1}),
    *((ALL, op, "x", X, {}, {"axis": axis}) for op in ("Softmax", "LogSoftmax", "Hardmax") for axis in (0, 1, 2, 3)),
    *((ALL, op, "x", X, {}, {}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *((TWELVE, "Softmax", "x", X, {}, {"axis": axis}) for axis in (-1, -2, -4)),
    (ALL, "Softmax", "x", {"x": "2x5x1x1"}, {}, {}),
    (ALL, "Softmax", "x", {"x": "2x1x5x1"}, {}, {}),
    (ALL, "Softmax", "x", {"x": "2x1x1x1"}, {}, {}),
    (ALL, "Softmax", "x", {"x": "Nx5"}, {}, {}),
    (ALL, "Softmax", "x", {"x": "NxCx5"}, {}, {}),
    (ALL, "Softmax", "x", {"x": "Nx5x2"}, {}, {}),
    ((*TO_TEN, 11), "Dropout", "x", X, {}, {"ratio": 0.25}),
    (ALL, "Dropout", "x", X, {}, {}),
    (ALL, "Dropout", "x", X, {}, {"outputs": "y mask"}),
    (TO_TEN, "Pad", "x", X, {}, {"pads": [0, 1, 2, 3, 0, 0, 1, 1], "value": 1.5}),
    (TO_TEN, "Pad", "x", X, {}, {"pads": [0, 0, 2, 3, 0, 0, 1, 1], "mode": "reflect", "value": 0.0}),
    (TO_TEN, "Pad", "x", {"x": ("2x3", DOUBLE)}, {}, {"pads": [0, 1, 2, 3], "value": 0.1}),
    (TO_TEN, "Clip", "x", X, {}, {"min": -0.5, "max": 0.7}),
    (TO_TEN, "Clip", "x", X, {}, {"min": 0.0}),
    (ALL, "Clip", "x", X, {}, {}),
    (TWELVE, "Pad", "x p v", X, {"p": np.array([0, 1, 2, 3, 0, 0, 1, 1]), "v": np.array(1.5, np.float32)}, {}),
    (TWELVE, "Clip", "x _ m", X, {"m": np.array(0.7, np.float32)}, {}),
    ((12,), "Dropout", "x r", X, {"r": np.array(0.25, np.float32)}, {}),
    ((9,), "Slice", "x", X, {}, {"starts": [0, -2], "ends": [1, 4], "axes": [1, 3]}),
    ((9,), "Slice", "x", X, {}, {"starts": [1, 0], "ends": [2, 9]}),
    ((8, 9), "TopK", "x", {"x": "3x5"}, {}, {"k": 2, "outputs": "y i"}),
    ((10,), "TopK", "x k", {"x": "3x5"}, {"k": np.array([2])}, {"outputs": "y i"}),
    ((7, 8), "Upsample", "x", X, {}, {"scales": [1.0, 1.0, 2.0, 1.5], "mode": "nearest"}),
    ((7, 8), "Upsample", "x", X, {}, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}),
    ((9,), "Upsample", "x s", X, {"s": np.array([1, 1, 1.7, 3], np.float32)}, {}),
    ((9,), "Upsample", "x s", X, {"s": np.array([1, 1, 1.7, 3], np.float32)}, {"mode": "linear"}),
    ((10,), "Resize", "x s", X, {"s": np.array([1, 1, 1.7, 3], np.float32)}, {}),
    ((10,), "Resize", "x s", X, {"s": np.array([1, 1, 0.6, 0.3], np.float32)}, {"mode": "nearest"}),
    ((10,), "Resize", "x s", X, {"s": np.array([1, 1, 0.6, 3], np.float32)}, {"mode": "linear"}),
    (
        TWELVE,
        "Resize",
        "x r s",
        X,
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 1.7, 0.6], np.float32)},
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        TWELVE,
        "Resize",
        "x r s n",
        X,
        {"r": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "n": np.array([2, 3, 7, 5])},
        {"nearest_mode": "ceil"},
    ),
    ((7, 8), "BatchNormalization", "x a b c d", X, dict.fromkeys("abc", "3") | {"d": np.ones(3, np.float32)}, {"spatial": 1}),
    (ALL, "BatchNormalization", "x a b c d", X, dict.fromkeys("abc", "3") | {"d": np.ones(3, np.float32)}, {}),
    ((9, 10), "Scatter", "x i u", {"x": "4x3"}, {"i": np.array([[1, 0, 3]]), "u": "1x3"}, {"axis": 0}),
    ((9, *TEN), "OneHot", "i d v", {}, {"i": np.array([1, 0, 5]), "d": np.array(3), "v": np.array([0, 1], np.float32)}, {}),
    (ALL, "ConvTranspose", "x w", X, {"w": "3x2x3x3"}, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (ALL, "Conv", "x w", X, {"w": "2x3x3x3"}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    (ALL, "MaxPool", "x", X, {}, {"kernel_shape": [3, 3]}),
    ((8, 9, *TEN), "MaxPool", "x", X, {}, {"kernel_shape": [3, 3], "outputs": "y i"}),
    (ALL, "AveragePool", "x", X, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    (TEN, "AveragePool", "x", X, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    (ALL, "ArgMax", "x", {"x": ("2x8", INT32)}, {}, {"axis": 1}),
    (ALL, "ArgMin", "x", {"x": ("2x8", INT32)}, {}, {"axis": 1}),
    (ALL, "DepthToSpace", "x", {"x": "1x4x2x2"}, {}, {"blocksize": 2}),
    (ALL, "Gemm", "x w b", {"x": "2x3"}, {"w": "3x4", "b": "4"}, {}),
    (TWELVE, "GatherND", "x i", {"x": "2x3"}, {"i": np.array([[1, 0], [0, 2]])}, {}),
    (TEN, "QuantizeLinear", "x s z", X, {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}, {}),
    (TEN, "DequantizeLinear", "x s z", {"x": ("2x3", INT8)}, {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8)}, {}),
    (ALL, "Constant", "", {}, {}, {"value": helper.make_tensor("v", FLOAT, [2], [1.0, 2.0])}),
    ((12,), "Constant", "", {}, {}, {"value_floats": [1.0, 2.0]}),
]


def one_op_models() -> Iterator[Any]:
    for number, (opsets, op, order, inputs, weights, options) in enumerate(CASES):
        for opset in opsets:
            ir_version = 3 if opset < 9 else 6
            listed = dict(inputs)
            if ir_version < 4:
                listed |= {name: listing(given) for name, given in weights.items()}
            built = (op, order, listed, weights, {"opset": opset, "ir_version": ir_version, **options})
            yield pytest.param(built, id=f"{number}-{op}-{opset}")


def listing(given: "str | Array") -> "tuple[str, int]":
    """IR 3 has every initializer among the inputs."""
    if isinstance(given, str):
        return given, FLOAT
    return "x".join(map(str, given.shape)), helper.np_dtype_to_tensor_dtype(given.dtype)


@pytest.mark.parametrize("given", list(one_op_models()))
def test_one_op_computes_the_same_bits(given: Any) -> None:
    op, order, inputs, weights, options = given
    raised(single(op, order, inputs, weights, **options))


def test_every_rule_has_a_case() -> None:
    tried = {(case[1], opset) for case in CASES for opset in case[0]}
    without = [(op, since) for op, since in RULES if not any(o == op and opset < since for o, opset in tried)]
    assert without == [("Scan", 9)]  # refused whatever it holds


def test_every_op_whose_form_changed_is_listed() -> None:
    """Against onnx's own schemas: inputs, outputs and attributes with their defaults, from the oldest opset that is raised on."""
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.since_version <= RAISED_OPSET]
    missing, needless = [], set(RULES)
    for name in {s.name for s in schemas}:
        versions = sorted((s for s in schemas if s.name == name), key=lambda s: s.since_version)
        for old, new in itertools.pairwise(versions):
            key = (name, new.since_version)
            if new.since_version > OLDEST_OPSET and (form(old) != form(new) or new.deprecated) and key not in RULES:
                missing.append(key)
            needless.discard(key)
    assert not missing
    assert not needless


def form(schema: onnx.defs.OpSchema) -> Any:
    inputs, outputs = ([(p.name, p.option) for p in parameters] for parameters in (schema.inputs, schema.outputs))
    found = {n: (a.type, a.required, a.default_value.SerializeToString()) for n, a in schema.attributes.items()}
    return inputs, outputs, found


def test_a_dropout_keeps_its_ratio() -> None:
    done = raised(single("Dropout", "x", X, opset=11, ratio=0.25))
    assert done.weights["y_ratio"] == np.float32(0.25)


def test_a_mask_of_floats_that_nobody_reads_goes() -> None:
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
    assert ops(done) == left
    assert attributes(done, ops(done).index("Softmax"))["axis"] == after


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


def test_new_names_are_taken_by_nobody() -> None:
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


def small(opset: int, op: str = "Squeeze", **options: Any) -> Model:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Clip", "c", "r", min=0.0, max=6.0) if opset < 11 else node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node(op, "p", "y", name="last", **options),
    ]
    return model(nodes, {"x": "1x3x8x8"}, weights={"w": "4x3x3x3", "b": "4"}, opset=opset, ir_version=6)


def samples() -> list[dict[str, Array]]:
    return [{"x": weight("1x3x8x8", seed)} for seed in range(4)]


@pytest.mark.parametrize("opset", ALL)
def test_quantize_gives_older_models_a_scale_per_channel(opset: int) -> None:
    built = small(opset, axes=[2, 3])
    expected = run(built, samples()[0])["y"]
    report = Quantize(target="onnxruntime-x86").run(built, samples())
    assert f"opset raised from {opset} to 13, whose DequantizeLinear supports a scale per channel" in report.notes
    assert built.weights.shape("w_scale") == (4,)
    assert first_fault(built) is None
    assert np.abs(run(built, samples()[0])["y"] - expected).max() < 0.05


def test_quantize_says_why_a_model_keeps_its_opset() -> None:
    built = small(11, "Dropout", ratio=0.5)
    built.proto.graph.node[-1].output.append("mask")
    built.proto.graph.output.append(value("mask", "1x4x1x1", BOOL))
    report = Quantize(target="onnxruntime-x86").run(built, samples())
    assert any(
        note.startswith("opset stays 11, in which a weight tensor has a single scale: Dropout 'last'") for note in report.notes
    )
    assert any("(one scale per tensor)" in note for note in report.notes)
    assert built.opset() == 11
    assert built.weights.shape("w_scale") == ()


def test_quantize_leaves_the_opset_where_a_tensor_has_one_scale() -> None:
    built = small(11, axes=[2, 3])
    report = Quantize(target="onnxruntime-x86", per_tensor=True).run(built, samples())
    assert built.opset() == 11
    assert not any("opset" in note for note in report.notes)

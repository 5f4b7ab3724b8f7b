"""One model per op and opset: raised to opset 13, it computes the same bits."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse.ops.raising import OLDEST_OPSET, RAISED_OPSET, RULES
from tests.analysis.raising import ALL, DOUBLE, TEN, TWELVE, X, raised
from tests.graphs import FLOAT, INT8, INT32, Array, single

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

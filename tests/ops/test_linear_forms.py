"""Linear forms: at every output position, the matrix times the columns is what onnxruntime computes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Model
from onnxsparse.analysis.layers import Survey
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.linear_forms import LinearForm
from onnxsparse.runtime.session import runner
from tests.graphs import Array, single, weight


def form_of(built: Model, at: int) -> LinearForm:
    """The form of input `at` of the only node."""
    survey = Survey(built)
    (node,), (spec,) = survey.context.nodes, survey.context.specs
    assert spec is not None
    slot = next(slot for slot in spec.weights if slot.at == at)
    assert slot.form is not None
    return slot.form(survey.view(survey.context.graph, node))


def computed(built: Model, form: LinearForm, held: Array, data: Array, rows_axis: int) -> tuple[Array, Array]:
    """The output by the form and by onnxruntime, both as rows × positions; the bias is 0."""
    (name,) = (value.name for value in built.proto.graph.input)
    made = runner(built).run({name: data})["y"]
    columns = form.columns(data, np.arange(form.positions(data)))
    matrix = form.matrix(held).astype(np.float64)
    found = np.concatenate(list(matrix @ columns.astype(np.float64).swapaxes(1, 2)))
    return found, np.moveaxis(made, rows_axis, 0).reshape(made.shape[rows_axis], -1)


def same(built: Model, at: int, w: str, x: str, rows_axis: int = 1) -> None:
    held, data = weight(w), weight(x, 7)
    form = form_of(built, at)
    found, made = computed(built, form, held, data, rows_axis)
    assert found.shape == made.shape
    assert np.allclose(found, made, atol=1e-4)
    assert np.array_equal(form.weight(form.matrix(held), held.shape), held)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """(activation, weight, attributes) of a convolution with 1 to 3 spatial axes."""
    axes = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 2, 4]))
    inputs, outputs = group * draw(st.integers(1, 3)), group * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    size = [draw(st.integers(5, 7)) for _ in range(axes)]
    given: dict[str, Any] = {"group": group, "strides": [draw(st.integers(1, 2)) for _ in range(axes)]}
    given["dilations"] = [draw(st.integers(1, 2)) for _ in range(axes)]
    way = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if way == "pads":
        given["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * axes)]
    else:
        given["auto_pad"] = way
        given["dilations"] = [1] * axes  # onnxruntime refuses others beside SAME
    batch = draw(st.integers(1, 2))
    x = "x".join(map(str, (batch, inputs, *size)))
    return x, "x".join(map(str, (outputs, inputs // group, *kernel))), given


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_conv(case: tuple[str, str, Mapping[str, Any]]) -> None:
    x, w, attributes = case
    same(single("Conv", "x w", {"x": x}, {"w": w}, **attributes), 1, w, x)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """(activation, weight, attributes) of a transposed convolution with 1 or 2 spatial axes."""
    axes = draw(st.integers(1, 2))
    group = draw(st.sampled_from([1, 2]))
    inputs, outputs = group * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(2, 3)) for _ in range(axes)]
    strides = [draw(st.integers(1, 2)) for _ in range(axes)]
    given: dict[str, Any] = {"group": group, "strides": strides, "pads": [draw(st.integers(0, 1)) for _ in range(2 * axes)]}
    given["dilations"] = [draw(st.integers(1, 2)) for _ in range(axes)]
    given["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    x = "x".join(map(str, (draw(st.integers(1, 2)), inputs, *[draw(st.integers(3, 5)) for _ in range(axes)])))
    return x, "x".join(map(str, (inputs, outputs, *kernel))), given


@settings(max_examples=40, deadline=None)
@given(transposed_convolutions())
def test_transposed_conv(case: tuple[str, str, Mapping[str, Any]]) -> None:
    x, w, attributes = case
    same(single("ConvTranspose", "x w", {"x": x}, {"w": w}, **attributes), 1, w, x)


@pytest.mark.parametrize(
    ("op", "order", "x", "w", "at", "rows_axis", "attributes"),
    [
        ("MatMul", "x w", "2x3x5", "5x4", 1, 2, {}),
        ("MatMul", "w x", "2x5x3", "4x5", 0, 1, {}),
        ("Gemm", "x w", "3x5", "5x4", 1, 1, {}),
        ("Gemm", "x w", "3x5", "4x5", 1, 1, {"transB": 1}),
        ("Gemm", "x w", "5x3", "4x5", 1, 1, {"transA": 1, "transB": 1}),
    ],
)
def test_products(op: str, order: str, x: str, w: str, at: int, rows_axis: int, attributes: dict[str, Any]) -> None:
    same(single(op, order, {"x": x}, {"w": w}, **attributes), at, w, x, rows_axis)


@pytest.mark.parametrize(("direction", "directions"), [("forward", 1), ("bidirectional", 2)])
def test_inputs_of_a_recurrent_layer(direction: str, directions: int) -> None:
    """An RNN whose activation is the identity and whose states count for nothing computes X · W."""
    identity = {
        "activations": ["Affine"] * directions,
        "activation_alpha": [1.0] * directions,
        "activation_beta": [0.0] * directions,
    }
    held = {"w": weight(f"{directions}x4x5"), "r": np.zeros((directions, 4, 4), np.float32)}
    built = single("RNN", "x w r", {"x": "3x2x5"}, held, hidden_size=4, direction=direction, **identity)
    data, form = weight("3x2x5", 7), form_of(built, 1)
    made = runner(built).run({"x": data})["y"]  # steps × directions × batch × hidden
    found = form.matrix(held["w"]).astype(np.float64) @ form.columns(data, np.arange(6)).astype(np.float64).swapaxes(1, 2)
    assert np.allclose(found, made.transpose(1, 3, 0, 2).reshape(directions, 4, 6), atol=1e-5)
    assert np.array_equal(form.weight(form.matrix(held["w"]), held["w"].shape), held["w"])


@pytest.mark.parametrize(
    ("built", "at", "reason"),
    [
        (lambda: single("MatMul", "x w", {"x": "2x3x5"}, {"w": "2x5x4"}), 1, "has 3 axes"),
        (lambda: single("MatMul", "x w", {"x": "5"}, {"w": "5x4"}), 1, "its activation has one axis"),
        (lambda: single("Gemm", "x w", {"x": "3x5"}, {"w": "5x4"}, alpha=2.0), 1, "scales its product"),
        (
            lambda: single("ConvTranspose", "x w", {"x": "1x2x4"}, {"w": "2x3x3"}, auto_pad="SAME_UPPER", strides=[2]),
            1,
            "follows",
        ),
    ],
)
def test_what_has_no_form_says_why(built: Any, at: int, reason: str) -> None:
    with pytest.raises(UnknownFact, match=reason):
        form_of(built(), at)

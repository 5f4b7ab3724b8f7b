"""Any generated padding of convolutions and averages computes the same with the zeros inside."""

from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Model
from tests.folding.folded import assert_same, folded
from tests.folding.padded import SAME_DB, assert_folds, attributes
from tests.graphs import NAMINGS, Array, model, node, op_types


def pad_model(draw: st.DrawFn, dims: int, reader: onnx.NodeProto, sizes: list[int], weights: dict[str, str]) -> Model:
    """A Pad of up to 3 elements on each side of each spatial axis, in one of its three spellings."""
    pads = draw(st.lists(st.integers(0, 3), min_size=2 * dims, max_size=2 * dims))
    full = [0, 0, *pads[:dims], 0, 0, *pads[dims:]]
    opset = draw(st.sampled_from([10, 17, 18]))
    axes = [axis - draw(st.sampled_from([0, dims + 2])) for axis in range(2, dims + 2)]
    pad = {
        10: node("Pad", "x", "h", pads=full),
        17: node("Pad", "x p", "h"),
        18: node("Pad", "x p _ a", "h"),
    }[opset]
    given_pads = np.array(pads if opset == 18 else full, np.int64)
    arrays: dict[str, str | Array] = {"p": given_pads, "a": np.array(axes, np.int64), **weights}
    read = {name for made in (pad, reader) for name in made.input}
    arrays = {n: a for n, a in arrays.items() if n in read}
    shape = "x".join(map(str, sizes))
    return model([pad, reader], {"x": shape}, ["y"], arrays, opset=opset, naming=draw(NAMINGS))


@st.composite
def padded_convolutions(draw: st.DrawFn) -> Model:
    """One to three spatial axes, any kernel, stride, dilation, groups, and padding of its own."""
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = dims) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, dilations, group = each(1, 3), each(1, 2), draw(st.integers(1, 3))
    into, out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    given: dict[str, Any] = {"strides": each(1, 3), "dilations": dilations, "group": group}
    given |= draw(st.sampled_from([{}, {"auto_pad": "VALID"}, {"auto_pad": "NOTSET"}]))
    if given.get("auto_pad") != "VALID" and draw(st.booleans()):
        given["pads"] = each(0, 2, 2 * dims)
    if draw(st.booleans()):
        given["kernel_shape"] = kernel
    sizes = [
        draw(st.integers(1, 2)),
        group * into,
        *(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)),
    ]
    weight = "x".join(map(str, [group * out, into, *kernel]))
    return pad_model(draw, dims, node("Conv", "h w", "y", **given), sizes, {"w": weight})


@st.composite
def padded_averages(draw: st.DrawFn) -> Model:
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = dims) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel = each(1, 5)
    given: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3), "ceil_mode": draw(st.integers(0, 1))}
    given |= draw(st.sampled_from([{}, {"count_include_pad": 1}, {"auto_pad": "VALID"}]))
    if given.get("auto_pad") != "VALID" and draw(st.booleans()):
        given["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
    sizes = [1, 2, *(k + draw(st.integers(0, 4)) for k in kernel)]
    return pad_model(draw, dims, node("AveragePool", "h", "y", **given), sizes, {})


@settings(max_examples=150, deadline=None)
@given(padded_convolutions())
def test_any_convolution_gives_the_same_with_the_zeros_inside(built: Model) -> None:
    assert_folds(built, "Conv")


@settings(max_examples=100, deadline=None)
@given(padded_averages())
def test_any_average_that_folds_gives_the_same(built: Model) -> None:
    done, _ = folded(built)
    assert_same(built, done, SAME_DB)
    assert attributes(built).get("ceil_mode") == 0 or "Pad" in op_types(done)

"""The op that CONTRIBUTING.md walks through, run as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnxsparse import Model, layers, ops
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import solve
from onnxsparse.channels.proof import relative_error
from onnxsparse.channels.reference import masked_reference
from onnxsparse.errors import ParamError
from onnxsparse.folding import fold
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner
from tests.graphs import model, node, op_types

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
DOMAIN = "com.example"


@pytest.fixture(autouse=True)
def with_example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's op is known while a test runs."""
    found: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)), found)
    monkeypatch.setattr(ops, "third_party", lambda: iter(found["SPECS"]))
    ops.table.cache_clear()
    yield
    ops.table.cache_clear()


def linear(inputs: str, output: str, size: int) -> onnx.NodeProto:
    return node("CentredLinear", inputs, output, domain=DOMAIN, size=size)


def two_layers(w: str = "8x16") -> Model:
    """x: 10x16 → 8 → 4."""
    nodes = [linear("x w b", "h", 8), linear("h v c", "y", 4)]
    weights = {"w": w, "b": "8", "v": "4x8", "c": "4"}
    return model(nodes, {"x": "10x16"}, ["y"], weights, domains={DOMAIN: 1})


def with_kernel(built: Model) -> Model:
    """The op written out as a model-local function, which onnxruntime runs."""
    body = [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node("Transpose", "w", "t", perm=[1, 0]),
        node("MatMul", "d t", "p"),
        node("Add", "p b", "y"),
    ]
    imports = [helper.make_opsetid("", built.opset())]
    function = helper.make_function(DOMAIN, "CentredLinear", ["x", "w", "b"], ["y"], body, imports, attributes=["size"])
    proto = onnx.load_from_string(built.to_bytes())
    proto.functions.append(function)
    return Model.from_proto(proto)


def test_its_macs_and_shapes() -> None:
    assert layers(two_layers()).totals.macs == 10 * 16 * 8 + 10 * 8 * 4


def test_sizes_that_do_not_match_are_named() -> None:
    with pytest.raises(ParamError, match=r"cannot multiply 10x16 by 8x15: 16 meets 15"):
        layers(two_layers(w="8x15"))


def test_its_mean_keeps_channels_unless_it_may_be_cut() -> None:
    assert not solve(two_layers()).groups
    assert [group.classes.size for group in solve(two_layers(), cut_norms=True).groups] == [8]


def test_a_cut_equals_its_masked_reference() -> None:
    built = two_layers()
    solution = solve(built, cut_norms=True)
    removed = solution.removal(solution.groups[0].classes[:3])
    reference = masked_reference(built, solution, removed)
    cut = built.copy()
    apply_cut(cut, solution, removed)
    assert [cut.weights.shape(name) for name in "wbv"] == [(5, 16), (5,), (4, 5)]
    assert next(a.i for a in cut.proto.graph.node[0].attribute if a.name == "size") == 5
    feeds = seeded_samples(built, 1).feeds[0]
    a, b = (runner(with_kernel(each)).run(feeds)["y"] for each in (cut, reference))
    assert relative_error(a, b) < 1e-5


def floats(built: Model, name: str) -> NDArray[np.float32]:
    return np.asarray(built.weights[name], np.float32)


def test_it_takes_in_a_scale_downstream() -> None:
    nodes = [linear("x w b", "h", 8), node("Mul", "h s", "y")]
    built = model(nodes, {"x": "2x16"}, ["y"], {"w": "8x16", "b": "8", "s": "8"}, domains={DOMAIN: 1})
    scale = floats(built, "s")
    wanted = {"w": floats(built, "w") * scale[:, None], "b": floats(built, "b") * scale}
    fold(built)
    assert op_types(built) == ["CentredLinear"]
    for name, values in wanted.items():
        np.testing.assert_allclose(floats(built, name), values, rtol=1e-6)

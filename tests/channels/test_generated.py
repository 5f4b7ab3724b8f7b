"""Any half of the channels of any generated graph."""

from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsparse import Model
from tests.channels.cutting import halve
from tests.graphs import NAMINGS, model, node, weight


class Sketch:
    """A graph in the making, all of whose values are 1 × channels × 5 × 5."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Any] = {}
        self.values: dict[str, int] = {"x": 4}

    def conv(self, source: str, out: int, group: int = 1) -> str:
        """With a weight of its own, or one that is there already."""
        name = f"n{len(self.nodes)}"
        shape = (out, self.values[source] // group, 1, 1)
        reusable = [w for w, v in self.weights.items() if v.shape == shape] if group == 1 else []
        held = self.draw(st.sampled_from([*reusable, ""])) if reusable else ""
        if not held:
            held = f"{name}.weight"
            self.weights[held] = weight("x".join(map(str, shape)), len(self.nodes)) / np.sqrt(np.float32(shape[1]))
        self.nodes.append(node("Conv", f"{source} {held}", name, group=group))
        self.values[name] = out
        return name

    def add(self, op: str, inputs: str, channels: int, outputs: int = 1, **attributes: Any) -> str:
        names = [f"n{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(node(op, inputs, " ".join(names), **attributes))
        self.values.update(dict.fromkeys(names, channels))
        return names[0]

    def any_value(self, channels: int | None = None, but: str = "x") -> str | None:
        fits = [v for v, size in self.values.items() if v not in ("x", but) and channels in (None, size)]
        return self.draw(st.sampled_from(fits)) if fits else None

    def shuffle(self, source: str) -> None:
        channels = self.values[source]
        split, merged = np.array([1, 4, channels // 4, 5, 5]), np.array([1, channels, 5, 5])
        self.weights |= {f"s{channels}": split, f"t{channels}": merged}
        first = self.add("Reshape", f"{source} s{channels}", 0)
        second = self.add("Transpose", first, 0, perm=[0, 2, 1, 3, 4])
        del self.values[first], self.values[second]
        self.add("Reshape", f"{second} t{channels}", channels)

    def slice(self, source: str) -> None:
        channels = self.values[source]
        self.weights |= {"from2": np.array([2]), "one": np.array([1]), f"to{channels}": np.array([channels - 1])}
        self.add("Slice", f"{source} from2 to{channels} one", channels - 3)

    def grow(self, kind: str, source: str) -> None:
        """One more node, where the channels allow it."""
        channels = self.values[source]
        partner = self.any_value(channels if kind == "Add" else None, but=source)
        if kind in ("Relu", "Sigmoid"):
            self.add(kind, source, channels)
        elif kind == "Conv":
            self.conv(source, self.draw(st.sampled_from([8, 12, 16])))
        elif kind == "depthwise":
            self.conv(source, channels, group=channels)
        elif kind in ("Add", "Concat") and partner is not None:
            joined = channels if kind == "Add" else channels + self.values[partner]
            self.add(kind, f"{source} {partner}", joined, **({} if kind == "Add" else {"axis": 1}))
        elif kind in ("grouped", "shuffle", "Split", "Slice") and channels % 4 == 0 and channels > 4:
            self.divide(kind, source)

    def divide(self, kind: str, source: str) -> None:
        if kind == "grouped":
            self.conv(source, 8, group=4)
        elif kind == "shuffle":
            self.shuffle(source)
        elif kind == "Slice":
            self.slice(source)
        else:
            self.add("Split", source, self.values[source] // 2, outputs=2, axis=1)

    def finish(self) -> Model:
        ends = [name for name in self.values if name != "x" and not any(name in n.input for n in self.nodes)]
        total, *others = [self.conv(name, 4) for name in ends]
        for name in others:
            total = self.add("Add", f"{total} {name}", 4)
        self.nodes.append(node("Identity", total, "y"))
        return model(self.nodes, {"x": "1x4x5x5"}, ["y"], self.weights, naming=self.draw(NAMINGS))


KINDS = ["Conv", "grouped", "Relu", "Sigmoid", "Add", "Concat", "Split", "shuffle", "Slice", "depthwise"]


@st.composite
def graphs(draw: st.DrawFn) -> Model:
    """Convolutions with branches, residuals, concats, splits, shuffles, groups and shared weights."""
    sketch = Sketch(draw)
    sketch.conv("x", draw(st.sampled_from([8, 12, 16])))
    for _ in range(draw(st.integers(2, 7))):
        source = sketch.any_value()
        assert source is not None
        sketch.grow(draw(st.sampled_from(KINDS)), source)
    return sketch.finish()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(), st.integers(0, 1000))
def test_any_cut_of_any_graph_is_proven(built: Model, seed: int) -> None:
    smaller, proof = halve(built, seed=seed)
    assert proof.holds, proof
    onnx.checker.check_model(onnx.load_from_string(smaller.to_bytes()), full_check=True)
    assert [o.SerializeToString() for o in smaller.proto.graph.output] == [
        o.SerializeToString() for o in built.proto.graph.output
    ]

"""Any generated network is pruned to its target."""

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import layers
from onnxsparse.ir.model import Model
from tests.graphs import NAMINGS, node, proto
from tests.pruning.pruned import prune


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions with residuals, groups and a shared weight, in front of a Gemm."""
    width = draw(st.sampled_from([4, 8]))
    nodes = [node("Conv", "x stem", "v0", pads=[1] * 4)]
    weights: dict[str, str] = {"stem": f"{width}x3x3x3"}
    last = "v0"
    for i in range(1, draw(st.integers(1, 5)) + 1):
        group = draw(st.sampled_from([1, 2, width]))
        name = f"w{i}" if i == 1 or draw(st.booleans()) else "w1"
        if name == f"w{i}":
            weights[name] = f"{width}x{width // group}x3x3"
        else:
            group = width // int(weights["w1"].split("x")[1])
        nodes.append(node("Conv", f"{last} {name}", f"c{i}", pads=[1] * 4, group=group))
        if draw(st.booleans()):
            nodes.append(node("Add", f"c{i} {last}", f"v{i}", name=f"add{i}"))
        else:
            nodes.append(node("Relu", f"c{i}", f"v{i}", name=f"relu{i}"))
        last = f"v{i}"
    nodes += [node("Flatten", last, "flat"), node("Gemm", "flat dense", "y", transB=1)]
    weights["dense"] = f"5x{width * 36}"
    return proto(nodes, {"x": "1x3x6x6"}, ["y"], weights, naming=draw(NAMINGS))


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from(["lamp", "l1"]), st.sampled_from(["global", "layer"]))
def test_any_network_is_pruned_exactly_and_stays_sound(built: onnx.ModelProto, target: float, score: str, scope: str) -> None:
    pruned, report = prune(built, sparsity_op=target, score=score, scope=scope)
    after = onnx.ModelProto.FromString(pruned.to_bytes())
    onnx.checker.check_model(after, full_check=True)
    assert (after.graph.input, after.graph.output, after.graph.node) == (built.graph.input, built.graph.output, built.graph.node)
    totals = layers(Model.from_proto(after)).totals
    assert totals == report.after
    assert totals.sparsity_op is not None
    assert totals.sparsity_op >= target
    again, _ = prune(pruned, sparsity_op=target, score=score, scope=scope)
    assert again.to_bytes() == pruned.to_bytes()

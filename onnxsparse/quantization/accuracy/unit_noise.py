"""Every unit computed twice on the same floats, as it was and in integers: its own error, told apart from what it inherits."""

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.ir.model import Model
from onnxsparse.ops import Quant, find
from onnxsparse.progress import tell
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.write.qdq import Written
from onnxsparse.runtime.probe import element_counts, groups_within, output_name, prefix
from onnxsparse.runtime.session import runner

FLOATS_HELD = 3
"""Values of a unit's size that live at a time: as it was, in integers, and their difference."""

ALONE = "onnxsparse/alone/"
"""What the names of the second computation begin with."""


def isolated(placement: Placement, written: Written, names: Sequence[str]) -> Model:
    """A model that makes values `names` of the float model, and under `alone(name)` what integers make of the same floats.

    It is the float model, and beside it the quantized one, whose quantizers read the float model's values.
    """
    model = placement.anatomy.model.copy("the twin, float and quantized side by side,")
    floats = {*placement.anatomy.graph.defined}
    graph, other = model.proto.graph, written.model.proto.graph
    fed = {value.name for value in other.input} - {tensor.name for tensor in other.initializer}
    for node in other.node:
        graph.node.append(twin(node, written, floats, fed))
    for tensor in other.initializer:
        graph.initializer.append(
            onnx.TensorProto(name=f"{ALONE}{tensor.name}", dims=tensor.dims, data_type=tensor.data_type, raw_data=b"")
        )
    model.weights.refresh()
    for tensor in other.initializer:
        model.weights.share(f"{ALONE}{tensor.name}", written.model.weights, tensor.name)
    return prefix(model, [*names, *(alone(written, name) for name in names)])


def alone(written: Written, name: str) -> str:
    return f"{ALONE}{written.written_name(name)}"


def twin(node: onnx.NodeProto, written: Written, floats: set[str], fed: set[str]) -> onnx.NodeProto:
    """A node of the quantized model under other names; a quantizer of activations reads the float model's."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")  # names are optional, and two alike are refused
    spec = find(node.domain, node.op_type, written.model.opset(node.domain))
    original = {new: old for old, new in written.unquantized.items()}
    for at, name in enumerate(node.input):
        known = original.get(name, name)
        quantizes = at == 0 and spec is not None and spec.quant.role is Quant.BOUNDARY and known in floats
        if name and name not in fed:
            stored = name in written.model.weights
            copy.input[at] = known if quantizes and not stored else f"{ALONE}{name}"
    for at, name in enumerate(node.output):
        copy.output[at] = f"{ALONE}{name}" if name else ""
    return copy


def isolated_groups(
    placement: Placement, written: Written, names: Sequence[str], data: CalibrationData, budget_bytes: int
) -> Iterator[tuple[list[str], Model]]:
    """`isolated` for all of `names`, in groups whose values, computed twice, fit the budget."""
    first = next(iter(data))
    counts = element_counts(placement.anatomy.model, list(dict.fromkeys(names)), first)
    for group in groups_within({name: count * FLOATS_HELD * 4 for name, count in counts.items()}, budget_bytes):
        yield group, isolated(placement, written, group)


def own_noise(placement: Placement, written: Written, data: CalibrationData, budget_bytes: int) -> dict[int, float]:
    """Unit → the power of its own error over that of what it makes, over `data`; the powers are summed inside onnxruntime."""
    anatomy = placement.anatomy
    values = {anatomy.nodes[unit.root].output[0]: unit.root for unit in placement.units}
    found: dict[int, float] = {}
    for group, model in isolated_groups(placement, written, list(values), data, budget_bytes):
        ratios = noise_ratios(model, [(name, alone(written, name)) for name in group], data)
        found |= {values[name]: ratios[name] for name in group}
    return found


def noise_ratios(model: Model, pairs: Sequence[tuple[str, str]], data: CalibrationData) -> dict[str, float]:
    """First name → Σ (first − second)² / Σ first² over `data`. `model` is changed: these become its outputs."""
    graph = model.proto.graph
    del graph.output[:]
    for at, (name, other) in enumerate(pairs):
        difference, noise, power = (output_name(at, what) for what in ("difference", "noise", "power"))
        graph.node.append(helper.make_node("Sub", [name, other], [difference]))
        for read, made in ((difference, noise), (name, power)):
            graph.node.append(helper.make_node("ReduceSumSquare", [read], [made], keepdims=0))
            graph.output.append(onnx.ValueInfoProto(name=made))
    running = runner(model)
    noises, powers = [0.0] * len(pairs), [0.0] * len(pairs)
    for number, feeds in enumerate(data, start=1):
        sums = running.run(feeds)
        for at in range(len(pairs)):
            noises[at] += sums[output_name(at, "noise")].item()
            powers[at] += sums[output_name(at, "power")].item()
        tell("noise of each layer", number)
    return {name: noises[at] / powers[at] if powers[at] else 0.0 for at, (name, _) in enumerate(pairs)}

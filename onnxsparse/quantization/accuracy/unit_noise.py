"""The noise that each unit adds by itself, separate from the noise that it inherits.

1. Append the quantized model to the float model under names with a prefix; its quantizers read the float model's values
   (`isolated`).
2. Every unit is now computed twice on the same float inputs: in float and in integers.
3. Sum the squares of the float result and of the difference over the samples, inside onnxruntime (`noise_ratios`).
"""

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from onnxsparse.ir.model import Model
from onnxsparse.ops import Quant, find
from onnxsparse.progress import tell
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.write.qdq import Written
from onnxsparse.runtime.probe import element_counts, groups_within, output_name, prefix
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner

FLOATS_HELD = 3
"""Arrays of a unit's output size that live at a time: the float result, the integer result, and their difference."""

ALONE = "onnxsparse/alone/"
"""Prefix of the names in the second computation."""


def isolated(placement: Placement, written: Written, names: Sequence[str]) -> Model:
    """A model whose outputs are the values `names` of the float model and, as `alone(name)`, their isolated quantized results.

    It holds both models; the quantizers of the quantized one read the float model's values.
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
    """The name, in the model that `isolated` returns, of the quantized result of the float model's value `name`."""
    return f"{ALONE}{written.written_name(name)}"


def twin(node: onnx.NodeProto, written: Written, floats: set[str], fed: set[str]) -> onnx.NodeProto:
    """A copy of a node of the quantized model with prefixed names; a quantizer of an activation reads the float model's value.

    `floats`: values of the float model; `fed`: inputs of the model, which keep their names.
    """
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")  # names are optional, and onnxruntime refuses duplicates
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
    placement: Placement, written: Written, names: Sequence[str], data: Samples, budget_bytes: int
) -> Iterator[tuple[list[str], Model]]:
    """(names, their `isolated` model) for groups of `names` whose activations fit `budget_bytes`."""
    first = next(iter(data))
    counts = element_counts(placement.anatomy.model, list(dict.fromkeys(names)), first)
    for group in groups_within({name: count * FLOATS_HELD * 4 for name, count in counts.items()}, budget_bytes):
        yield group, isolated(placement, written, group)


def own_noise(placement: Placement, written: Written, data: Samples, budget_bytes: int) -> dict[int, float]:
    """Root node of each unit → power of its own error over power of its output, over `data`; 0 for an output of zeros."""
    anatomy = placement.anatomy
    values = {anatomy.nodes[unit.root].output[0]: unit.root for unit in placement.units}
    found: dict[int, float] = {}
    for group, model in isolated_groups(placement, written, list(values), data, budget_bytes):
        ratios = noise_ratios(model, [(name, alone(written, name)) for name in group], data)
        found |= {values[name]: ratios[name] for name in group}
    return found


def noise_ratios(model: Model, pairs: Sequence[tuple[str, str]], data: Samples) -> dict[str, float]:
    """First name of each pair → Σ (first − second)² / Σ first² over `data`; 0 if the first is all zeros.

    `model` is changed: the sums replace its outputs.
    """
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

"""Every unit computed twice on the same floats, as it was and in integers: its own error, told apart from what it inherits."""

import onnx
from onnx import helper

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.calibration.observe import prefix
from onnxsparse.model import Model
from onnxsparse.ops import Quant, find
from onnxsparse.progress import tell
from onnxsparse.quantization.insertion import Written
from onnxsparse.quantization.placement import Placement
from onnxsparse.runtime import runner

ALONE = "onnxsparse/alone/"
"""What the names of the second computation begin with."""


def isolated(placement: Placement, written: Written, names: list[str]) -> Model:
    """A model that makes values `names` of the float model, and under `alone(name)` what integers make of the same floats.

    It is the float model, and beside it the quantized one, whose quantizers read the float model's values.
    """
    model = placement.anatomy.model.copy()
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
        model.weights[f"{ALONE}{tensor.name}"] = written.model.weights[tensor.name]
    return prefix(model, [*names, *(alone(written, name) for name in names)])


def alone(written: Written, name: str) -> str:
    return f"{ALONE}{written.written_name(name)}"


def twin(node: onnx.NodeProto, written: Written, floats: set[str], fed: set[str]) -> onnx.NodeProto:
    """A node of the quantized model under other names; a quantizer of activations reads the float model's."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{ALONE}{node.name}"
    spec = find(node.domain, node.op_type, written.model.opset(node.domain))
    original = {new: old for old, new in written.unquantized.items()}
    for at, name in enumerate(node.input):
        known = original.get(name, name)
        quantizes = at == 0 and spec is not None and spec.quant is Quant.BOUNDARY and known in floats
        if name and name not in fed:
            stored = name in written.model.weights
            copy.input[at] = known if quantizes and not stored else f"{ALONE}{name}"
    for at, name in enumerate(node.output):
        copy.output[at] = f"{ALONE}{name}" if name else ""
    return copy


def own_noise(placement: Placement, written: Written, data: CalibrationData) -> dict[int, float]:
    """Unit → the power of its own error over that of what it makes, over `data`; the powers are summed inside onnxruntime."""
    anatomy = placement.anatomy
    values = {unit.root: anatomy.nodes[unit.root].output[0] for unit in placement.units}
    model = isolated(placement, written, list(dict.fromkeys(values.values())))
    graph = model.proto.graph
    del graph.output[:]
    for root, name in values.items():
        difference, noise, power = (f"onnxsparse/{root}/{what}" for what in ("difference", "noise", "power"))
        graph.node.append(helper.make_node("Sub", [name, alone(written, name)], [difference]))
        for read, made in ((difference, noise), (name, power)):
            graph.node.append(helper.make_node("ReduceSumSquare", [read], [made], keepdims=0))
            graph.output.append(onnx.ValueInfoProto(name=made))
    running = runner(model)
    noises, powers = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    for number, feeds in enumerate(data, start=1):
        sums = running.run(feeds)
        for root in values:
            noises[root] += sums[f"onnxsparse/{root}/noise"].item()
            powers[root] += sums[f"onnxsparse/{root}/power"].item()
        tell("noise of each layer", number)
    return {root: noises[root] / powers[root] if powers[root] else 0.0 for root in values}

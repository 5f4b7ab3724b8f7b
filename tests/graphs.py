"""The one graph builder of the tests. Shapes are written as `1x3x8x8`; a letter is a symbolic size."""

import itertools
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxsparse.ir.model import Model

Array = NDArray[Any]
Values = Mapping[str, "str | Array | np.generic"]

FLOAT, FLOAT16, INT64, INT32, UINT8, INT8, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.BOOL,
)


class Naming(Enum):
    """What a model's nodes are called, which no result may depend on."""

    AS_BUILT = auto()
    NONE = auto()
    REPEATED = auto()
    """Half of them have no name, and bodies beside the network repeat those of the others."""


ASIDE = ("ReduceMax", "Greater", "If")
"""The ops that `Naming.REPEATED` adds."""

NAMINGS = st.sampled_from([Naming.AS_BUILT, Naming.NONE, Naming.NONE, Naming.REPEATED])


def sizes(shape: str) -> list[int | str]:
    return [int(part) if part.lstrip("-").isdigit() else part for part in shape.split("x")] if shape else []


def node(op: str, inputs: str, outputs: str, *, name: str | None = None, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `outputs` are names with blanks between them; `_` leaves an optional one out."""
    used, made = (["" if n == "_" else n for n in text.split()] for text in (inputs, outputs))
    return helper.make_node(op, used, made, name=made[0] if name is None else name, domain=domain, **attributes)


def weight(shape: str, seed: int = 0) -> Array:
    """Normal float32 values."""
    return np.random.default_rng(seed).standard_normal([int(s) for s in sizes(shape)]).astype(np.float32)


def value(name: str, shape: str | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None if shape is None else sizes(shape))


def proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, str | tuple[str, int]],
    outputs: Sequence[str] = ("y",),
    weights: Values | None = None,
    *,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
    value_info: Sequence[onnx.ValueInfoProto] = (),
    naming: Naming = Naming.AS_BUILT,
) -> onnx.ModelProto:
    """A model; outputs have the type that is inferred, weights given as a shape get normal values."""
    arrays = {n: weight(w, seed) if isinstance(w, str) else w for seed, (n, w) in enumerate((weights or {}).items())}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [value(n, *(s if isinstance(s, tuple) else (s,))) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
        value_info=list(value_info),
    )
    imports = [helper.make_opsetid(d, v) for d, v in {"": opset, **(domains or {})}.items()]
    made = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))
    rename(made.graph, naming)
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True).graph
    for old, new in zip(made.graph.output, inferred.output, strict=True):
        old.CopyFrom(new if new.HasField("type") else value(new.name, None))
    return made


def rename(graph: onnx.GraphProto, naming: Naming) -> None:
    """Name the nodes of a graph, whose first input is floats, otherwise."""
    if naming is Naming.REPEATED:
        names = [n.name for n in graph.node if n.name][::2] or ["again"]
        add_bodies(graph, names)
    for index, given in enumerate(graph.node):
        if naming is Naming.NONE or (naming is Naming.REPEATED and index % 2 and given.op_type != "If"):
            given.ClearField("name")


def add_bodies(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Two Ifs over the first input, with outputs of their own: the first has the name that is the second's output, and all
    four bodies repeat the names of nodes and of a constant, which is another number in each.
    """
    x = graph.input[0].name
    graph.initializer.append(numpy_helper.from_array(np.array(-1e9, np.float32), "aside_least"))
    graph.node.append(node("ReduceMax", x, "aside_max", name="", keepdims=0))
    graph.node.append(node("Greater", "aside_max aside_least", "aside_holds", name=""))
    for at, name in enumerate(("aside1", "")):
        branches: dict[str, Any] = {
            attribute: helper.make_graph(
                [node("Add", f"{x} k", "sum", name=names[0]), node("Relu", "sum", "out", name=names[-1] if names[1:] else "")],
                attribute,
                [],
                [value("out", None)],
                [numpy_helper.from_array(np.array(number + at, np.float32), "k")],
            )
            for attribute, number in (("then_branch", 1), ("else_branch", 10))
        }
        graph.node.append(node("If", "aside_holds", f"aside{at}", name=name, **branches))
        graph.output.append(onnx.ValueInfoProto(name=f"aside{at}"))


def model(*args: Any, **kwargs: Any) -> Model:
    """As `proto`, loaded."""
    return Model.from_proto(proto(*args, **kwargs))


def op_types(built: Model | onnx.ModelProto) -> list[str]:
    """The op of each node of the main graph, in order."""
    proto = built.proto if isinstance(built, Model) else built
    return [n.op_type for n in proto.graph.node]


def single(op: str, order: str, inputs: Mapping[str, Any], weights: Values | None = None, **options: Any) -> Model:
    """A model of one node whose inputs are `order`; options that `proto` does not take are attributes."""
    taken = {k: options.pop(k) for k in ("opset", "domains", "ir_version") if k in options}
    domain = options.pop("domain", "")
    outputs = options.pop("outputs", "y")
    if domain:
        taken.setdefault("domains", {domain: 1})
    return model([node(op, order, outputs, domain=domain, **options)], inputs, outputs.split()[:1], weights, **taken)


def conv(x: str, w: str, **attributes: Any) -> Model:
    kernel = [int(s) for s in sizes(w)[2:]]
    if isinstance(attributes.get("pads"), int):
        attributes["pads"] = [attributes["pads"]] * 2 * len(kernel)
    for name in ("strides", "dilations"):
        if isinstance(attributes.get(name), int):
            attributes[name] = [attributes[name]] * len(kernel)
    return single("Conv", "x w", {"x": x}, {"w": w}, **attributes)


def chain(*widths: int, size: int = 8, kernel: int = 3) -> onnx.ModelProto:
    """Convolutions with ReLU one after the other: widths of input, conv0, conv1, …; named `conv0` with weight `conv0.weight`."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, str | Array] = {}
    last = "x"
    for i, (into, out) in enumerate(itertools.pairwise(widths)):
        weights |= {f"conv{i}.weight": weight(f"{out}x{into}x{kernel}x{kernel}", i), f"conv{i}.bias": weight(f"{out}", 100 + i)}
        end = "y" if i == len(widths) - 2 else f"relu{i}"
        nodes.append(node("Conv", f"{last} conv{i}.weight conv{i}.bias", f"conv{i}", pads=[kernel // 2] * 4))
        nodes.append(node("Relu", f"conv{i}", end, name=f"relu{i}"))
        last = end
    return proto(nodes, {"x": f"1x{widths[0]}x{size}x{size}"}, ["y"], weights)

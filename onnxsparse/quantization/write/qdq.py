"""Insertion of Q/DQ nodes: QuantizeLinear and DequantizeLinear for values, integer initializers for weights and biases.

1. Let units read values that are quantized already from their DequantizeLinear.
2. Quantize every weight, with scales raised where a 32-bit bias would overflow, and check that zeros stay zero.
3. Quantize biases, with the scale of input times weight, and constant operands of arithmetic.
4. Insert a QuantizeLinear/DequantizeLinear pair after every scaled value; the placement's readers read its result.
5. Write nodes and initializers, and drop those that are no longer used.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsparse.errors import PassError
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array
from onnxsparse.ops.spelling import ALL_WIDTHS_OPSET, PER_CHANNEL_OPSET
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices, ValueScale, WeightScale, value_scales
from onnxsparse.quantization.plan.units import Unit, UnitWeight, is_float_weight
from onnxsparse.quantization.write.grid import Floats, Grid
from onnxsparse.quantization.write.weights import (
    Quantized,
    Sharing,
    quantize_bias,
    quantize_weight,
    weight_scale,
    wide_enough,
)
from onnxsparse.records import Change

MICROSOFT = "com.microsoft"
"""onnxruntime's domain, whose QuantizeLinear and DequantizeLinear support integers of 4 and 16 bits at any opset."""


@dataclass(frozen=True)
class Stored:
    """The tensors that hold a quantized weight or bias."""

    integers: str
    scale: str


@dataclass
class Written:
    """A quantized model."""

    model: Model
    scales: dict[str, ValueScale]
    """Value → scale, for every value with a quantizer inserted here."""
    weights: dict[str, WeightScale] = field(default_factory=dict)
    """Quantized weight → scale."""
    dequantized: dict[str, str] = field(default_factory=dict)
    """Value → the result of its DequantizeLinear, which its readers read instead."""
    unquantized: dict[str, str] = field(default_factory=dict)
    """Output of the model → new name of the value before its quantizer; the dequantized value keeps the output's name."""
    changes: list[Change] = field(default_factory=list)
    """Quantized weights with their zeros before and after."""
    stored: dict[str, Stored] = field(default_factory=dict)
    """Quantized weight → the tensors that hold it."""
    biases: dict[int, Stored] = field(default_factory=dict)
    """Root of a unit → the tensors that hold its bias as 32-bit integers."""
    starts: list[int] = field(default_factory=list)
    """Node of the float model → the first node here that computes it or dequantizes its weights."""

    def written_name(self, name: str) -> str:
        """The name, in the quantized model, of the float model's value `name` before its quantizer."""
        return self.unquantized.get(name, name)

    def replace(self, stored: Stored, found: Quantized) -> None:
        """Store other integers and scales of a weight or bias, in the same shapes."""
        self.model.weights[stored.integers] = found.integers
        self.model.weights[stored.scale] = found.scale.astype(np.float32)


def write_integers(placement: Placement, choices: Choices) -> Written:
    """A quantized copy of the placement's model. Raises PassError if a weight of zero would not be integer 0."""
    return Inserter(placement, choices).run()


class Inserter:
    """Collects new tensors and nodes, then writes them.

    `before`, `behind`: node index → nodes to insert before or after it (−1: before the first). `replaced`: initializers that hold
    integers now. `beside`: initializers whose integers are a new tensor, since something still reads the floats.
    """

    def __init__(self, placement: Placement, choices: Choices) -> None:
        model = self.model = placement.anatomy.model.copy()
        self.placement = placement
        self.anatomy = placement.anatomy
        self.target = placement.anatomy.target
        self.choices = choices
        self.scales = value_scales(placement, choices)
        self.nodes = list(model.proto.graph.node)
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.behind: dict[int, list[onnx.NodeProto]] = {}
        self.replaced: set[str] = set()
        self.beside: set[str] = set()
        self.additions = Additions(model)
        self.written = Written(model, self.scales)

    def run(self) -> Written:
        """Steps 1 to 5 of the head of this file. Raises PassError as `write_integers` says."""
        for unit in self.placement.units:
            self._read_quantized(unit)
        uses: dict[str, list[tuple[Unit, UnitWeight]]] = {}
        for unit in self.placement.units:
            for weight in unit.weights:
                if is_float_weight(self.model, weight.stored):
                    uses.setdefault(weight.stored.name, []).append((unit, weight))
        for name, users in uses.items():
            self._quantize_weight(name, users)
        for unit in self.placement.units:
            self._quantize_bias(unit)
            self._quantize_constants(unit)
        for name in self.placement.scaled:
            self._quantize_value(name)
        self._write()
        return self.written

    def _read_quantized(self, unit: Unit) -> None:
        """Let a unit read existing dequantized values instead of the floats before their quantizers."""
        node = self.nodes[unit.root]
        for at in unit.activations:
            node.input[at] = self.anatomy.already.get(node.input[at], node.input[at])

    def _quantize_value(self, name: str) -> None:
        placement, scale = self.placement, self.scales[name]
        producer = self.anatomy.graph.producers.get(name)
        source, result = name, name
        if name in self.anatomy.outputs and name in placement.made_in_integers:
            source = self.additions.fresh(f"{name}_unquantized")
            assert producer is not None
            node = self.nodes[producer]
            node.output[list(node.output).index(name)] = source
            self.written.unquantized[name] = source
        else:
            result = self.additions.fresh(f"{name}_dequantized")
            for index in placement.readers[name]:
                self._rewire(index, name, result)
        parameters = [
            self.additions.constant(f"{name}_scale", np.array(scale.scale, np.float32)),
            self.additions.constant(f"{name}_zero_point", np.array(scale.zero_point, scale.grid.dtype)),
        ]
        integers = self.additions.fresh(f"{name}_quantized")
        domain = self._domain(scale.grid.dtype)
        pair = [
            helper.make_node(op, [read, *parameters], [made], name=self.additions.fresh(f"{name}_{op}"), domain=domain)
            for op, read, made in (("QuantizeLinear", source, integers), ("DequantizeLinear", integers, result))
        ]
        self.behind.setdefault(-1 if producer is None else producer, []).extend(pair)
        self.written.dequantized[name] = result

    def _rewire(self, index: int, old: str, new: str) -> None:
        node = self.nodes[index]
        for at, name in enumerate(node.input):
            if name == old:
                node.input[at] = new

    def _quantize_weight(self, name: str, users: list[tuple[Unit, UnitWeight]]) -> None:
        weight = self.model.weights[name]
        grid = self.target.weights.grid
        grid = grid.wider(self.choices.wide_weights.get(name, grid.bits))
        sharing = self._sharing(weight, users, grid)
        chosen = self.choices.rounded.get(name)
        scale = weight_scale(weight, sharing, grid) if chosen is None else chosen.scale
        for unit, _ in users:
            scale = self._fit_bias(unit, scale, grid) if sharing.block is None else scale
        # a scale that was raised for a bias needs other integers
        stays = chosen is not None and np.array_equal(scale, chosen.scale)
        found = chosen if chosen is not None and stays else quantize_weight(weight, scale, sharing, grid)
        self._check_zeros(name, weight, found)
        nodes = tuple(self.anatomy.graph.names[unit.root] for unit, _ in users)
        zeros = int(weight.size - np.count_nonzero(weight))
        self.written.changes.append(Change(name, nodes, weight.size, zeros, found.zeros))
        self.written.weights[name] = WeightScale(grid, found.scale, sharing, found.integers if found is chosen else None)
        self.written.stored[name] = self._store(name, found, self._edges(name, users))
        self.model.weights.release(name)

    def _sharing(self, weight: Array, users: list[tuple[Unit, UnitWeight]], grid: Grid) -> Sharing:
        """Which elements of a weight get a scale of their own: those of a block, of an output channel, or all."""
        outputs, inputs = {w.axis for _, w in users}, {self.anatomy.input_axis(unit) for unit, _ in users}
        if not self.target.weights.per_channel or self.model.opset() < PER_CHANNEL_OPSET or len(outputs) > 1:
            return Sharing()
        block = self.target.weights.block if grid.bits == self.target.weights.bits else None
        axis = inputs.pop() if len(inputs) == 1 else None
        if block is None or axis is None or axis in outputs or weight.shape[axis] % block:
            return Sharing(outputs.pop())
        return Sharing(axis, block)

    def _check_zeros(self, name: str, weight: Array, found: Quantized) -> None:
        if np.count_nonzero(found.integers[weight == 0]):
            raise PassError(f"quantize: zeros of weight '{name}' did not stay zeros")

    def _edges(self, name: str, users: list[tuple[Unit, UnitWeight]]) -> set[int]:
        """The nodes that read the stored tensor: the layers, or what moves it on its way to them (Transpose, Reshape, …)."""
        direct = {unit.root for unit, w in users if self.nodes[unit.root].input[w.at] == name}
        return direct if len(direct) == len(users) else set(self.anatomy.readers(name))

    def _fit_bias(self, unit: Unit, scale: Floats, grid: Grid) -> Floats:
        bias, input_scale = self.anatomy.bias_name(unit), self._input_scale(unit)
        if input_scale is None:
            return scale
        # onnxruntime also turns a constant that is added after the product into a 32-bit bias
        largest = np.array(self._added(unit)) if bias is None else np.abs(self._shifted(unit, bias))
        if scale.ndim == 0 or largest.ndim == 0:
            largest = np.array(largest.max(initial=0.0))
        elif scale.size != largest.size:
            largest = largest.reshape(-1, scale.size).max(0)  # groups of outputs share their scales
        return grid.rounded(wide_enough(scale, largest, input_scale))

    def _added(self, unit: Unit) -> float:
        """The largest finite magnitude among constants that a unit adds after its product; 0 without any."""
        graph, resolver = self.anatomy.graph, self.anatomy.resolver
        names = {name for index in unit.nodes[1:] for name in self.anatomy.nodes[index].input if name in self.anatomy.constant}
        stored = (resolver.constant(graph, name) for name in names)
        values = [self.model.weights[name] for name in stored if name is not None]
        finite = [np.abs(v[np.isfinite(v)]).max(initial=0.0) for v in values if v.dtype == np.float32]
        return float(max(finite, default=0.0))

    def _shifted(self, unit: Unit, bias: str) -> Floats:
        found: Floats = self.model.weights[bias].astype(np.float64)
        return found + self.choices.bias_shifts.get(unit.root, np.zeros(()))

    def _input_scale(self, unit: Unit) -> float | None:
        """Scale of the activation that a layer multiplies; None if it was quantized before or is a weight as well."""
        name = self.anatomy.nodes[unit.root].input[unit.activations[0]]
        return self.scales[name].scale if name in self.scales else None

    def _quantize_bias(self, unit: Unit) -> None:
        """Store a unit's bias in 32 bits, if the unit has a single weight and it was quantized here."""
        bias, input_scale = self.anatomy.bias_name(unit), self._input_scale(unit)
        weights = [self.written.weights[w.stored.name] for w in unit.weights if w.stored.name in self.written.weights]
        if bias is None or input_scale is None or len(weights) != 1 or len(unit.weights) != 1:
            return
        steps = weights[0].sharing.of_outputs(weights[0].scale, unit.weights[0].axis)
        if weights[0].sharing.block is not None:
            steps = wide_enough(steps, np.abs(self._shifted(unit, bias)), input_scale)
        found = quantize_bias(self._shifted(unit, bias), steps, input_scale)
        self.written.biases[unit.root] = self._store(bias, found, {unit.root}, at=unit.bias_at)

    def _quantize_constants(self, unit: Unit) -> None:
        """Store constant operands of arithmetic as integers on the grid of activations; non-finite ones stay float."""
        for at in unit.constants:
            name = self.anatomy.resolver.constant(self.anatomy.graph, self.nodes[unit.root].input[at])
            if name is None or self.model.weights.proto(name).data_type != TensorProto.FLOAT:
                continue
            values = self.model.weights[name]
            if not values.size or not np.isfinite(values).all():
                continue
            grid = self.target.activations.grid
            scale, zero_point = grid.parameters(values.min(), values.max())
            found = Quantized(grid.integers(values, scale, zero_point), np.array(scale), Sharing())
            self._store(name, found, {unit.root}, zero_point, at=at)

    def _store(self, name: str, found: Quantized, readers: set[int], zero_point: int = 0, at: int | None = None) -> Stored:
        """Store integers in place of tensor `name` if only `readers` use it, else as a new tensor; add a DequantizeLinear.

        `at`: the only input of the readers that is rewired; None for every input that reads `name`.
        """
        stays = bool(set(self.anatomy.readers(name)) - readers) or name in self.anatomy.outputs or name in self.anatomy.captured
        if at is not None and list(self.anatomy.nodes[min(readers)].input).count(name) > 1:
            stays = True
        if stays or name in self.replaced or name in self.anatomy.graph.producers:
            stored = self.additions.constant(f"{name}_quantized", found.integers)
            self.beside.add(name)
        else:
            stored = name
            self.replaced.add(name)
            self.model.weights[name] = found.integers
        parameters = [
            self.additions.constant(f"{name}_scale", found.scale.astype(np.float32)),
            self.additions.constant(f"{name}_zero_point", np.full(found.scale.shape, zero_point, found.integers.dtype)),
        ]
        result = self.additions.fresh(f"{name}_dequantized")
        domain = self._domain(found.integers.dtype)
        node = helper.make_node(
            "DequantizeLinear",
            [stored, *parameters],
            [result],
            name=self.additions.fresh(f"{name}_DequantizeLinear"),
            domain=domain,
        )
        attributes = {"axis": found.sharing.axis, "block_size": found.sharing.block}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items() if value is not None)
        self.before.setdefault(min(readers), []).append(node)
        for index in readers:
            if at is None:
                self._rewire(index, name, result)
            else:
                self.nodes[index].input[at] = result
        return Stored(stored, parameters[0])

    def _domain(self, dtype: np.dtype[np.generic]) -> str:
        common = dtype in (np.int8, np.uint8, np.int32)
        return MICROSOFT if not common and self.model.opset() < ALL_WIDTHS_OPSET else ""

    def _write(self) -> None:
        graph = self.model.proto.graph
        ordered = list(self.behind.get(-1, []))
        for index, node in enumerate(self.nodes):
            ordered += [*self.before.get(index, []), node, *self.behind.get(index, [])]
        read = {name for node in ordered for name in node.input} | self.anatomy.outputs | self.anatomy.captured
        dropped = self.beside - read
        kept = [node for node in ordered if not dropped.intersection(node.output)]
        places = {id(node): at for at, node in enumerate(kept)}
        for index, node in enumerate(self.nodes):
            self.written.starts.append(min(places.get(id(one), len(kept)) for one in (*self.before.get(index, []), node)))
        replace_all(graph.node, kept)
        replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in dropped])
        replace_all(graph.input, [given for given in graph.input if given.name not in dropped])
        self.additions.write()
        self._retype()
        if any(node.domain == MICROSOFT for node in graph.node) and not self.model.opset(MICROSOFT):
            self.model.proto.opset_import.add(domain=MICROSOFT, version=1)

    def _retype(self) -> None:
        """Correct the declared type of quantized initializers, which inputs (IR version 3) or value_info may list."""
        graph = self.model.proto.graph
        for declared in (*graph.input, *graph.value_info):
            if declared.name in self.replaced:
                declared.type.tensor_type.elem_type = self.model.weights.proto(declared.name).data_type

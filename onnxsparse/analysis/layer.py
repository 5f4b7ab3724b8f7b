"""Facts about one layer, and sums over all layers of a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.format import AT_LEAST, OF_KNOWN, Mark
from onnxsparse.ir.binding import Binding
from onnxsparse.ops import WeightAxes


@dataclass(frozen=True)
class WeightUse:
    """One weight tensor as one node uses it.

    `elements`, `zeros`: element counts of the stored tensor; `zeros` None: unknown.
    `uses`: MACs per element; None: unknown.
    `axes`: roles of the tensor's axes as the op sees it; None: unknown.
    `bits`: bits per element if it is stored or quantized as an integer; None for a float.
    """

    stored: StoredWeight
    elements: int
    zeros: int | None
    uses: int | None
    axes: WeightAxes | None
    bits: int | None = None

    @property
    def tensor(self) -> str:
        """The tensor's name in `model.weights`."""
        return self.stored.name

    @property
    def macs(self) -> int | None:
        """MACs with this weight, those with zero elements included; None: unknown."""
        return None if self.uses is None else self.uses * self.elements

    @property
    def zero_macs(self) -> int | None:
        """MACs with zero elements of this weight; None: unknown."""
        return None if self.uses is None or self.zeros is None else self.uses * self.zeros


@dataclass(frozen=True)
class Layer:
    """One linear op.

    `within`: the node of the main graph that contains it; the node itself unless it is in a body or function.
    `macs`: multiply-accumulate operations for one inference, zero weights included; None: unknown.
    `weights`: empty if no operand is a weight tensor.
    """

    node: str
    op_type: str
    within: str
    macs: int | None
    weights: tuple[WeightUse, ...]
    depthwise: bool = False
    computed_weight: str | None = None
    """Why a constant operand does not count as a weight tensor; None if every constant operand counts."""
    weight_share: float | None = None
    """Zero MACs of this layer over weight MACs of the model, so that shares add up to sparsity_op; None: unknown."""
    unknown: str | None = None
    """Why the MACs are unknown, as a clause; None if they are known."""
    open_size: bool = False
    """Whether the MACs are unknown because of a size that the model leaves open."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the weight tensors."""
        return tuple(w.tensor for w in self.weights)

    @property
    def counted(self) -> bool:
        """Whether the MACs of the layer and of each of its weights are known."""
        return self.macs is not None and all(w.uses is not None for w in self.weights)

    @property
    def elements(self) -> int:
        """Weight elements, a sum over the weight tensors."""
        return sum(w.elements for w in self.weights)

    @property
    def zeros(self) -> int | None:
        """Weight elements that are zero; None: unknown."""
        return total(w.zeros for w in self.weights)

    @property
    def weight_macs(self) -> int | None:
        """MACs with weight tensors, zero elements included. Less than `macs` if an operand is computed. None: unknown."""
        return total(w.macs for w in self.weights)

    @property
    def zero_macs(self) -> int | None:
        """MACs with zero weight elements; None: unknown."""
        return total(w.zero_macs for w in self.weights)

    @property
    def nonzero_macs(self) -> int | None:
        """MACs without those with zero weight elements; None: unknown."""
        return None if self.macs is None or self.zero_macs is None else self.macs - self.zero_macs

    @property
    def sparsity(self) -> float | None:
        """Zero weight elements over all, from 0 to 1. None without weights, or if unknown."""
        return None if not self.elements or self.zeros is None else self.zeros / self.elements

    @property
    def density(self) -> float | None:
        """1 − sparsity. None without weights, or if unknown."""
        return None if self.sparsity is None else 1 - self.sparsity


@dataclass(frozen=True)
class Totals:
    """Sums over a model. A tensor that several layers use counts once in `weights` and `zero_weights`, in elements.

    MACs are sums over the layers for which they are known; None if no layer's are known, but some node's are unknown.
    `macs_complete`: if False, the MACs of some node are unknown: sums of MACs are lower bounds, and sparsity_op is a ratio over
    the known part. `weights_complete`: the same for weights and sparsity, if an unknown op reads a tensor that may be a weight.
    """

    weights: int
    zero_weights: int | None
    macs: int | None
    nonzero_macs: int | None
    weight_macs: int
    zero_macs: int | None
    macs_complete: bool = True
    weights_complete: bool = True

    @property
    def complete(self) -> bool:
        """Whether MACs and weights of every node are known."""
        return self.macs_complete and self.weights_complete

    @property
    def sparsity(self) -> float | None:
        """Zero weight elements over all, from 0 to 1. None without weights, or if unknown."""
        return None if not self.weights or self.zero_weights is None else self.zero_weights / self.weights

    @property
    def sparsity_op(self) -> float | None:
        """MACs with zero weight elements over all MACs with weights, from 0 to 1. None without such MACs, or if unknown."""
        return None if not self.weight_macs or self.zero_macs is None else self.zero_macs / self.weight_macs


@dataclass(frozen=True)
class UnknownNode:
    """A node of an op that the toolkit does not know. Its MACs are unknown.

    `op`: `domain:OpType`, without the domain if it is the standard one.
    `within`: the node of the main graph that contains it, or the node itself.
    `matrix_elements`: elements of the stored tensors of rank 2 and more that it reads, which may be weights.
    """

    node: str
    op: str
    within: str
    matrix_elements: int = 0

    @property
    def op_type(self) -> str:
        """The op type without its domain."""
        return self.op.rpartition(":")[2]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Empty: the node has no known weight tensors."""
        return ()


@dataclass(frozen=True)
class Layers(Sequence[Layer]):
    """The linear ops of a model in graph order.

    `unknown`: nodes of unknown ops. `notes`: assumptions, as sentences. `binding`: the input sizes that MACs hold for.
    `free`: nodes whose unknown MACs count as 0 because the caller said so.
    """

    layers: tuple[Layer, ...]
    unknown: tuple[UnknownNode, ...]
    notes: tuple[str, ...]
    binding: Binding
    free: frozenset[str] = frozenset()

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Layer, ...]: ...
    def __getitem__(self, index: int | slice) -> Layer | tuple[Layer, ...]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def unknown_ops(self) -> tuple[str, ...]:
        """Unknown op types, sorted; as `domain:OpType` outside the standard domain."""
        return tuple(sorted({u.op for u in self.unknown}))

    @property
    def without_macs(self) -> tuple[Layer, ...]:
        """The layers whose MACs are unknown."""
        return tuple(layer for layer in self.layers if layer.macs is None)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The nodes whose MACs are unknown and not assumed to be 0."""
        found: list[Layer | UnknownNode] = [*(layer for layer in self.layers if not layer.counted), *self.unknown]
        return tuple(node.node for node in found if not self.is_free(node))

    def is_free(self, node: Layer | UnknownNode) -> bool:
        """Whether a node, or the node of the main graph that contains it, is assumed to have no MACs."""
        return not self.free.isdisjoint((node.node, node.within))

    @cached_property
    def totals(self) -> Totals:
        """Sums over all layers; incomplete if a node is uncounted."""
        found = replace(
            add_up(self.layers),
            macs_complete=not self.uncounted,
            weights_complete=not any(u.matrix_elements and not self.is_free(u) for u in self.unknown),
        )
        if len(self.without_macs) < len(self.layers):
            return found
        rest = 0 if found.macs_complete else None  # no layer adds to the sum: the others are free, or their MACs are unknown
        return replace(found, macs=rest, nonzero_macs=rest)


def total(values: Iterator[int | None]) -> int | None:
    """The sum; None if one of the values is unknown."""
    found = list(values)
    return None if None in found else sum(v for v in found if v is not None)


def add_up(layers: Sequence[Layer]) -> Totals:
    """Sums over some layers. Nodes of unknown ops do not count; `Layers.totals` takes them into account."""
    tensors = {w.tensor: w for layer in layers for w in layer.weights}
    known = [layer for layer in layers if layer.macs is not None]
    used = [w for layer in layers for w in layer.weights if w.uses is not None]
    macs = sum(layer.macs or 0 for layer in known) if known or not layers else None
    zero_macs = total(w.zero_macs for w in used)
    return Totals(
        weights=sum(w.elements for w in tensors.values()),
        zero_weights=total(w.zeros for w in tensors.values()),
        macs=macs,
        nonzero_macs=None if macs is None or zero_macs is None else macs - zero_macs,
        weight_macs=sum(w.macs or 0 for w in used),
        zero_macs=zero_macs,
        macs_complete=all(layer.counted for layer in layers),
    )


MACS, NONZERO_MACS, PARAMS, SPARSITY, SPARSITY_OP = NODE_KEYS = ("macs", "nonzero_macs", "params", "sparsity", "sparsity_op")
"""Names of the metrics in annotations and reports."""


def marks_of(totals: Totals) -> dict[str, Mark]:
    """Metric → its mark, for those that are incomplete."""
    made: dict[str, Mark] = {}
    if not totals.macs_complete:
        made |= {MACS: AT_LEAST, NONZERO_MACS: AT_LEAST, SPARSITY_OP: OF_KNOWN}
    if not totals.weights_complete:
        made |= {PARAMS: AT_LEAST, SPARSITY: OF_KNOWN}
    return made

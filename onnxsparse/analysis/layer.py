"""What is known of a layer, and of all layers together."""

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
    """One weight tensor as one node uses it. `uses`: MACs per element; `axes`: of the tensor as the op sees it.

    `bits`: width of an element where it is, or becomes, an integer; None for a float.
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
        return None if self.uses is None else self.uses * self.elements

    @property
    def zero_macs(self) -> int | None:
        return None if self.uses is None or self.zeros is None else self.uses * self.zeros


@dataclass(frozen=True)
class Layer:
    """One linear op. `within`: the main graph's node that it is part of, itself unless it is in a body or function."""

    node: str
    op_type: str
    within: str
    macs: int | None
    weights: tuple[WeightUse, ...]
    depthwise: bool = False
    computed_weight: str | None = None
    """Why an operand that is constant is no weight tensor here."""
    weight_share: float | None = None
    """Zero MACs over the model's weight MACs; the layers' shares sum to the model's sparsity_op."""
    unknown: str | None = None
    """Why its MACs are unknown, as a clause; None if they are known."""
    open_size: bool = False
    """Whether that is a size that the model leaves open."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its weight tensors."""
        return tuple(w.tensor for w in self.weights)

    @property
    def counted(self) -> bool:
        """Whether its MACs, and those of each of its weights, are known."""
        return self.macs is not None and all(w.uses is not None for w in self.weights)

    @property
    def elements(self) -> int:
        return sum(w.elements for w in self.weights)

    @property
    def zeros(self) -> int | None:
        return total(w.zeros for w in self.weights)

    @property
    def weight_macs(self) -> int | None:
        return total(w.macs for w in self.weights)

    @property
    def zero_macs(self) -> int | None:
        return total(w.zero_macs for w in self.weights)

    @property
    def nonzero_macs(self) -> int | None:
        return None if self.macs is None or self.zero_macs is None else self.macs - self.zero_macs

    @property
    def sparsity(self) -> float | None:
        return None if not self.elements or self.zeros is None else self.zeros / self.elements

    @property
    def density(self) -> float | None:
        return None if self.sparsity is None else 1 - self.sparsity


@dataclass(frozen=True)
class Totals:
    """Sums over a model. A tensor counts once in `weights`; MACs are those that are known, None if none is.

    `macs_complete` False: the MACs of some node are unknown, so that MACs are lower bounds and sparsity_op is of what is known;
    `weights_complete` False: likewise for weights and sparsity, where an unknown op reads a tensor that may be a weight.
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
        """Whether everything that the totals are of is known."""
        return self.macs_complete and self.weights_complete

    @property
    def sparsity(self) -> float | None:
        return None if not self.weights or self.zero_weights is None else self.zero_weights / self.weights

    @property
    def sparsity_op(self) -> float | None:
        return None if not self.weight_macs or self.zero_macs is None else self.zero_macs / self.weight_macs


@dataclass(frozen=True)
class UnknownNode:
    """A node whose op the toolkit does not know; its MACs are None.

    `within`: the main graph's node that it is part of. `matrix_elements`: elements of the stored tensors of two axes or more that
    it reads, which may be weights.
    """

    node: str
    op: str
    within: str
    matrix_elements: int = 0

    @property
    def op_type(self) -> str:
        """Without its domain."""
        return self.op.rpartition(":")[2]

    @property
    def tensors(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Layers(Sequence[Layer]):
    """The linear ops of a model in graph order, what could not be counted, and what was assumed.

    `free`: nodes whose MACs count as 0 where they are unknown, because the caller said so.
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
        """Unknown op types, `domain:OpType` outside the standard domain."""
        return tuple(sorted({u.op for u in self.unknown}))

    @property
    def without_macs(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.macs is None)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The nodes whose MACs are unknown and not assumed to be 0."""
        found: list[Layer | UnknownNode] = [*(layer for layer in self.layers if not layer.counted), *self.unknown]
        return tuple(node.node for node in found if not self.is_free(node))

    def is_free(self, node: Layer | UnknownNode) -> bool:
        """Whether a node, or the main graph's node around it, is assumed to cost nothing."""
        return not self.free.isdisjoint((node.node, node.within))

    @cached_property
    def totals(self) -> Totals:
        return replace(
            add_up(self.layers),
            macs_complete=not self.uncounted,
            weights_complete=not any(u.matrix_elements and not self.is_free(u) for u in self.unknown),
        )


def total(values: Iterator[int | None]) -> int | None:
    """The sum, None if a part of it is unknown."""
    found = list(values)
    return None if None in found else sum(v for v in found if v is not None)


def add_up(layers: Sequence[Layer]) -> Totals:
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


def marks_of(totals: Totals) -> dict[str, Mark]:
    """Total → what it is where something is unknown."""
    made: dict[str, Mark] = {}
    if not totals.macs_complete:
        made |= {MACS: AT_LEAST, NONZERO_MACS: AT_LEAST, SPARSITY_OP: OF_KNOWN}
    if not totals.weights_complete:
        made |= {PARAMS: AT_LEAST, SPARSITY: OF_KNOWN}
    return made

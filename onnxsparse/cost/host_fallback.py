"""The tail of a model that no accelerator runs, and the tensors at which to cut it off.

1. Find the items that need a host: ops whose work depends on values (NonMaxSuppression), or whose output sizes do.
2. The tail is these items and everything downstream of them.
3. The crossings are the tensors that the tail reads from the rest of the model.
"""

from dataclasses import dataclass

from onnxsparse.cost.backends.base import EIGHT_BIT, Precision
from onnxsparse.cost.backends.work import WorkItem, total_bytes
from onnxsparse.cost.workload import Workload


@dataclass(frozen=True)
class Crossing:
    """A tensor that the accelerator hands over to the host.

    `node`: its producer, None for an input of the model. `bytes`: its size, None if unknown.
    """

    tensor: str
    node: str | None
    bytes: int | None


@dataclass(frozen=True)
class Tail:
    """The part of a model that needs a host.

    `causes`: nodes that a host has to run, or whose output sizes depend on values. `nodes`: the causes and all items downstream.
    """

    causes: tuple[str, ...]
    nodes: tuple[str, ...]
    crossings: tuple[Crossing, ...]

    @property
    def bytes(self) -> int | None:
        """Bytes that cross per inference; None if a size is unknown."""
        sizes = [c.bytes for c in self.crossings]
        return None if None in sizes else sum(s for s in sizes if s is not None)


def find_tail(load: Workload, precision: Precision = EIGHT_BIT) -> Tail | None:
    """The tail of a workload; None if an accelerator can run everything. Sizes are in `precision.activation_bits` for floats."""
    makers = {name: item for item in load.items for name in item.outputs}
    causes = [item for item in load.items if needs_host(item)]
    if not causes:
        return None
    reached: set[str] = set()
    nodes = []
    for item in load.items:
        if needs_host(item) or any(name in reached for name in item.inputs):
            reached.update(item.outputs)
            nodes.append(item)
    entering = dict.fromkeys(name for item in nodes for name in item.inputs if name not in reached)
    crossings = (crossing(load, makers, name, precision) for name in entering)
    return Tail(tuple(i.node for i in causes), tuple(i.node for i in nodes), tuple(crossings))


def needs_host(item: WorkItem) -> bool:
    """Whether an item is an op that no accelerator runs, or a known op with known input sizes and unknown output sizes."""
    return item.on_host or (item.output_elements is None and item.input_elements is not None and item.macs is not None)


def crossing(load: Workload, makers: dict[str, WorkItem], name: str, precision: Precision) -> Crossing:
    """The crossing of tensor `name`; `makers`: tensor → the item that produces it."""
    volume = load.volumes.get(name)
    size = None if volume is None else total_bytes([volume], precision.activation_bits)
    maker = makers.get(name)
    return Crossing(name, None if maker is None else (maker.fused or (maker.node,))[-1], size)

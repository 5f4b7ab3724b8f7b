"""The part of a model that no accelerator runs, and where to cut it off."""

from dataclasses import dataclass

from onnxsparse.cost.backends.base import EIGHT_BIT, Precision
from onnxsparse.cost.backends.work import WorkItem, total_bytes
from onnxsparse.cost.workload import Workload


@dataclass(frozen=True)
class Crossing:
    """A tensor that the accelerator hands over. `node` made it (None: an input of the model); bytes None: size unknown."""

    tensor: str
    node: str | None
    bytes: int | None


@dataclass(frozen=True)
class Tail:
    """`causes`: nodes that a host has to run, or whose sizes depend on values; `nodes`: they and all that needs them."""

    causes: tuple[str, ...]
    nodes: tuple[str, ...]
    crossings: tuple[Crossing, ...]

    @property
    def bytes(self) -> int | None:
        """What crosses per inference."""
        sizes = [c.bytes for c in self.crossings]
        return None if None in sizes else sum(s for s in sizes if s is not None)


def find_tail(load: Workload, precision: Precision = EIGHT_BIT) -> Tail | None:
    """None where everything can run on an accelerator."""
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
    """An op that no accelerator runs; or sizes that are open though those of its inputs are not."""
    return item.on_host or (item.output_elements is None and item.input_elements is not None and item.macs is not None)


def crossing(load: Workload, makers: dict[str, WorkItem], name: str, precision: Precision) -> Crossing:
    volume = load.volumes.get(name)
    size = None if volume is None else total_bytes([volume], precision.activation_bits)
    maker = makers.get(name)
    return Crossing(name, None if maker is None else (maker.fused or (maker.node,))[-1], size)

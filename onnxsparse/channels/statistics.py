"""Channel statistics on data: mean and mean magnitude, one sample at a time; and bias compensation by them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.channels.groups import Removed, Solution
from onnxsparse.ir.mapped import byte_view
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops import find
from onnxsparse.ops.labels import Labels
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelMeans:
    """Statistics of one value along one axis."""

    axis: int
    """The axis."""
    mean: Vector
    """Mean per index."""
    magnitude: Vector
    """Mean magnitude per index."""


def channel_means(model: Model, solution: Solution, samples: Samples) -> dict[str, ChannelMeans]:
    """Name → statistics of every float value that a linear op sums over. Samples run one by one, so memory does not grow with
    them.

    Raises BackendError if onnxruntime does not run the model.
    """
    wanted = dict(labelled_values(solution))
    if not wanted:
        return {}
    running = runner(model, also=list(wanted))
    sums: dict[str, tuple[Vector, Vector]] = {}
    for feeds in samples:
        values = running.run(feeds)
        for name, axis in wanted.items():
            if values[name].dtype.kind == "f":
                old = sums.get(name, (0.0, 0.0))
                sums[name] = (old[0] + average(values[name], axis), old[1] + average(np.abs(values[name]), axis))
    count = len(samples)
    return {name: ChannelMeans(wanted[name], mean / count, size / count) for name, (mean, size) in sums.items()}


def average(value: Array, axis: int) -> Vector:
    """Mean over all axes but `axis`, in float64."""
    found: Vector = value.mean(tuple(i for i in range(value.ndim) if i != axis), dtype=np.float64)
    return found


def labelled_values(solution: Solution) -> Iterator[tuple[str, int]]:
    """(name, axis) of the activations that linear ops of the main graph sum over."""
    for index, pairs in solution.found.contracted.items():
        place = solution.found.places[index]
        for at, axis in pairs if not place.graph.scope else ():
            name = place.node.input[at]
            if (index, at) not in solution.uses and solution.axes_at(index, at) is not None:
                yield name, axis


def compensate(cut: Model, original: Model, solution: Solution, removed: Removed, means: dict[str, ChannelMeans]) -> int:
    """Add the expected contribution of removed channels to the biases of the convolutions and Gemms that read them.

    Changes `cut`; returns the number of changed biases. A node without a bias of its own is skipped.
    """
    nodes = {node.output[0]: node for node in cut.proto.graph.node if node.output}
    done = 0
    for index, place in enumerate(solution.found.places):
        node = place.node
        shift = bias_shift(original, solution, removed, means, index)
        spec = solution.found.spec(index)
        if shift is None or spec is None or spec.fold.absorb is None:
            continue
        target = nodes[node.output[0]]
        at = spec.fold.absorb.bias_at
        if at >= len(target.input) or not target.input[at] or target.input[at] not in cut.weights:
            continue
        users = sum(target.input[at] in n.input for n in cut.proto.graph.node)
        bias = cut.weights[target.input[at]]
        if users == 1 and bias.shape == shift.shape:
            cut.weights[target.input[at]] = (np.asarray(bias, np.float64) + shift).astype(bias.dtype)
            done += 1
    return done


def only_biases_differ(proven: Model, folded: Model) -> bool:
    """Whether two models differ in values of biases alone, so that a proof of one covers the weights of the other."""
    if list(proven.weights) != list(folded.weights) or len(proven.proto.graph.node) != len(folded.proto.graph.node):
        return False
    others = not_biases(folded)
    for name in folded.weights:
        old, new = proven.weights[name], folded.weights[name]
        alike = old.shape == new.shape and old.dtype == new.dtype
        if not alike or (name in others and not np.array_equal(byte_view(old), byte_view(new))):
            return False
        proven.weights.release(name)
        folded.weights.release(name)
    return True


def not_biases(model: Model) -> set[str]:
    """Constants with a user that does not read them as a layer's bias."""
    biases, others = set[str](), set[str]()
    for node in model.proto.graph.node:
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        at = None if spec is None or spec.fold.absorb is None else spec.fold.absorb.bias_at
        for position, name in enumerate(node.input):
            (biases if position == at else others).add(name)
    return set(model.weights) - (biases - others)


def bias_shift(
    original: Model, solution: Solution, removed: Removed, means: dict[str, ChannelMeans], index: int
) -> Vector | None:
    """Σ over removed inputs of weight × expected value, per output that is kept. None if the node is not affected, or the sum
    cannot be formed.

    Exact for a Gemm and inside a convolution. At a padded border part of the kernel sees zeros instead of expected values.
    """
    spec, op = solution.found.spec(index), solution.found.view(index)
    if spec is None or spec.fold.absorb is None or spec.group_count(op) != 1:
        return None
    use = solution.uses.get((index, spec.fold.absorb.weight_at))
    known = means.get(op.node.input[0])
    slot = next((s for s in spec.weights if s.at == spec.fold.absorb.weight_at), None)
    if use is None or known is None or slot is None:
        return None
    axes = slot.axes(op)
    labels: Labels | None = use.axes[axes.input]
    if labels is None or labels.size != known.mean.size or not removed[labels].any():
        return None
    weight = np.asarray(original.weights[use.tensor], np.float64)
    matrix = np.moveaxis(weight, (axes.output, axes.input), (0, 1))
    summed = matrix.reshape(*matrix.shape[:2], -1).sum(2)
    shift: Vector = summed[:, removed[labels]] @ known.mean[removed[labels]]
    kept = solution.kept(use.axes[axes.output], removed)
    return shift if kept is None else shift[kept]

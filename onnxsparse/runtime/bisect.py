"""Where two versions of a model diverge: the first inner tensors that differ, and the largest losses in one step.

1. Take the tensors that both models produce under the same name and that depend on the inputs.
2. Measure the SQNR of each on the same samples (`tensor_trace`).
3. For each tensor, find its sources: the nearest compared tensors that it is computed from.
4. A tensor diverges if its SQNR is below the threshold. It is one of the first if none of its sources diverges.
5. The loss of a step is the SQNR of the worst source minus that of the tensor.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxsparse.errors import ParamError
from onnxsparse.format import name_some
from onnxsparse.ir.binding import fed_inputs
from onnxsparse.ir.graph import Graph, captured
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import bodies
from onnxsparse.runtime.compare import SEEDED_SAMPLES
from onnxsparse.runtime.distance import finite
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import processor_notes
from onnxsparse.runtime.tensor_trace import Trace, Versions

MIN_SQNR_DB = 30.0
"""The SQNR in dB below which a tensor diverges."""

BUDGET_BYTES = 512 * 1000**2
"""Tensors of both models that are held at a time, in bytes."""

MOST_LOSSES = 10
"""Losses that are reported."""

ROUNDING_DB = 100.0
"""SQNR in dB from which tensors count as equal when losses are ranked: float32 sums in another order come this close."""


@dataclass(frozen=True)
class TensorLoss:
    """A tensor that both models produce, and the loss in the step that produces it.

    `sqnr_db`: infinite for equal tensors, None if they are not comparable; `problem` says why.
    `source`: the tensor with the lowest SQNR among the nearest compared ones that it is computed from; None if it is computed
    from inputs of the model alone. `downstream`: number of diverging tensors computed from it.
    """

    tensor: str
    node: str
    op_type: str
    sqnr_db: float | None
    source: str | None
    source_sqnr_db: float | None
    problem: str | None
    downstream: int

    @property
    def lost_db(self) -> float | None:
        """The SQNR of the source minus its own, in dB; None if one of them is not comparable."""
        return lost_db(self.source_sqnr_db, self.sqnr_db)

    def to_json(self) -> dict[str, object]:
        """The loss as JSON; an infinite SQNR is null, with `identical` true."""
        return {
            "tensor": self.tensor,
            "node": self.node,
            "op_type": self.op_type,
            "sqnr_db": finite(self.sqnr_db),
            "identical": self.sqnr_db == math.inf,
            "input": self.source,
            "input_sqnr_db": finite(self.source_sqnr_db),
            "input_identical": self.source_sqnr_db == math.inf,
            "lost_db": finite(self.lost_db),
            "problem": self.problem,
            "diverging_behind": self.downstream,
        }


@dataclass(frozen=True)
class Uncompared:
    """How many tensors of the main graphs are not compared, by reason: produced by one model alone, not floats, or constant."""

    only_first: int
    only_second: int
    not_float: int
    constant: int


@dataclass(frozen=True)
class Divergence:
    """`first`: the diverging tensors none of whose sources diverges. `losses`: the largest losses in one step, worst first.

    `compared`, `diverging`: numbers of tensors. `worst_sqnr_db`: None if nothing is comparable.
    """

    first: tuple[TensorLoss, ...]
    losses: tuple[TensorLoss, ...]
    min_sqnr_db: float
    compared: int
    diverging: int
    worst_sqnr_db: float | None
    uncompared: Uncompared
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether at least one tensor was compared and none diverges."""
        return self.shortfall is None

    @property
    def shortfall(self) -> str | None:
        """Why the models do not agree; None if they do."""
        if not self.compared:
            return f"no tensor was compared, so none reaches {self.min_sqnr_db:g} dB"
        return f"not every tensor reaches {self.min_sqnr_db:g} dB" if self.diverging else None

    def to_json(self) -> dict[str, object]:
        """The result as JSON; an infinite SQNR is null."""
        return {
            "schema": 1,
            "min_sqnr_db": finite(self.min_sqnr_db),
            "compared": self.compared,
            "diverging": self.diverging,
            "worst_sqnr_db": finite(self.worst_sqnr_db),
            "first": [found.to_json() for found in self.first],
            "losses": [found.to_json() for found in self.losses],
            "only_first": self.uncompared.only_first,
            "only_second": self.uncompared.only_second,
            "not_float": self.uncompared.not_float,
            "constant": self.uncompared.constant,
            "samples": self.samples,
            "notes": list(self.notes),
        }


def bisect(
    first: Model,
    second: Model,
    samples: Samples | None = None,
    *,
    min_sqnr_db: float = MIN_SQNR_DB,
    custom_ops: Sequence[Path] = (),
    seed: int = 0,
    budget_bytes: int = BUDGET_BYTES,
) -> Divergence:
    """Compare the tensors that both models produce under the same name, on the same inputs.

    `samples`: None for two seeded random ones. `min_sqnr_db`: the threshold in dB. `budget_bytes`: tensors held at a time.
    Both models run as written, without fusions. Tensors computed from weights alone are not compared: a changed weight shows
    where it is used.

    Raises ParamError for a threshold that is not a number, and for an input for which random values cannot be drawn; BackendError
    if onnxruntime cannot run a model.
    """
    if math.isnan(min_sqnr_db):
        raise ParamError("--min-sqnr is a number of dB")
    samples = seeded_samples(first, SEEDED_SAMPLES, seed) if samples is None else samples
    graph, others = Graph(first.proto.graph), Graph(second.proto.graph).producers
    fed = fed_values(graph)
    shared = [name for name in graph.producers if name in others]
    wanted = [name for name in shared if name in fed]
    traces = Versions((first, second), samples.feeds, custom_ops).traces(wanted, budget_bytes)
    found = Judgement(graph, traces, min_sqnr_db)
    return Divergence(
        found.first(),
        found.losses(),
        min_sqnr_db,
        compared=len(traces),
        diverging=len(found.diverging),
        worst_sqnr_db=min((v for v in found.sqnr_db.values() if v is not None), default=None),
        uncompared=Uncompared(
            len(graph.producers) - len(shared), len(others) - len(shared), len(wanted) - len(traces), len(shared) - len(wanted)
        ),
        samples=len(samples),
        notes=(*samples.notes, *processor_notes(first), *processor_notes(second), *what_is_passed_over(graph, traces)),
    )


def fed_values(graph: Graph) -> set[str]:
    """The values that depend on the inputs that a caller feeds."""
    found = {value.name for value in fed_inputs(graph.proto)}
    for node in graph.proto.node:
        if not found.isdisjoint(used_values(node)):
            found.update(filter(None, node.output))
    return found


def used_values(node: onnx.NodeProto) -> list[str]:
    """The values that a node uses, those that its bodies capture included."""
    return [*node.input, *captured(node)]


def nearest_sources(graph: Graph, compared: Collection[str]) -> dict[str, list[str]]:
    """Compared tensor → the compared tensors that it is computed from with no other compared one in between; in graph order."""
    nearest: dict[str, list[str]] = {}
    sources = {}
    for node in graph.proto.node:
        above = list(dict.fromkeys(name for value in used_values(node) for name in nearest.get(value, ())))
        for name in filter(None, node.output):
            nearest[name] = [name] if name in compared else above
            if name in compared:
                sources[name] = above
    return sources


class Judgement:
    """Steps 3 to 5: which tensors of a graph diverge, which of them first, and where most is lost."""

    def __init__(self, graph: Graph, traces: Mapping[str, Trace], min_sqnr_db: float) -> None:
        self.graph = graph
        self.traces = traces
        self.sources = nearest_sources(graph, traces)
        self.readers: dict[str, list[str]] = {}
        for name, sources in self.sources.items():
            for source in sources:
                self.readers.setdefault(source, []).append(name)
        self.sqnr_db = {name: trace.sqnr_db for name, trace in traces.items()}
        self.diverging = {name for name, found in self.sqnr_db.items() if found is None or found < min_sqnr_db}

    def first(self) -> tuple[TensorLoss, ...]:
        """The diverging tensors none of whose sources diverges, in graph order."""
        found = (name for name in self.sources if name in self.diverging)
        return tuple(self._loss(name) for name in found if self.diverging.isdisjoint(self.sources[name]))

    def losses(self) -> tuple[TensorLoss, ...]:
        """The MOST_LOSSES largest losses in one step, worst first."""
        lost = {name: lost_db(*self._step(name)) for name in self.sources}
        ranked = sorted((name for name in lost if lost[name]), key=lambda name: -(lost[name] or 0.0))
        return tuple(self._loss(name) for name in ranked[:MOST_LOSSES] if (lost[name] or 0.0) > 0)

    def _loss(self, name: str) -> TensorLoss:
        index = self.graph.producers[name]
        op_type = self.graph.proto.node[index].op_type
        source, (before, after) = self._worst_source(name), self._step(name)
        problem = self.traces[name].problem
        return TensorLoss(
            name, self.graph.names[index], op_type, after, source, before, problem, self._diverging_downstream(name)
        )

    def _step(self, name: str) -> tuple[float | None, float | None]:
        """The SQNR of a tensor's worst source and its own. Inputs of the model are equal, hence infinite."""
        source = self._worst_source(name)
        return math.inf if source is None else self.sqnr_db[source], self.sqnr_db[name]

    def _worst_source(self, name: str) -> str | None:
        """The source with the lowest SQNR, where one that is not comparable counts as the lowest. None without sources."""
        figures = {source: self.sqnr_db[source] for source in self.sources[name]}
        return min(figures, key=lambda source: (figures[source] is not None, figures[source] or 0.0), default=None)

    def _diverging_downstream(self, name: str) -> int:
        found: set[str] = set()
        pending = list(self.readers.get(name, ()))
        while pending:
            reader = pending.pop()
            if reader not in found:
                found.add(reader)
                pending += self.readers.get(reader, ())
        return len(found & self.diverging)


def lost_db(before: float | None, after: float | None) -> float | None:
    """SQNR before a step minus SQNR after it, in dB, above ROUNDING_DB counted as equal; None if one is not comparable."""
    if before is None or after is None:
        return None
    return min(before, ROUNDING_DB) - min(after, ROUNDING_DB)


def what_is_passed_over(graph: Graph, traces: Mapping[str, Trace]) -> Iterator[str]:
    """Notes on what the comparison leaves out: bodies, and NaN or infinite values that both models share."""
    holding = [graph.names[i] for i, node in enumerate(graph.proto.node) if any(bodies(a) for a in node.attribute)]
    if holding:
        yield f"bodies are not entered: what differs inside shows at the outputs of {name_some(holding, 1)}"
    alike = [name for name, trace in traces.items() if trace.alike]
    if alike:
        yield f"NaN and infinite values at the same places in both models do not count: {name_some(alike, 1)}"

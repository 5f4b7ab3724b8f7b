"""Pattern 2:4 on a target that gains from it alone, beside as many zeros without a pattern: what it saves, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.detectors import path_of, pruned
from benchmarks.paper.section import Context, Section
from benchmarks.paper.trained import Trained, database, networks
from benchmarks.tables import table
from onnxsparse import Model, Prune, layers, load
from onnxsparse.analysis.layer import Totals
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.cost.report.caveats import structured

TARGET = "nvidia-a100"

WAYS: dict[str, dict[str, Any]] = {
    "half of each layer, no pattern": {"sparsity": 0.5, "scope": "layer", "protect": "none"},
    "pattern 2:4": {"pattern": "2:4", "protect": "none"},
}
"""Options of `prune`."""


@dataclass(frozen=True)
class Result:
    """One file. `conforming`, `faster`: layers with the pattern, and layers that take less time on TARGET than dense.

    `weighted`: number of layers with weights. `told`: what the report on TARGET says.
    """

    way: str
    sparsity: float
    conforming: frozenset[str]
    faster: frozenset[str]
    weighted: int
    target_ms: float
    cv22_ms: float
    told: str

    @property
    def cells(self) -> tuple[object, ...]:
        """A line of the table."""
        layers_of = f"{len(self.conforming)} of {self.weighted}"
        return self.way, f"{self.sparsity:.1%}", layers_of, len(self.faster), f"{self.target_ms:.4f}", f"{self.cv22_ms:.1f}"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in per cent of one network, dense and with as many zeros in both ways, repaired."""

    network: str
    sparsity: float
    dense: float
    pattern: float
    free: float

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        return self.network, f"{self.sparsity:.1%}", *(f"{each:.2f}" for each in (self.dense, self.pattern, self.free))


def times(found: Deployment) -> dict[str, float]:
    """Layer → milliseconds."""
    return {row.item.node: row.cost.latency_ms for row in found.rows if row.cost is not None}


def result(way: str, model: Model, totals: Totals, dense: dict[str, float]) -> Result:
    """A file beside the times of the dense one."""
    found = deploy(model, TARGET)
    weighted = [item for item in found.load.items if item.weights]
    return Result(
        way=way,
        sparsity=totals.sparsity or 0.0,
        conforming=frozenset(item.node for item in weighted if item.two_of_four),
        faster=frozenset(node for node, ms in times(found).items() if ms < dense[node]),
        weighted=len(weighted),
        target_ms=found.latency_ms,
        cv22_ms=deploy(model, "cv22").latency_ms,
        told=structured(found) or "",
    )


def results(context: Context) -> list[Result]:
    """The dense SSD small, and each way of pruning."""
    path = path_of(context, "small", "trained")
    model = load(path)
    dense = times(deploy(model, TARGET))
    return [result("dense", model, layers(model).totals, dense)] + [
        result(way, *pruned(path, **options), dense) for way, options in WAYS.items()
    ]


def accuracy(network: Trained) -> Accuracy:
    """2:4 wherever it can be, and as many zeros anywhere."""
    pattern, free = load(network.dense), load(network.dense)
    Prune(pattern="2:4", data=network.data).run(pattern)
    sparsity = layers(pattern).totals.sparsity or 0.0
    Prune(sparsity=sparsity, data=network.data, database=database(network.dense, network.data).path).run(free)
    top1 = [network.top1(model) for model in (load(network.dense), pattern, free)]
    return Accuracy(network.name, sparsity, *top1)


def verdict(found: Sequence[Result]) -> str:
    """Whether the layers that gain are those with the pattern, in every file, and some layer has it."""
    wrong = {r.way: sorted(r.faster ^ r.conforming) for r in found if r.faster != r.conforming}
    if wrong:
        told = "; ".join(f"{way}: {len(nodes)} layers, {nodes[0]} among them" for way, nodes in wrong.items())
        return f"differs, because layers gain without the pattern, or have it and gain nothing ({told})"
    if not any(r.conforming for r in found):
        return "differs, because no layer has the pattern"
    return f"holds on {TARGET}, whose formula says so: only layers with the pattern gain, and the report names them"


def section(context: Context) -> Section:
    """How many layers have the pattern and gain, and the latency on both targets."""
    found = results(context)
    lines = [
        f"SSD small with trained magnitudes. `{TARGET}` is a roofline of an NVIDIA A100 from the peaks that NVIDIA publishes",
        "(its file in `onnxsparse/targets` names the sources): twice the rate for layers of which at most two in every four",
        "consecutive inputs are nonzero.",
        "",
        *table(("zeros", "sparsity", "layers with 2:4", "layers that gain", f"{TARGET} ms", "cv22 ms"), [r.cells for r in found]),
        "",
        f"What `report --target {TARGET}` says of each:",
        "",
        *(f"- {r.way}: {r.told.partition(': ')[2]}" for r in found),
        "",
        "What the pattern costs: top-1 in per cent with `--data`, and with as many zeros at any place, measured by elements. The",
        "pattern has the same share of zeros in every layer; zeros at any place go where the outputs feel them least.",
        "",
        *table(("network", "sparsity", "dense", "pattern 2:4", "no pattern"), [accuracy(n).cells for n in networks(context)]),
    ]
    claim = "Hardware such as NVIDIA Ampere gains from zeros of pattern 2:4 alone; the CV22 gains from any."
    return Section("patterns", "2:4 on hardware that needs the pattern", claim, verdict(found), lines)

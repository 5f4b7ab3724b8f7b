"""Divergence of the outputs with zeros allocated by latency and by operations, at the same predicted latency.

    python -m benchmarks.search.allocation MODEL.onnx=DATA... --shares 0.9 0.8 --target cv22 \\
        --out benchmarks/results/search-allocation.md

Both ways use the same curves of the layers and the same repair, and leave all channels. A share is of the way from the dense
latency to the least one that zeros reach, on a logarithmic scale.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import table
from onnxsparse import Prune, PruneChannels, load
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.workload import workload
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.reuse import Reuse, reusing
from onnxsparse.runtime.samples import Samples
from onnxsparse.search.budgets import Budget, Budgets
from onnxsparse.search.densities import allocated, sparse
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import divergence

HALVINGS = 12
"""Bisections of the operations that have a given latency."""

COLUMNS = ("model", "latency, ms", "of dense", "divergence, by operations", "by latency", "ratio", "CPU s")


@dataclass(frozen=True)
class Row:
    """One latency. `by_operations`, `by_latency`: divergences."""

    model: str
    latency_ms: float
    share: float
    by_operations: float
    by_latency: float
    cpu_s: float


@dataclass(frozen=True)
class Allocating:
    """Allocations for one model."""

    subject: Subject
    model: Model
    learned: Samples

    def texts(self, name: str, most: float) -> tuple[str, ...] | None:
        """The densities at which a total is at most this; None out of reach."""
        budgets = Budgets((Budget(name, most),), self.subject.backend, optimistic=True)
        found = allocated(self.model, self.learned, budgets.quantities(), "2GB", 0, 8)
        return None if found.exceeded is not None else found.texts

    def by_operations(self, latency_ms: float) -> tuple[str, ...]:
        """The densities, allocated by operations, of the most operations with this latency."""
        whole = self.model_macs
        low, high, best = 0.0, 1.0, tuple[str, ...]()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            texts = self.texts("nonzero_macs", middle * whole)
            if texts is not None and self.latency(texts) > latency_ms:
                high = middle
            else:
                low, best = middle, texts or best
        return best

    @property
    def model_macs(self) -> float:
        """The operations of the dense model."""
        found = workload(self.model).layers.totals.macs
        assert found is not None
        return found

    def latency(self, texts: Sequence[str]) -> float:
        """The predicted latency in ms with these densities, by magnitude."""
        return deploy(self.pruned(texts, repair=False), self.subject.target).latency_ms

    def pruned(self, texts: Sequence[str], *, repair: bool) -> Model:
        """The model with these densities."""
        found = self.model.copy()
        Prune(data=self.subject.data if repair else None, sparsity=0.0, layer_sparsity=tuple(texts)).run(found)
        return found


def rows(subject: Subject, shares: Sequence[float]) -> Iterator[Row]:
    """A row for each share."""
    model = load(subject.model)
    learned, judged = PruneChannels(data=subject.data, preprocess=subject.preprocess).split(model)
    assert learned is not None and judged is not None
    allocating = Allocating(subject, model, learned)
    (quantity,) = Budgets((Budget("latency_ms", 1.0),), subject.backend, optimistic=True).quantities()
    dense, least = (quantity.value(load_of, 8) for load_of in (workload(model), sparse(workload(model))))
    for share in shares:
        start = time.process_time()
        limit = dense * (least / dense) ** share
        by_latency = allocating.texts("latency_ms", limit)
        assert by_latency is not None
        ways = [allocating.by_operations(limit), by_latency]
        by_operations, loss = (divergence(model, allocating.pruned(texts, repair=True), judged) for texts in ways)
        name = subject.model.parent.name if subject.model.stem == "model" else subject.model.stem
        yield Row(name, limit, limit / dense, by_operations, loss, time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=DATA")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.6])
    parser.add_argument("--target", default="cv22")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cells = []
    for text in options.models:
        path, _, data = text.partition("=")
        with tempfile.TemporaryDirectory() as name, reusing(Reuse(Path(name), "")):
            for row in rows(Subject(model=Path(path), data=Path(data), target=options.target), options.shares):
                print(row, flush=True)
                ratio = row.by_latency / row.by_operations
                losses = (f"{row.by_operations:.4f}", f"{row.by_latency:.4f}", f"{ratio:.2f}")
                cells.append((row.model, f"{row.latency_ms:.3f}", f"{row.share:.0%}", *losses, f"{row.cpu_s:.0f}"))
    head = ["# Zeros by latency and by operations", "", f"Made by `benchmarks/search/allocation.py` on {options.target}.", ""]
    options.out.write_text("\n".join([*head, *table(COLUMNS, cells)]) + "\n")


if __name__ == "__main__":
    main()

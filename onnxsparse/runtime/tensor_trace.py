"""Inner tensors of two versions of a model, compared in a bounded amount of memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.runtime.distance import Distance
from onnxsparse.runtime.probe import element_counts, groups_within, prefix
from onnxsparse.runtime.samples import SampleSource
from onnxsparse.runtime.session import Execution, Feeds, Runner, runner

FLOAT_BYTES = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(double)": 8}
"""onnxruntime's name of a type → bytes of an element. Tensors of other types are not compared."""


@dataclass
class Trace:
    """One tensor of both models over all samples.

    Values that are NaN or infinite in both models alike, as the −∞ of a mask, are left out; `alike`: there were some.
    `odd`: the models with NaN or infinite values elsewhere.
    """

    distance: Distance = field(default_factory=Distance)
    alike: bool = False
    odd: set[str] = field(default_factory=set)

    def add(self, a: Array, b: Array) -> None:
        """Add one sample of both models."""
        if a.shape == b.shape:
            a, b = self._comparable(a, b)
        self.distance.add(a, b)

    def _comparable(self, a: Array, b: Array) -> tuple[Array, Array]:
        special = ~np.isfinite(a) & ~np.isfinite(b)
        if special.any():
            same = special & ((a == b) | (np.isnan(a) & np.isnan(b)))
            self.alike = self.alike or bool(same.any())
            a, b = a[~same], b[~same]
        self.odd |= {which for which, v in (("the first model", a), ("the second model", b)) if not np.isfinite(v).all()}
        return a, b

    @property
    def problem(self) -> str | None:
        """Why there is no SQNR; None if there is one."""
        if self.odd:
            where = "at different places" if len(self.odd) > 1 else f"in {min(self.odd)} alone"
            return f"has NaN or infinite values {where}"
        if self.distance.noise and not self.distance.power:
            return "is zero in the first model"
        return self.distance.mismatch

    @property
    def sqnr_db(self) -> float | None:
        """The SQNR in dB; infinite for equal tensors, None if there is a problem."""
        return self.distance.sqnr_db if self.problem is None else None


@dataclass(frozen=True)
class Versions:
    """Two versions of a model, their inputs and their libraries of custom ops.

    Both run node by node: an output keeps onnxruntime from fusing the nodes around it, so with fusions a tensor's values would
    depend on which other tensors are read.
    """

    models: tuple[Model, Model]
    feeds: SampleSource | Sequence[Feeds]
    custom_ops: Sequence[Path] = ()

    def traces(self, tensors: Sequence[str], budget_bytes: int) -> dict[str, Trace]:
        """Tensor → trace, for those of `tensors` that are floats in both models.

        1. Count the elements of each tensor, for the largest sample.
        2. Form groups of tensors whose values in both models fit `budget_bytes`.
        3. For each group, run both models up to its tensors on all samples, and add the values to the traces.

        Raises BackendError if onnxruntime cannot run a model.
        """
        floats = self._float_bytes(tensors)
        traces = {name: Trace() for name in floats}
        groups = list(groups_within(self._held_bytes(floats), budget_bytes)) if floats else []
        total = len(groups) * len(self.feeds)
        for done, group in enumerate(groups):
            first, second = (self._runner(prefix(model, group)) for model in self.models)
            for number, feeds in enumerate(self.feeds, start=1):
                a, b = first.run(feeds), second.run(feeds)
                for name in group:
                    traces[name].add(a.pop(name), b.pop(name))
                tell("tensors of both models", done * len(self.feeds) + number, total)
        return traces

    def _float_bytes(self, tensors: Sequence[str]) -> dict[str, int]:
        """Tensor → bytes of one element in both models together, for tensors that are floats in both."""
        if not tensors:
            return {}
        first, second = (self._runner(prefix(model, tensors)).types for model in self.models)
        both = [name for name in tensors if first[name] in FLOAT_BYTES and second[name] in FLOAT_BYTES]
        return {name: FLOAT_BYTES[first[name]] + FLOAT_BYTES[second[name]] for name in both}

    def _held_bytes(self, element_bytes: dict[str, int]) -> dict[str, int]:
        """Tensor → bytes that its values in both models take, for the largest sample."""
        largest = max(self.feeds, key=lambda feeds: sum(array.nbytes for array in feeds.values()))
        elements = dict.fromkeys(element_bytes, 0)
        for model in self.models:
            for name, count in element_counts(model, list(element_bytes), largest, self.custom_ops).items():
                elements[name] = max(elements[name], count)
        return {name: elements[name] * element_bytes[name] for name in elements}

    def _runner(self, model: Model) -> Runner:
        return runner(model, custom_ops=self.custom_ops, execution=Execution.NODE_BY_NODE)

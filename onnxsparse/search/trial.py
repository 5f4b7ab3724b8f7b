"""One trial: from parameters to a recipe, its model, what that costs, and how far its outputs are from the original's.

1. Work out what the model may cost after the cut of channels, and find the largest share of the operations that costs no more
   and from which zeros can go on to the budget.
2. Cut, and fit what remains; the result is kept for other trials with the same cut.
3. Allocate the zeros so that the budgets are met (`densities`).
4. Run the whole recipe, as `onnxsparse run` does, and measure.
"""

import math
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.report.records import totals
from onnxsparse.cost.workload import workload
from onnxsparse.errors import ParamError, PassError
from onnxsparse.ir.model import Model
from onnxsparse.parallel.files import below
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.pipeline.cache import Cache
from onnxsparse.pipeline.recipe import parse_recipe
from onnxsparse.pipeline.reuse import Reuse, reusing
from onnxsparse.pipeline.run import Pipeline
from onnxsparse.recovery.divergence import Reference
from onnxsparse.runtime.judge import Judge
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner
from onnxsparse.runtime.threads import limited_threads
from onnxsparse.search.budgets import Quantity
from onnxsparse.search.densities import allocated, lowest_share
from onnxsparse.search.subject import Subject

PROBES = 8
"""Bisections of the share of operations that a cut leaves."""

SPARE = 0.25
"""Least share of what zeros can save, on a logarithmic scale, that is to be left over once the budget is met."""

Step = dict[str, dict[str, Any]]
"""An entry of a recipe's passes: a name, and options."""


@dataclass(frozen=True)
class Params:
    """What a search chooses.

    `reach`: how far the costs go from those of the model, 0, to the budget, 1, on a logarithmic scale. `channels`: the share of
    this way, also logarithmic, that the cut of channels covers; zeros cover the rest. `importance`, `scope`, `round_to`,
    `max_share`: options of prune-channels. `wide`: the ops of 16 bits, if the model is quantized.
    """

    reach: float = 1.0
    channels: float = 0.0
    importance: str = "output"
    scope: str = "all"
    round_to: int = 8
    max_share: float = 1.0
    wide: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. `fault`: why it has no model, as a clause; None if it has one.

    `exceeds`: for each budget, the share of it by which it is exceeded. `loss`: divergence of the outputs. `drop`: of the metric;
    None without one. `samples`: the number learned from; None for all. `steps`: the passes of the recipe.
    """

    params: Params
    samples: int | None
    steps: tuple[Step, ...] = ()
    fault: str | None = None
    totals: Mapping[str, float | int | None] = field(default_factory=dict)
    exceeds: tuple[float, ...] = ()
    loss: float = math.inf
    drop: float | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The saved model: names and contents of its files; empty where it was not asked for."""

    @property
    def harm(self) -> float:
        """What a search minimises: the drop of the metric, else the divergence."""
        return self.loss if self.drop is None else self.drop


@dataclass(frozen=True)
class Trial:
    """A job. `samples`: number to learn from; None for all. `cache`: folder for what trials share.

    `keep`: whether the outcome has the model.
    """

    subject: Subject
    params: Params
    samples: int | None
    cache: Path
    keep: bool

    def moved(self, root: Path) -> Self:
        """For a worker on another machine: with all paths below `root`."""
        return replace(self, subject=self.subject.moved(root), cache=below(root, self.cache.absolute()))


def run_trial(trial: Trial, failures: int) -> Outcome:
    """Run a trial. `failures`: how often it has exceeded a worker's memory: then it learns from half of the samples.

    A pass that refuses or fails is the outcome. Raises ParamError for a metric at fault, ModelError and BackendError for data.
    """
    reuse = Reuse(trial.cache / "measurements", trial.subject.data_digest())
    with limited_threads(1), reusing(reuse):
        return Running(halved(trial) if failures else trial).run()


def halved(trial: Trial) -> Trial:
    """The trial with half of its samples."""
    learned, _ = PruneChannels(**data_options(trial.subject)).split(trial.subject.load())
    count = trial.samples or len(learned or ())
    return replace(trial, samples=max(1, count // 2))


def data_options(subject: Subject) -> dict[str, Any]:
    """The options of a pass that learns."""
    return {"data": subject.data, "test": subject.test, "preprocess": subject.preprocess}


@dataclass
class Running:
    """A trial on the way."""

    trial: Trial

    def __post_init__(self) -> None:
        self.subject = self.trial.subject
        self.dense = self.subject.load()
        self.bits = self.subject.backend.precision.activation_bits
        self.cache = Cache(self.trial.cache / "passes")
        self.learned, self.judged = PruneChannels(**self._learning()).split(self.dense)

    def run(self) -> Outcome:
        """All four steps. Raises as `run_trial` does."""
        found = Outcome(self.trial.params, self.trial.samples)
        try:
            steps = self._steps()
            if isinstance(steps, float):
                return replace(found, fault=f"out of reach: at least {steps:.3g} times the budget", exceeds=(steps - 1,))
            model = self._made(steps)
        except (ParamError, PassError) as error:  # a pass refuses the options that were chosen here, or its proof fails
            return replace(found, fault=str(error))
        cost = totals(deploy_on(model, self.subject.backend))
        exceeds = tuple(self.subject.costs.excess(cost))
        loss, drop = self._judged(model)
        if not math.isfinite(loss):
            return replace(found, fault="its outputs are not finite")
        files = saved(model) if self.trial.keep else {}
        return replace(found, steps=tuple(steps), totals=cost, exceeds=exceeds, loss=loss, drop=drop, files=files)

    def _learning(self) -> dict[str, Any]:
        return data_options(self.subject) | {"samples": self.trial.samples}

    def _steps(self) -> list[Step] | float:
        """The passes of the recipe; or, out of reach, the share of a budget that is used at least."""
        params, steps = self.trial.params, list[Step]()
        quantities = self._quantities()
        model = self.dense.copy()
        if params.channels > 0:
            cut, used = self._cut(quantities)
            if cut is not None:
                steps.append({PruneChannels.name: cut | self._few()})
                model = self._made(steps)
            if params.channels == 1:  # no zeros
                return steps + self._quantized() if used <= 1 else used
        assert self.learned is not None  # a search has data
        found = allocated(model, self.learned, quantities, self.subject.memory, self.subject.seed, self.bits)
        if found.exceeded is not None:
            return found.exceeded
        if found.texts:
            options = {
                "sparsity": 0.0,
                "layer_sparsity": list(found.texts),
                "seed": self.subject.seed,
                "memory": self.subject.memory,
            }
            steps.append({"prune": options | self._few()})
        return steps + self._quantized()

    def _few(self) -> dict[str, Any]:
        return {} if self.trial.samples is None else {"samples": self.trial.samples}

    def _quantized(self) -> list[Step]:
        if not self.subject.quantize:
            return []
        wide = {"wide_layers": self.trial.params.wide} if self.trial.params.wide else {}
        return [{"quantize": wide}]

    def _quantities(self) -> list[Quantity]:
        """What is limited, at the reach of this trial."""
        load = workload(self.dense)
        found = []
        for quantity in self.subject.costs.quantities():
            dense = quantity.value(load, self.bits)
            most = dense * (quantity.most / dense) ** self.trial.params.reach if dense > quantity.most else quantity.most
            found.append(replace(quantity, most=most))
        return found

    def _cut(self, quantities: Sequence[Quantity]) -> tuple[dict[str, Any] | None, float]:
        """The options of the cut (None: there is none), and the largest share of a quantity that the cut model uses.

        It is the smallest cut that covers its share of the way to the budget and leaves the rest within reach of zeros, or the
        largest possible one.
        """
        options: dict[str, Any] = {
            "importance": self.trial.params.importance,
            "scope": self.trial.params.scope,
            "round_to": self.trial.params.round_to,
            "max_share": self.trial.params.max_share,
            "seed": self.subject.seed,
            "memory": self.subject.memory,
        }
        wanted = self._used(self.dense, quantities) ** (1 - self.trial.params.channels)
        low, high, best = 0.0, 1.0, None
        for _ in range(PROBES):
            middle = (low + high) / 2
            model = self.dense.copy()
            left = PruneChannels(**options, **self._learning(), macs=middle).cut(model)
            used = self._used(model, quantities)
            share = max(middle, math.ceil(left * 1e6) / 1e6)  # more than was asked for, where no more can be cut
            if used <= wanted and self._reachable(model, used, quantities):
                low, best = middle, (share, used)
            else:
                high = middle
                if share > middle and best is None:
                    best = (share, used)
        if best is None or best[0] >= 1:
            return None, self._used(self.dense, quantities)
        return options | {"macs": best[0]}, best[1]

    def _reachable(self, model: Model, used: float, quantities: Sequence[Quantity]) -> bool:
        """Whether zeros can cover the rest of the way, without all layers at their lowest densities. `used`: with dense ones."""
        if used <= 1:
            return True
        lowest = lowest_share(model, quantities, self.bits)
        return self.trial.params.channels < 1 and math.log(lowest) <= -SPARE * math.log(used / lowest)

    def _used(self, model: Model, quantities: Sequence[Quantity]) -> float:
        load = workload(model)
        return max(quantity.value(load, self.bits) / quantity.most for quantity in quantities)

    def _made(self, steps: Sequence[Step]) -> Model:
        """The model after these passes. Raises PassError, ParamError, ModelError and BackendError as they do."""
        content = recipe(self.subject, steps)
        model = self.subject.load()
        found = parse_recipe(content)
        Pipeline(found.passes).run(model, replace(self.subject.judging, metric=None, labels=None), self.cache)
        return model

    def _judged(self, model: Model) -> tuple[float, float | None]:
        """The divergence of the outputs, and the drop of the metric."""
        assert self.judged is not None  # `check` requires data to judge on
        loss = divergence(self.dense, model, self.judged)
        if self.subject.metric is None:
            return loss, None
        metric = self.subject.judging.loaded_metric()
        assert metric is not None  # it is named
        return loss, Judge(self.dense, self.judged).measure(metric, model).drop


def recipe(subject: Subject, steps: Sequence[Step]) -> dict[str, object]:
    """The content of a recipe. Files are those of `subject`: a worker on another machine has others than the caller."""
    own = {"quantize": {"target": subject.target}}
    passes = [{name: options | own.get(name, {})} for step in steps for name, options in step.items()]
    return dict(subject.recipe_head()) | {"passes": passes}


def divergence(dense: Model, model: Model, judged: Samples) -> float:
    """How far the outputs of `model` are from those of `dense`."""
    ours, theirs = runner(dense), runner(model)
    pairs = [(ours.run(feeds), theirs.run(feeds)) for feeds in judged]
    return Reference([own for own, _ in pairs]).divergence([other for _, other in pairs])


def saved(model: Model) -> dict[str, bytes]:
    """Names and contents of the files of a saved model."""
    with tempfile.TemporaryDirectory(prefix="onnxsparse-") as name:
        model.save(Path(name) / "model.onnx")
        return {file.name: file.read_bytes() for file in sorted(Path(name).iterdir())}


def read_outcome(entry: Path) -> Outcome | None:
    """An outcome that was kept; None if there is none."""
    with suppress(OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError):
        found: Outcome = pickle.loads(entry.read_bytes())
        return found
    return None

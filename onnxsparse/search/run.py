"""A search: generations of trials, first cheap and then, for the promising, in full.

Every outcome is kept on disk under a digest of all that it depends on, as soon as its trial has ended. A search that starts again
goes through the same generations and finds these outcomes; the study (Optuna) is a record of them.
"""

import pickle
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxsparse.cost.report.tables import format_total
from onnxsparse.parallel.executor import Executor, GivenUp
from onnxsparse.pipeline.cache import digest
from onnxsparse.pipeline.reuse import store
from onnxsparse.progress import tell
from onnxsparse.search.bounds import Bounds
from onnxsparse.search.front import Front, Point, cost_of, excess, undominated
from onnxsparse.search.generations import distributions, grid, proposed, told
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import Outcome, Params, Trial, read_outcome, run_trial
from onnxsparse.search.write import written

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

CHEAP_SAMPLES = 32
"""Samples that a cheap trial learns from."""

PROMOTED = 4
"""Trials of a generation that run in full after the cheap ones."""

WRITE_SECONDS = 60
"""Least time between two writes of the front on the way, for which trials wait."""


@dataclass
class Search:
    """A search that keeps its state in `folder`.

    `study`: where trials are recorded. `trials`: number to run, rounded up to whole generations. `minutes`: after which no trial
    starts; None: no limit.
    """

    subject: Subject
    bounds: Bounds
    folder: Path
    executor: Executor
    study: "Study"
    trials: int
    minutes: float | None = None
    points: list[Point] = field(default_factory=list, init=False)
    failed: dict[int, Outcome] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._key = self.subject.digest()
        self._cache = self.folder / "cache"
        self._end = None if self.minutes is None else time.monotonic() + 60 * self.minutes
        self._choices = distributions(self.bounds.roundings, channels=self.bounds.channels, quantize=self.subject.quantize)

    def run(self) -> Front:
        """Run all generations, and write the front at the end and on the way. Ctrl-C keeps what has ended.

        Raises ParamError, ModelError and BackendError for data or a metric that are at fault, and as the executor does.
        """
        recorded = len(self.study.get_trials(deepcopy=False))
        past: list[FrozenTrial] = []
        count, number, interrupted = 0, 0, False
        shown = time.monotonic()
        self.trials = max(self.trials, recorded)  # models of earlier trials are kept for the front of all of them
        try:
            while count < self.trials and not self._late:
                params = self._generation(number, past)
                outcomes = self._outcomes(params, count, in_full=number == 0)
                trials = [self._told(outcome, count + at) for at, outcome in enumerate(outcomes)]
                self.study.add_trials(trials[max(0, recorded - count) :])
                past += [trial for trial in trials if trial.values is not None]
                count, number = count + len(trials), number + 1
                if time.monotonic() - shown > WRITE_SECONDS:
                    written(self._front())
                    shown = time.monotonic()
        except (KeyboardInterrupt, OutOfTimeError) as stop:
            interrupted = isinstance(stop, KeyboardInterrupt)
        found = replace(self._front(), interrupted=interrupted)
        written(found)
        self._trim(found)
        return found

    @property
    def _late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def _generation(self, number: int, past: "Sequence[FrozenTrial]") -> list[Params]:
        at_budget = not self.subject.by_drop
        if number == 0:
            return grid(self.bounds.roundings, channels=self.bounds.channels, at_budget=at_budget)
        return proposed(self.subject.seed, number, past, self._choices, at_budget=at_budget)

    def _outcomes(self, params: Sequence[Params], first: int, *, in_full: bool) -> list[Outcome]:
        """What comes of a generation, in order: the outcome in full of those that have one, else the cheap one."""
        chosen = list(range(len(params)))
        cheap: list[Outcome] = []
        if not in_full and self.bounds.samples > CHEAP_SAMPLES:
            cheap = self._ended([self._trial(each, CHEAP_SAMPLES) for each in params], first)
            chosen = promoted(self.subject, cheap)
        full = self._ended([self._trial(params[at], None) for at in chosen], first, chosen)
        by_place = dict(zip(chosen, full, strict=True))
        return [by_place.get(at) or cheap[at] for at in range(len(params))]

    def _trial(self, params: Params, samples: int | None) -> Trial:
        return Trial(self.subject, params, samples, self._cache, keep=samples is None)

    def _ended(self, trials: Sequence[Trial], first: int, numbers: Sequence[int] | None = None) -> list[Outcome]:
        """The outcomes of trials, in order; those that are known are not run again."""
        entries = [self.folder / "trials" / digest([self._key, repr(asdict(t.params)), repr(t.samples)], []) for t in trials]
        found = {at: without_files(read_outcome(entry)) for at, entry in enumerate(entries)}
        missing = [at for at, outcome in found.items() if outcome is None]
        places = {} if numbers is None else {at: first + number for at, number in enumerate(numbers)}
        for at, known in found.items():
            if known is not None and at in places:
                self._keep(known, places[at], entries[at])
        for done, (index, result) in enumerate(self.executor.run(run_trial, [trials[at] for at in missing])):
            at = missing[index]
            outcome = result
            if isinstance(result, GivenUp):
                outcome = Outcome(trials[at].params, trials[at].samples, fault=result.reason)
            assert isinstance(outcome, Outcome)  # of run_trial
            store(entries[at], pickle.dumps(outcome))
            found[at] = kept = replace(outcome, files={})
            if at in places:
                self._keep(kept, places[at], entries[at])
            tell(self._progress("trials in full" if trials[at].keep else "cheap trials"), done + 1, len(missing))
            if self._late:
                raise OutOfTimeError
        return [outcome for outcome in found.values() if outcome is not None]

    def _keep(self, outcome: Outcome, number: int, entry: Path) -> None:
        """Take a trial in full among the points, once. `entry`: the file with its outcome."""
        if outcome.fault is not None:
            self.failed[number] = outcome
        elif all(point.number != number for point in self.points):
            self.points.append(
                Point(number, outcome, cost_of(self.subject, outcome), self.folder / "points" / f"{number:03d}", entry)
            )

    def _told(self, outcome: Outcome, number: int) -> "FrozenTrial":
        """A trial for the study. One without a result in full is not learned from."""
        point = next((point for point in self.points if point.number == number), None)
        values = None if point is None else (point.cost, outcome.harm)
        known = {name: value for name, value in outcome.totals.items() if value is not None}
        facts = {"fault": outcome.fault, "in_full": point is not None} | known
        exceeds = 1.0 if point is None else excess(self.subject, outcome)
        return told(outcome.params, self._choices, values, exceeds, facts)

    def _front(self) -> Front:
        front = undominated(self.subject, self.points)
        numbers = {point.number for point in front}
        others = tuple(point for point in sorted(self.points, key=lambda point: point.number) if point.number not in numbers)
        failed = tuple(self.failed[number] for number in sorted(self.failed))
        return Front(self.subject, self.folder, tuple(front), others, failed, self.bounds.dense, self.bounds.floor)

    def _trim(self, front: Front) -> None:
        """Remove the models of trials that are not on the front; they never will be again."""
        for point in front.others:
            kept = read_outcome(point.entry)
            if kept is not None and kept.files:
                store(point.entry, pickle.dumps(replace(kept, files={})))

    def _progress(self, what: str) -> str:
        best = self._front().best
        if best is None:
            return what
        return f"{what}, best so far {best.outcome.harm:.4g} at {format_total(self.subject.costs.cost_key, best.cost)}"


class OutOfTimeError(Exception):
    """The minutes are over."""


def without_files(outcome: Outcome | None) -> Outcome | None:
    """An outcome without its model, which stays on disk."""
    return None if outcome is None else replace(outcome, files={})


def promoted(subject: Subject, cheap: Sequence[Outcome]) -> list[int]:
    """The places of the trials to run in full: of those within the limits first, the least harmful for what they cost."""
    with_model = [at for at, outcome in enumerate(cheap) if outcome.fault is None]
    layer: dict[int, int] = {}
    left = list(with_model)
    rank = 0
    while left:
        for point in undominated(subject, [Point(at, cheap[at], cost_of(subject, cheap[at]), Path(), Path()) for at in left]):
            layer[point.number] = rank
        left = [at for at in left if at not in layer]
        rank += 1
    within = {at: excess(subject, cheap[at]) <= 0 for at in with_model}
    ordered = sorted(with_model, key=lambda at: (not within[at], layer[at], cheap[at].harm))
    return sorted(ordered[:PROMOTED])

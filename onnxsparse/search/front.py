"""What a search has found: the points that nothing else beats in both cost and harm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxsparse.cost.estimate import Row, deploy_on
from onnxsparse.cost.report.tables import format_total
from onnxsparse.ir.model import load
from onnxsparse.pipeline.recipe import Recipe, load_recipe
from onnxsparse.search.budgets import price_of
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import Outcome

ZEROS, CHANNELS, BOTH, NEITHER = "zeros", "channels", "both", "neither"


@dataclass(frozen=True)
class Point:
    """A trial with a model. `number`: of the trial. `cost`: in the unit of the first budget. `folder`: where it is written.

    `entry`: the file with its outcome and its model.
    """

    number: int
    outcome: Outcome
    cost: float
    folder: Path
    entry: Path

    @property
    def kind(self) -> str:
        """What the model has lost: zeros, channels, both or neither."""
        names = {name for step in self.outcome.steps for name in step}
        if {"prune", "prune-channels"} <= names:
            return BOTH
        return ZEROS if "prune" in names else CHANNELS if "prune-channels" in names else NEITHER

    @property
    def recipe(self) -> Recipe:
        """The recipe that gives this model from the original."""
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def file(self) -> Path:
        """The model's file."""
        return self.folder / "model.onnx"


@dataclass(frozen=True)
class Front:
    """The result of a search. `points`: by rising cost. `others`: trials with a model that are not on the front.

    `failed`: trials without a model. `dense`, `floor`: the cost of the original, and the least that can be reached, in the unit
    of the first budget.
    """

    subject: Subject
    folder: Path
    points: tuple[Point, ...]
    others: tuple[Point, ...]
    failed: tuple[Outcome, ...]
    dense: float
    floor: float
    interrupted: bool = False

    @property
    def accepted(self) -> tuple[Point, ...]:
        """The points that keep all limits."""
        return tuple(point for point in self.points if excess(self.subject, point.outcome) <= 0)

    @property
    def best(self) -> Point | None:
        """The point that keeps all limits at the least harm or, without a budget, at the least cost; None if none keeps them."""
        if self.subject.by_drop:
            return min(self.accepted, key=lambda point: point.cost, default=None)
        return min(self.accepted, key=lambda point: point.outcome.harm, default=None)

    @property
    def verdict(self) -> str:
        """A sentence on what was found."""
        name, best = self.subject.costs.cost_key, self.best
        if best is not None:
            harm = harm_text(self.subject, best.outcome)
            return f"best: point {best.number:03d} ({best.kind}) with {name} {format_total(name, best.cost)}, {harm}"
        every = (*self.points, *self.others)
        if not every:
            return f"no trial gave a model: {self.failed[0].fault if self.failed else 'none has ended'}"
        nearest = min(every, key=lambda point: excess(self.subject, point.outcome))
        worst = None if nearest.outcome.exceeds[0] <= 0 or self.subject.by_drop else costliest(nearest, self.subject)
        where = "" if worst is None else f"; {worst.item.node} takes most of it"
        missed = " and ".join(misses(self.subject, nearest.outcome))
        return f"nothing keeps the limits; of the nearest, point {nearest.number:03d}, {missed}{where}"


def cost_of(subject: Subject, outcome: Outcome) -> float:
    """The cost of an outcome in the unit of the first budget; infinite if it is unknown."""
    found = outcome.totals[subject.costs.cost_key]
    return math.inf if found is None else float(found)


def excess(subject: Subject, outcome: Outcome) -> float:
    """By which share the limit is exceeded that is exceeded most; the drop of a metric counts in its own unit."""
    found = [] if subject.by_drop else list(outcome.exceeds)
    if subject.max_drop is not None and outcome.drop is not None:
        found.append(outcome.drop - subject.max_drop)
    return max(found)


def misses(subject: Subject, outcome: Outcome) -> list[str]:
    """The limits that an outcome does not keep, in words."""
    found = []
    for budget, over in zip(subject.budgets, () if subject.by_drop else outcome.exceeds, strict=False):
        if over > 0:
            key = subject.costs.key(budget.cost)
            found.append(f"{key} is {format_total(key, outcome.totals[key])}, {over:.2%} above {format_total(key, budget.most)}")
    if subject.max_drop is not None and outcome.drop is not None and outcome.drop > subject.max_drop:
        found.append(f"{harm_text(subject, outcome)}, where at most {subject.max_drop:g} is allowed")
    return found


def harm_text(subject: Subject, outcome: Outcome) -> str:
    """The harm in words."""
    if outcome.drop is not None:
        return f"the {subject.harm} is {outcome.drop:.4g}"
    return f"the outputs diverge by {outcome.loss:.4g}"


def undominated(subject: Subject, points: Sequence[Point]) -> list[Point]:
    """The points that no other beats, by rising cost; of equals the first stays.

    A point beats another if it costs no more, harms no more, and exceeds the limits no more; so a point that keeps all limits is
    beaten only by one that keeps them too.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, point.outcome.harm, point.number)):
        over = max(0.0, excess(subject, point.outcome))
        if all(point.outcome.harm < o.outcome.harm or over < max(0.0, excess(subject, o.outcome)) for o in found):
            found.append(point)
    return found


def costliest(point: Point, subject: Subject) -> Row | None:
    """The layer of a point that takes most of the first budget; None if its model is not at hand, or the budget is no sum."""
    price = price_of(subject.budgets[0].cost, subject.backend)
    if price is None or not point.file.exists():
        return None
    rows = deploy_on(load(point.file).bind(subject.input_shape, subject.dim), subject.backend).rows
    return max(rows, key=lambda row: price(row.item), default=None)

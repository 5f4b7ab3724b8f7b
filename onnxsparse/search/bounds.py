"""What is known of a search before its first trial: the cost of the model, and the least that can be reached."""

from dataclasses import dataclass, replace

from onnxsparse.cost.backends.hardware import alignment_of
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.report.completeness import gaps, marks
from onnxsparse.cost.report.records import totals
from onnxsparse.cost.workload import Workload, workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.passes.prune_channels import DEFAULT_ROUNDING, PruneChannels
from onnxsparse.recovery.allocation import FLOOR
from onnxsparse.runtime.session import runner
from onnxsparse.search.budgets import Budget, Quantity, price_of
from onnxsparse.search.densities import sparse
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import data_options

LEAST_MACS = 1e-9
"""Share of the operations to ask for where as many channels as possible are to go."""

FARTHEST = 0.75
"""How far a search without a budget goes: a share of the way from the cost of the model to the least one, logarithmic."""


@dataclass(frozen=True)
class Bounds:
    """`dense`, `floor`: costs of the model, and the least that can be reached, in the unit of the first budget.

    `roundings`: what numbers of channels may be rounded to. `channels`: whether any can be cut. `samples`: the number to learn
    from.
    """

    dense: float
    floor: float
    roundings: tuple[int, ...]
    channels: bool
    samples: int


def bounds(subject: Subject) -> Bounds:
    """The bounds of a search with budgets.

    Raises ParamError for data without a sample to judge on, for a budget below what can be reached, or for an unknown cost, and
    ModelError or BackendError for a model that does not run.
    """
    model = subject.load()
    runner(model)
    learned, judged = PruneChannels(**data_options(subject)).split(model)
    if learned is None or judged is None:
        raise ParamError("search: the data holds one sample, which is learned from; give more, or --test")
    require_costs(model, subject)
    least = model.copy()
    left = PruneChannels(macs=LEAST_MACS, round_to=1, importance="l1", scope="all").cut(least)
    load, lowest = workload(model), sparse(workload(least))
    bits = subject.backend.precision.activation_bits
    for quantity in subject.costs.quantities():
        if quantity.value(lowest, bits) > quantity.most:
            raise out_of_reach(subject, quantity, lowest)
    first = subject.budgets[0].cost
    values = [(q.value(load, bits), q.value(lowest, bits)) for q in subject.costs.quantities() if q.name == first]
    aligned = alignment_of(subject.target, DEFAULT_ROUNDING)
    roundings = tuple(dict.fromkeys((min(aligned, DEFAULT_ROUNDING), max(1, aligned // 4), aligned)))
    highest = [max(each) for each in zip(*values, strict=True)]
    return Bounds(highest[0], highest[1], roundings, left < 1, len(learned))


def require_costs(model: Model, subject: Subject) -> None:
    """Raises ParamError if a total that is limited is unknown or incomplete, so that no budget can be said to be met."""
    found = deploy_on(model, subject.backend)
    known, bounded = totals(found), marks(found)
    for budget in subject.budgets:
        key = subject.costs.key(budget.cost)
        if known[key] is None or key in bounded:
            reasons = "; ".join(gaps(found)) or "its value is unknown"
            raise ParamError(f"search: {key} of {model.name} is not known as a whole on {subject.target}: {reasons}")


def out_of_reach(subject: Subject, quantity: Quantity, lowest: Workload) -> ParamError:
    """The error for a budget that even the `lowest` workload exceeds."""
    budget = next(budget for budget in subject.budgets if budget.cost == quantity.name)
    least = quantity.value(lowest, subject.backend.precision.activation_bits)
    shown = 1000 / least if budget.name == "fps" else least
    return ParamError(
        f"--budget {budget.name}={budget.value:g}: out of reach on {quantity.label}; with one channel in every group and "
        f"{FLOOR:.0%} of the weights, {budget.name} is {shown:.4g}{in_the_way(lowest, subject)}"
    )


def in_the_way(load: Workload, subject: Subject) -> str:
    """The layer that takes most of the first budget, as the end of a sentence."""
    price = price_of(subject.budgets[0].cost, subject.backend)
    if price is None:
        return ""
    worst = max(load.costed, key=price)
    return f", of which {worst.node} takes {price(worst):.3g}"


def farthest(subject: Subject) -> tuple[Subject, Bounds]:
    """The subject with a budget to search towards, and its bounds, for a search that is limited by the drop of a metric alone.

    Raises as `bounds` does.
    """
    aim = replace(subject, budgets=(Budget("latency_ms", float("inf")),), by_drop=True)
    known = bounds(aim)
    most = known.dense * (known.floor / known.dense) ** FARTHEST
    return replace(aim, budgets=(Budget("latency_ms", most),)), known

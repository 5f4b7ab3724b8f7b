"""Which parameters to try: a grid of corners first, then what Optuna proposes, in generations of a fixed size.

A generation follows from the seed, its number, and the outcomes of all generations before it, told in the order of trials. An
interrupted search therefore asks for the same trials again, wherever it stopped.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxsparse.errors import ParamError
from onnxsparse.search.trial import Params

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SIZE = 8
"""Trials of a generation after the first, whatever the number of workers."""

AT_BUDGET = 6
"""Trials of a generation that go all the way to the budget; the others may stop before or go beyond it."""

REACHES = (0.5, 1.0, 1.25)
"""Ways to the budget of the grid."""

EVEN_REACHES = (0.2, 0.5, 0.8)
"""The same without a budget: ways to a cost that is near the least one."""

CORNERS = (0.0, 0.5, 1.0)
"""Shares of the way that channels cover in the grid: zeros only, half and half, channels only."""

DIRECTIONS: tuple[Literal["minimize"], ...] = ("minimize", "minimize")
"""Of cost and harm."""

WIDE = (0, 1, 2, 4, 8, 16)
"""Numbers of ops with 16 bits."""


def grid(roundings: Sequence[int], *, channels: bool, at_budget: bool) -> list[Params]:
    """The first generation. `roundings`: what numbers of channels may be rounded to. `channels`: whether any can be cut.

    `at_budget`: whether there is a budget to reach for.
    """
    corners, reaches = CORNERS if channels else CORNERS[:1], REACHES if at_budget else EVEN_REACHES
    return [Params(reach=reach, channels=corner, round_to=roundings[0]) for reach in reaches for corner in corners]


def distributions(roundings: Sequence[int], *, channels: bool, quantize: bool) -> "dict[str, BaseDistribution]":
    """What each parameter may be."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {"reach": FloatDistribution(0.1, REACHES[-1])}
    if channels:
        found |= {
            "channels": FloatDistribution(0.0, 1.0),
            "importance": CategoricalDistribution(["output", "l1"]),
            "scope": CategoricalDistribution(["all", "group"]),
            "round_to": CategoricalDistribution(list(roundings)),
            "max_share": FloatDistribution(0.4, 1.0),
        }
    if quantize:
        found["wide"] = CategoricalDistribution(list(WIDE))
    return found


def proposed(
    seed: int, number: int, past: "Sequence[FrozenTrial]", choices: "dict[str, BaseDistribution]", *, at_budget: bool
) -> list[Params]:
    """Generation `number`. `past`: the trials before it that have values, in order. `at_budget`: whether most reach for it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=drawn)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    study.add_trials(list(past))
    for _ in range(AT_BUDGET if at_budget else 0):
        study.enqueue_trial({"reach": 1.0})
    return [Params(**study.ask(choices).params) for _ in range(SIZE)]


def told(
    params: Params,
    choices: "dict[str, BaseDistribution]",
    values: Sequence[float] | None,
    exceeds: float,
    facts: dict[str, Any],
) -> "FrozenTrial":
    """A trial that has ended, for a study. `values`: of the objectives; None: it is not to be learned from.

    `exceeds`: by how much the limits are exceeded; 0 or less: they are kept. `facts`: what else is to be recorded.
    """
    from optuna.trial import TrialState, create_trial

    found = create_trial(
        state=TrialState.FAIL if values is None else TrialState.COMPLETE,
        values=None if values is None else list(values),
        params={name: value for name, value in asdict(params).items() if name in choices},
        distributions=choices,
        user_attrs=facts,
    )
    found.set_constraint("limits", exceeds)
    return found


def open_study(storage: str, name: str) -> "Study":
    """The study in which all trials are kept. Raises ParamError for a storage that cannot be opened."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(storage=storage, study_name=name, directions=DIRECTIONS, load_if_exists=True)
    except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
        raise ParamError(f"--storage {storage}: it cannot be opened ({str(error).splitlines()[0]})") from None

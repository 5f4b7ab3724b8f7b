"""Calibration of a target: fit its numbers to measured latencies, and check how well the measurements determine them.

1. Minimise the relative errors of the rows by bounded least squares (scipy), each number within its range, from four starting
   points; of equally good results, keep the one nearest to the start (`solve`).
2. Predict every row with the fitted numbers, and each row with a fit to the other rows (leave-one-out).
3. Warn of numbers at the end of their range, numbers without effect, and pairs that the rows cannot separate (`warnings`).

Numbers that act in steps (how often an input is read, what fits on chip) have no slope to follow. They stay as they are unless
--free names them.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxsparse.cost.backends.hardware import numbers_of
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.sensitivity import layer_times
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError

Vector = NDArray[np.float64]

SMOOTH = ("rate_gmac_per_s", "peak_gmac_per_s", "bandwidth_gb_per_s", "overhead_us")
"""The numbers that are fitted by default."""

SAME_EFFECT = 0.99
"""Correlation of two numbers' effects on the rows above which the rows cannot separate them."""

NO_EFFECT = 1e-3
"""A number that changes no row by at least this share over its whole range is not determined by the rows."""

MIN_ROWS_TO_LEAVE_OUT = 3
"""Rows needed for leave-one-out errors."""

SAME_COST = 12
"""Decimals to which summed squares of fits are compared; of fits that are equal, the one nearest to the start is kept."""


@dataclass(frozen=True)
class Measured:
    """One row of measurements: a model's label, its work items, and its measured latency."""

    name: str
    load: Workload
    latency_ms: float


@dataclass(frozen=True)
class Fit:
    """The result of a fit."""

    start: FileBackend
    """The target before the fit."""
    values: dict[str, float]
    """Fitted numbers by name, in the units of their names."""
    rows: tuple[Measured, ...]
    fitted_ms: tuple[float, ...]
    """Latency of each row as predicted with the fitted numbers."""
    left_out_ms: tuple[float, ...] | None
    """Latency of each row as predicted by a fit to the other rows; None for fewer than MIN_ROWS_TO_LEAVE_OUT rows."""
    warnings: tuple[str, ...]
    """Sentences for the user on what the rows do not determine."""

    @property
    def left_out_error(self) -> float:
        """Mean absolute relative leave-one-out error; only with `left_out_ms`."""
        assert self.left_out_ms is not None
        return float(np.mean([abs(ms / row.latency_ms - 1) for ms, row in zip(self.left_out_ms, self.rows, strict=True)]))

    @property
    def backend(self) -> FileBackend:
        """The target with the fitted numbers."""
        return with_values(self.start, self.values)


def read_measurements(path: Path) -> Iterator[tuple[str, Path, float]]:
    """(label, model file, milliseconds) of every row; the file's path is relative to the CSV.

    Raises ParamError for a file that cannot be read, lacks a column, or has a row (named by its line) without a positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParamError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if rows and not {"model", "latency_ms"} <= set(rows[0]):
        raise ParamError(f"{path} needs the columns model and latency_ms; it has {', '.join(filter(None, rows[0]))}")
    for line, row in enumerate(rows, start=2):
        try:
            latency_ms = float(row["latency_ms"])
        except (TypeError, ValueError):
            raise ParamError(f"{path}, line {line}: latency_ms is '{row['latency_ms']}', not a number of milliseconds") from None
        if not 0 < latency_ms < float("inf"):
            raise ParamError(f"{path}, line {line}: latency_ms is {latency_ms:g}; a latency is above 0 and finite")
        yield row["model"], path.parent / row["model"], latency_ms


def default_free(start: FileBackend) -> tuple[str, ...]:
    """The numbers of SMOOTH that have a range in the target's file."""
    return tuple(name for name in start.ranges() if name in SMOOTH)


def with_values(backend: FileBackend, values: dict[str, float]) -> FileBackend:
    """The target with these numbers changed; the others stay."""
    for name, value in values.items():
        backend = backend.with_value(name, float(value))
    return backend


def check_free(start: FileBackend, free: Sequence[str], rows: int) -> None:
    """Raises ParamError for names that are not numbers of the target or have no range, no names, or more names than `rows`."""
    numbers = numbers_of(start.hardware)
    for name in free:
        if name not in numbers:
            raise ParamError(f"--free {name}: {start.name} has {', '.join(numbers)}")
        if not numbers[name].low < numbers[name].high:
            raise ParamError(f"--free {name}: {start.name} has no range for it; set low and high in its file")
    if not free:
        raise ParamError(f"{start.name} has no number with a range, so nothing can be fitted; set low and high in its file")
    if rows < len(free):
        raise ParamError(
            f"{rows} measurements cannot determine {len(free)} numbers ({', '.join(free)}); measure more models, or name "
            "fewer with --free"
        )


def fit(start: FileBackend, rows: Sequence[Measured], free: Sequence[str]) -> Fit:
    """Fit the numbers `free` to `rows`. Raises ParamError as `check_free` does, and for a row without any layer of known cost."""
    check_free(start, free, len(rows))
    for row in rows:
        if all(start.cost(item) is None for item in row.load.items):
            raise ParamError(
                f"{row.name}: no layer has a cost on {start.name}, so nothing can be fitted to it; are its sizes open?"
            )
    values = solve(start, rows, free)
    fitted = predict(start, rows, dict(zip(free, values, strict=True)))
    left_out = tuple(left_out_ms(start, rows, free, i) for i in range(len(rows))) if len(rows) >= MIN_ROWS_TO_LEAVE_OUT else None
    found = Fit(start, dict(zip(free, map(float, values), strict=True)), tuple(rows), tuple(fitted), left_out, ())
    return replace(found, warnings=tuple(warnings(found)))


def solve(start: FileBackend, rows: Sequence[Measured], free: Sequence[str]) -> Vector:
    """The values of `free` with the least squared relative errors, in their order.

    Several starting points are needed, since max(compute, I/O) in the layer model makes the errors non-smooth.
    """
    from scipy.optimize import least_squares

    numbers = numbers_of(start.hardware)
    low, high = (np.array([getattr(numbers[name], end) for name in free]) for end in ("low", "high"))
    measured = np.array([row.latency_ms for row in rows])

    def errors(shares: Vector) -> Vector:
        """Relative error per row; `shares` places each number within its range, 0 at its low and 1 at its high end."""
        values = dict(zip(free, low + shares * (high - low), strict=True))
        relative: Vector = predict(start, rows, values) / measured - 1
        return relative

    now = (np.array([numbers[name].value for name in free]) - low) / (high - low)
    starts = [now, *(np.full(len(free), share) for share in (0.2, 0.5, 0.8))]
    found = [least_squares(errors, np.clip(start, 0.01, 0.99), bounds=(0, 1), diff_step=1e-3) for start in starts]
    best = min(found, key=lambda result: round(float(result.cost), SAME_COST))
    values: Vector = low + best.x * (high - low)
    return values


def predict(start: FileBackend, rows: Sequence[Measured], values: dict[str, float]) -> Vector:
    """Milliseconds per row, predicted with these numbers; layers without a cost count as 0."""
    backend = with_values(start, values)
    return np.array([sum(layer_times(backend, row.load.items)) for row in rows])


def left_out_ms(start: FileBackend, rows: Sequence[Measured], free: Sequence[str], left_out: int) -> float:
    """Milliseconds of row `left_out`, as predicted by a fit to all other rows."""
    values = solve(start, [row for i, row in enumerate(rows) if i != left_out], free)
    return float(predict(start, [rows[left_out]], dict(zip(free, values, strict=True)))[0])


def warnings(found: Fit) -> Iterator[str]:
    """Sentences on numbers at an end of their range, without effect, or not separable; and on rows with layers without a cost."""
    if found.left_out_ms is not None and len(found.rows) == len(found.values):
        yield "leave-one-out fits have fewer rows than numbers: what the rows leave undetermined stays near its start"
    for row in found.rows:
        if left := sum(found.start.cost(item) is None for item in row.load.items):
            yield f"{row.name}: {left} of {len(row.load.items)} layers have no cost, but the measurement includes them"
    numbers = numbers_of(found.start.hardware)
    effects = {name: effect(found, name) for name in found.values}
    for name, value in found.values.items():
        number = numbers[name]
        if min(value - number.low, number.high - value) < 1e-3 * (number.high - number.low):
            yield f"{name} is at the end of its range, {number.low:g} to {number.high:g}: the measurements point beyond it"
        if np.abs(effects[name]).max() < NO_EFFECT:
            yield f"{name} changes none of these measurements: they do not determine it"
    moving = [name for name in found.values if np.abs(effects[name]).max() >= NO_EFFECT]
    for i, first in enumerate(moving):
        for second in moving[i + 1 :]:
            if same_direction(effects[first], effects[second]) > SAME_EFFECT:
                yield f"the measurements cannot separate {first} and {second}: both change all rows in the same proportion"


def effect(found: Fit, name: str) -> Vector:
    """Relative change of each row's latency from the low to the high end of a number's range, the others as fitted."""
    number = numbers_of(found.start.hardware)[name]
    ends = [predict(found.backend, found.rows, {name: value}) for value in (number.low, number.high)]
    shares: Vector = (ends[1] - ends[0]) / np.array(found.fitted_ms)
    return shares


def same_direction(a: Vector, b: Vector) -> float:
    """|cos| of the angle between two effects: 1 if they are proportional."""
    return float(abs(a @ b) / np.sqrt((a @ a) * (b @ b)))


def calibrated_toml(found: Fit, source: str, name: str, beside: Mapping[str, object] = MappingProxyType({})) -> str:
    """The text of the fitted target's TOML file, under `name`. Ranges stay; fitted numbers name `source` as their origin.

    `beside`: the target's other sections, by name.
    """
    import tomli_w

    checked = "" if found.left_out_ms is None else f", leave-one-out error {100 * found.left_out_error:.1f} %"
    content = asdict(found.backend.hardware)
    for number in found.values:
        content["numbers"][number] |= {"status": "calibrated", "source": f"fit to {len(found.rows)} rows of {source}"}
    fidelity = (f"calibrated on {len(found.rows)} measurements of {source}{checked}", *found.start.fidelity[1:])
    content |= {"fidelity": list(fidelity), "variants": []}
    shared = {"format": content.pop("format"), "name": name}
    cost = {key: value for key, value in content.items() if value is not None and key != "name"}
    return tomli_w.dumps({**shared, "cost": cost, **beside})

"""A target's numbers fitted to measurements, and how much the measurements tell.

Relative errors are minimised by bounded least squares (scipy), each number within its range. Numbers that only act in steps
(how often an input is read, what fits on chip) have no slope to follow and are left as they are unless asked for.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxsparse.cost.backends.hardware import numbers_of
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.sensitivity import layer_times
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError

Vector = NDArray[np.float64]

SMOOTH = ("rate_gmac_per_s", "peak_gmac_per_s", "bandwidth_gb_per_s", "overhead_us")
"""What is fitted unless asked otherwise."""

SAME_EFFECT = 0.99
"""Two numbers whose effects on the measurements correlate this much cannot be told apart."""

NO_EFFECT = 1e-3
"""A number that moves no measurement by this share over its whole range is not determined."""


MIN_ROWS_TO_LEAVE_OUT = 3

SAME_COST = 12
"""Decimals of the summed squares by which fits are told apart; where several are as good, the one nearest to the start stays."""


@dataclass(frozen=True)
class Measured:
    """A model and what it took."""

    name: str
    load: Workload
    latency_ms: float


@dataclass(frozen=True)
class Fit:
    """What was fitted. `left_out_ms`: each row as predicted by a fit to the others; None below three rows."""

    start: FileBackend
    values: dict[str, float]
    rows: tuple[Measured, ...]
    fitted_ms: tuple[float, ...]
    left_out_ms: tuple[float, ...] | None
    warnings: tuple[str, ...]

    @property
    def left_out_error(self) -> float:
        """Mean absolute relative error of the rows left out."""
        assert self.left_out_ms is not None
        return float(np.mean([abs(ms / row.latency_ms - 1) for ms, row in zip(self.left_out_ms, self.rows, strict=True)]))

    @property
    def backend(self) -> FileBackend:
        return with_values(self.start, self.values)


def read_measurements(path: Path) -> Iterator[tuple[str, Path, float]]:
    """(name, model file, milliseconds) of every row. Raises ParamError that names the row."""
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
            raise ParamError(f"{path}, line {line}: latency_ms is {latency_ms:g}, which no inference takes")
        yield row["model"], path.parent / row["model"], latency_ms


def default_free(start: FileBackend) -> tuple[str, ...]:
    return tuple(name for name in start.ranges() if name in SMOOTH)


def with_values(backend: FileBackend, values: dict[str, float]) -> FileBackend:
    for name, value in values.items():
        backend = backend.with_value(name, float(value))
    return backend


def check_free(start: FileBackend, free: Sequence[str], rows: int) -> None:
    """Raises ParamError for names that are no number to fit, or more of them than `rows`."""
    numbers = numbers_of(start.hardware)
    for name in free:
        if name not in numbers:
            raise ParamError(f"--free {name}: {start.name} has {', '.join(numbers)}")
        if not numbers[name].low < numbers[name].high:
            raise ParamError(f"--free {name}: {start.name} gives it no range; set low and high in its file")
    if not free:
        raise ParamError(f"{start.name} has no number with a range to fit in; set low and high in its file")
    if rows < len(free):
        raise ParamError(
            f"{rows} measurements cannot determine {len(free)} numbers ({', '.join(free)}); measure more models, or name "
            "fewer with --free"
        )


def fit(start: FileBackend, rows: Sequence[Measured], free: Sequence[str]) -> Fit:
    """Fit the numbers `free` to `rows`. Raises ParamError for fewer rows than numbers, or a number without a range."""
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
    """The numbers with the least squared relative errors, from several starts since the larger of two is not smooth."""
    from scipy.optimize import least_squares

    numbers = numbers_of(start.hardware)
    low, high = (np.array([getattr(numbers[name], end) for name in free]) for end in ("low", "high"))
    measured = np.array([row.latency_ms for row in rows])

    def errors(shares: Vector) -> Vector:
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
    """Milliseconds per row."""
    backend = with_values(start, values)
    return np.array([sum(layer_times(backend, row.load.items)) for row in rows])


def left_out_ms(start: FileBackend, rows: Sequence[Measured], free: Sequence[str], left_out: int) -> float:
    values = solve(start, [row for i, row in enumerate(rows) if i != left_out], free)
    return float(predict(start, [rows[left_out]], dict(zip(free, values, strict=True)))[0])


def warnings(found: Fit) -> Iterator[str]:
    """Numbers at the end of their range, without effect, or that the measurements cannot tell apart; rows that say less."""
    if found.left_out_ms is not None and len(found.rows) == len(found.values):
        yield "with one row left out, fewer rows than numbers: what they leave open stays near where it started"
    for row in found.rows:
        if left := sum(found.start.cost(item) is None for item in row.load.items):
            yield f"{row.name}: {left} of {len(row.load.items)} layers have no cost, though its measurement has them"
    numbers = numbers_of(found.start.hardware)
    effects = {name: effect(found, name) for name in found.values}
    for name, value in found.values.items():
        number = numbers[name]
        if min(value - number.low, number.high - value) < 1e-3 * (number.high - number.low):
            yield f"{name} went to the end of its range: the measurements ask for more than {number.low:g} to {number.high:g}"
        if np.abs(effects[name]).max() < NO_EFFECT:
            yield f"{name} moves none of these measurements: they do not determine it"
    moving = [name for name in found.values if np.abs(effects[name]).max() >= NO_EFFECT]
    for i, first in enumerate(moving):
        for second in moving[i + 1 :]:
            if same_direction(effects[first], effects[second]) > SAME_EFFECT:
                yield f"the measurements cannot tell {first} and {second} apart: both move all rows in the same proportion"


def effect(found: Fit, name: str) -> Vector:
    """By which share each row moves from the low to the high end of a number's range, the others as fitted."""
    number = numbers_of(found.start.hardware)[name]
    ends = [predict(found.backend, found.rows, {name: value}) for value in (number.low, number.high)]
    shares: Vector = (ends[1] - ends[0]) / np.array(found.fitted_ms)
    return shares


def same_direction(a: Vector, b: Vector) -> float:
    return float(abs(a @ b) / np.sqrt((a @ a) * (b @ b)))


def calibrated_toml(found: Fit, source: str, name: str) -> str:
    """The fitted target as a file. Ranges stay; what was fitted says to what."""
    import tomli_w

    checked = "" if found.left_out_ms is None else f", leave-one-out error {100 * found.left_out_error:.1f} %"
    content = asdict(found.backend.hardware)
    for number in found.values:
        content["numbers"][number] |= {"status": "calibrated", "source": f"fit to {len(found.rows)} rows of {source}"}
    fidelity = (f"calibrated on {len(found.rows)} measurements of {source}{checked}", *found.start.fidelity[1:])
    content |= {"name": name, "fidelity": list(fidelity), "variants": []}
    return tomli_w.dumps({key: value for key, value in content.items() if value is not None})

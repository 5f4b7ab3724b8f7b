"""How far a roofline, fitted to what onnxruntime takes for one half of a folder's models, is off on the other half.

    python -m benchmarks.speed.roofline_error ZOO --out benchmarks/results/roofline-error.md

benchmarks/zoo/runner.py says what ZOO holds. Every second model, by name, is fitted to; the
others are predicted. Then the other way round.
"""

from statistics import median

import numpy as np

from benchmarks.tables import table
from benchmarks.zoo.runner import Entry, arguments, entries
from onnxsparse.cost.backends.base import Precision
from onnxsparse.cost.backends.hardware import Hardware, Number, RooflineHardware, RooflineNumbers
from onnxsparse.cost.backends.layer_model import FileBackend, make_backend
from onnxsparse.cost.fit import Fit, Measured, fit, predict
from onnxsparse.cost.profiler import OnnxruntimeCpu
from onnxsparse.cost.workload import workload
from onnxsparse.errors import OnnxSparseError

FLOAT = Precision(32, 32)


def between(low: float, high: float) -> Number:
    return Number(value=(low * high) ** 0.5, low=low, high=high, status="assumed", source="wide enough for any CPU")


def cpu() -> FileBackend:
    """A roofline of a CPU, all of it open: no zeros are skipped, and every kernel has its overhead."""
    fixed = {"on_chip_mb": 1.0, "channel_alignment": 16.0}
    numbers = RooflineNumbers(
        peak_gmac_per_s=between(5, 1000),
        bandwidth_gb_per_s=between(1, 200),
        overhead_us=between(0.1, 50),
        **{name: Number(value=v, low=v, high=v, status="assumed", source="a common CPU") for name, v in fixed.items()},
    )
    hardware: Hardware = RooflineHardware(format=1, kind="roofline", name="cpu", numbers=numbers)
    return make_backend(hardware, FLOAT)


def measure(entry: Entry) -> Measured | str:
    """A model and its time; or why there is none."""
    try:
        model = entry.load()
        found = workload(model)
        if not found.layers.totals.macs or any(item.macs is None or item.output_elements is None for item in found.items):
            return "unknown sizes or ops"
        taken = OnnxruntimeCpu().measure(model, found)
    except OnnxSparseError as error:
        return str(error)
    return Measured(entry.name, found, sum(taken.latency_ms.values()) + taken.other_ms)


def errors(found: Fit, rows: list[Measured]) -> list[float]:
    predicted = predict(found.start, rows, found.values)
    return [ms / row.latency_ms - 1 for ms, row in zip(predicted, rows, strict=True)]


def cells(name: str, found: list[float]) -> tuple[object, ...]:
    absolute = sorted(abs(e) for e in found)
    ninetieth = absolute[int(0.9 * (len(absolute) - 1))]
    return name, len(found), f"{median(absolute):.0%}", f"{ninetieth:.0%}", f"{np.mean([e < 0 for e in found]):.0%}"


def main() -> None:
    given = arguments(__doc__)
    tried = entries(given.zoo, given.only)
    rows = [row for row in map(measure, tried) if isinstance(row, Measured)]
    halves = (rows[::2], rows[1::2])
    results, numbers = [], []
    for i, (fitted_to, held_out) in enumerate((halves, halves[::-1]), start=1):
        found = fit(cpu(), fitted_to, ("peak_gmac_per_s", "bandwidth_gb_per_s", "overhead_us"))
        results.append(cells(f"fit {i}, its own half", errors(found, fitted_to)))
        results.append(cells(f"fit {i}, the other half", errors(found, held_out)))
        numbers.append(f"Fit {i}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.values.items()) + ".")
    lines = [
        "# A roofline against onnxruntime",
        "",
        f"Made by `benchmarks/speed/roofline_error.py`: {len(rows)} of {len(tried)} models, whose sizes are known and that",
        "run; float, onnxruntime's CPU provider and its profiler. Peak, bandwidth and overhead are fitted to one half, by",
        "relative error, and the other half is predicted.",
        "",
        *table(("rows", "models", "median error", "90th percentile", "too fast"), results),
    ]
    given.out.write_text("\n".join([*lines, "", *numbers]) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()

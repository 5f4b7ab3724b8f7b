"""From a placement to a quantized model: ranges, improvements of accuracy, and Q/DQ nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxsparse.calibration.methods import Range
from onnxsparse.errors import ParamError
from onnxsparse.quantization.accuracy.bias_correction import correct_biases
from onnxsparse.quantization.accuracy.equalization import equalize
from onnxsparse.quantization.accuracy.mixed_precision import Quality, ranked, widened
from onnxsparse.quantization.activation_ranges import Calibrated, Calibration
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.write.qdq import Written, write_integers
from onnxsparse.runtime.samples import Samples

MEASURED_SAMPLES = 32
"""Evenly spaced samples of the calibration data that bias correction and noise use, as they need only means; ranges use all."""


@dataclass(frozen=True)
class Improvements:
    """Measures for accuracy beyond the choice of ranges.

    `wide_layers`: number of units with more than 8 bits. `min_sqnr_db`: instead, as few as reach this SQNR of the worst output
    or slice.
    """

    equalize: bool = False
    correct_bias: bool = True
    wide_layers: int = 0
    min_sqnr_db: float | None = None

    @property
    def named(self) -> str | None:
        """An option in use that needs calibration data; None if none is in use."""
        wide = "--wide-layers" if self.wide_layers else None
        return "--equalize" if self.equalize else "--min-sqnr" if self.min_sqnr_db is not None else wide


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model with its placement, the ranges by activation, and notes.

    `samples`: calibration samples on which ranges were found; 0 if all were given.
    """

    placement: Placement
    written: Written
    ranges: Mapping[str, Range]
    samples: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """All choices for a quantized model, before it is written."""

    calibrated: Calibrated
    choices: Choices

    def written(self) -> Written:
        """The quantized model. Raises PassError as `write_integers` does."""
        return write_integers(self.calibrated.placement, self.choices)


@dataclass(frozen=True)
class Quantizing:
    """From a placement to a quantized model.

    1. Equalize channels (optional), which changes weights.
    2. Find the ranges of activations.
    3. Rank units by their own noise and widen the noisiest: a given number, or as few as reach an SQNR (bisection).
    4. Correct biases for the error that remains.
    5. Write integers.

    `quality` returns the SQNR that the bisection compares with `min_sqnr_db`.
    """

    calibration: Calibration
    improvements: Improvements
    quality: Quality

    def run(self, placement: Placement) -> QuantizedModel:
        """Quantize a placement's model; equalization changes the weights of that model, everything else works on copies.

        Raises ParamError for improvements that need data if there is none, ModelError as `Calibration.run` does, and PassError as
        `write_integers` does.
        """
        data = self.calibration.data
        if data is None and self.improvements.named is not None:
            raise ParamError(f"quantize: {self.improvements.named} needs --data: it runs the model on samples")
        notes = []
        if data is not None and self.improvements.equalize:
            notes.append(f"{equalize(placement, data)} pairs of layers were equalized")
        calibrated = self.calibration.run(placement)
        draft, said = self._widened(calibrated, self._ranked(calibrated))
        notes += said
        if self.improvements.correct_bias and data is None:
            notes.append("biases were not corrected: that needs --data")
        found = draft.calibrated
        return QuantizedModel(found.placement, draft.written(), found.ranges, found.samples, (*found.notes, *notes))

    def _measured(self, calibrated: Calibrated) -> Samples | None:
        """The samples for means and noise; None without data."""
        data = self.calibration.data
        return None if data is None else measurement_subset(data)

    def _ranked(self, calibrated: Calibrated) -> list[int]:
        """Units in descending order of their own noise; empty if none are to become wide."""
        measured = self._measured(calibrated)
        if measured is None or not (self.improvements.wide_layers or self.improvements.min_sqnr_db is not None):
            return []
        choices = Choices(calibrated.ranges, calibrated.extremes)
        return ranked(calibrated.placement, choices, measured, self.calibration.budget_bytes)

    def _widened(self, calibrated: Calibrated, order: list[int]) -> tuple[Draft, list[str]]:
        """The draft with the first units of `order` widened, as many as the options say; and notes."""
        wanted, notes = self.improvements.min_sqnr_db, []
        if wanted is None:
            count = min(self.improvements.wide_layers, len(order))
            draft = self._with_wide(calibrated, order[:count])
        else:
            count, draft, reached = self._bisect(calibrated, order, wanted)
            notes.append(verdict(wanted, reached))
        if count:
            names = [calibrated.placement.anatomy.graph.names[root] for root in order[:count]]
            shown = ", ".join(names[:3]) + ("…" if count > 3 else "")
            kind = "16 bits" if calibrated.placement.anatomy.target.wide == "int16" else "floats"
            notes.append(f"{count} of {len(order)} layers and other ops are {kind}, those that add most noise: {shown}")
        return draft, notes

    def _bisect(self, calibrated: Calibrated, order: list[int], wanted_db: float) -> tuple[int, Draft, float | None]:
        """The smallest number of wide units that reaches `wanted_db`, its draft, and the SQNR reached in dB.

        All units if none suffices. The search assumes that the SQNR rises with the number of wide units.
        """
        few, many = 0, len(order)
        best = self._with_wide(calibrated, order)
        reached = self.quality(best.written().model)
        while few < many:
            count = (few + many) // 2
            draft = self._with_wide(calibrated, order[:count])
            sqnr_db = self.quality(draft.written().model)
            if sqnr_db is not None and sqnr_db >= wanted_db:
                best, many, reached = draft, count, sqnr_db
            else:
                few = count + 1
        return many, best, reached

    def _with_wide(self, calibrated: Calibrated, roots: list[int]) -> Draft:
        """The draft with these units wide, ranges for what is new, and biases corrected for the error that remains."""
        placement, choices = widened(calibrated.placement, Choices(calibrated.ranges, calibrated.extremes), roots)
        found = self.calibration.run(placement, calibrated)
        choices = replace(choices, ranges=found.ranges, extremes=found.extremes)
        measured = self._measured(calibrated)
        if self.improvements.correct_bias and measured is not None:
            choices = correct_biases(found.placement, choices, measured, self.calibration.budget_bytes)
        return Draft(found, choices)


def measurement_subset(data: Samples) -> Samples:
    """At most MEASURED_SAMPLES of the samples, evenly spaced."""
    return data.every(max(1, -(-len(data) // MEASURED_SAMPLES)))


def verdict(wanted_db: float, reached_db: float | None) -> str:
    """A note on whether --min-sqnr was reached; `reached_db` None: no output can be compared."""
    told = "an unknown SQNR" if reached_db is None else f"{reached_db:.1f} dB"
    missed = reached_db is None or reached_db < wanted_db
    outcome = "was not reached with all layers wide" if missed else "was requested"
    return f"an SQNR of {wanted_db:g} dB {outcome}: the worst output or slice has {told}"

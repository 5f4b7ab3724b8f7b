"""The steps from a float model to an integer one: where, in which ranges, and what makes it better."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.calibration.methods import Range
from onnxsparse.errors import ParamError
from onnxsparse.quantization.bias_correction import correct_biases
from onnxsparse.quantization.calibrated import Calibration
from onnxsparse.quantization.choices import Choices
from onnxsparse.quantization.equalization import equalize
from onnxsparse.quantization.insertion import Written, write_integers
from onnxsparse.quantization.mixed import Quality, ranked, widened
from onnxsparse.quantization.placement import Placement

MEASURED_SAMPLES = 32
"""As many are enough for means and noise, taken evenly from the data; ranges look at all of it."""


@dataclass(frozen=True)
class Improvements:
    """What is done for accuracy beyond good ranges. `wide_layers`: how many; `min_sqnr_db`: as many as that takes."""

    equalize: bool = False
    correct_bias: bool = True
    wide_layers: int = 0
    min_sqnr_db: float | None = None

    @property
    def named(self) -> str | None:
        """The option that cannot do without data."""
        wide = "--wide-layers" if self.wide_layers else None
        return "--equalize" if self.equalize else "--min-sqnr" if self.min_sqnr_db is not None else wide


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model, and how it came about."""

    placement: Placement
    written: Written
    ranges: Mapping[str, Range]
    notes: tuple[str, ...]


@dataclass
class Quantizing:
    """`data` None: the calibration has all ranges, and nothing else can be measured."""

    calibration: Calibration
    improvements: Improvements
    quality: Quality
    notes: list[str] = field(default_factory=list)

    @property
    def data(self) -> CalibrationData | None:
        return self.calibration.data

    @property
    def measured(self) -> CalibrationData | None:
        """What means and noise are measured on."""
        if self.data is None:
            return None
        self.calibration.samples = self.calibration.samples or self.data.count()
        return self.data.every(max(1, -(-self.calibration.samples // MEASURED_SAMPLES)))

    def run(self, placement: Placement) -> QuantizedModel:
        """Quantize a placement's model, whose weights equalization changes."""
        if self.data is None and self.improvements.named is not None:
            raise ParamError(f"quantize: {self.improvements.named} needs --data: it measures what the model does")
        if self.data is not None and self.improvements.equalize:
            self.notes.append(f"{equalize(placement, self.data)} pairs of layers were equalized")
        self.calibration.tell_unknown(placement)
        placement, ranges = self.calibration.run(placement)
        order = self._ranked(placement, ranges)
        placement, choices = self._widened(placement, ranges, order)
        if self.improvements.correct_bias and self.data is None:
            self.notes.append("biases were not corrected: that takes data")
        written = write_integers(placement, choices)
        return QuantizedModel(placement, written, self.calibration.given, (*self.calibration.notes, *self.notes))

    def _ranked(self, placement: Placement, ranges: Mapping[str, Range]) -> list[int]:
        """The layers that may become wide, those first that need it most."""
        if self.measured is None or not (self.improvements.wide_layers or self.improvements.min_sqnr_db is not None):
            return []
        return ranked(placement, Choices(ranges, self.calibration.extremes), self.measured, self.calibration.budget_bytes)

    def _widened(self, placement: Placement, ranges: Mapping[str, Range], order: list[int]) -> tuple[Placement, Choices]:
        """As many of them wide as asked for, or as the outputs need."""
        wanted = self.improvements.min_sqnr_db
        if wanted is None:
            count = min(self.improvements.wide_layers, len(order))
            found = self._with_wide(placement, ranges, order[:count])
        else:
            count, found = self._bisect(placement, ranges, order, wanted)
        if count:
            names = [placement.anatomy.graph.names[root] for root in order[:count]]
            shown = ", ".join(names[:3]) + ("…" if count > 3 else "")
            kind = "16 bits" if placement.anatomy.target.wide == "int16" else "floats"
            self.notes.append(
                f"{count} of {len(order)} layers and other ops are {kind}, those with most noise of their own: {shown}"
            )
        return found

    def _bisect(
        self, placement: Placement, ranges: Mapping[str, Range], order: list[int], wanted_db: float
    ) -> tuple[int, tuple[Placement, Choices]]:
        """The smallest number of wide layers whose outputs are good enough; all of them where that does not do."""
        few, many = 0, len(order)
        best = self._with_wide(placement, ranges, order)
        reached = self.quality(write_integers(*best).model)
        while few < many:
            count = (few + many) // 2
            found = self._with_wide(placement, ranges, order[:count])
            sqnr_db = self.quality(write_integers(*found).model)
            if sqnr_db is not None and sqnr_db >= wanted_db:
                best, many, reached = found, count, sqnr_db
            else:
                few = count + 1
        told = "one that is not known" if reached is None else f"{reached:.1f} dB"
        missed = reached is None or reached < wanted_db
        verdict = "was not reached, with all layers wide" if missed else "was asked for"
        self.notes.append(f"an SQNR of {wanted_db:g} dB {verdict}: the worst output has {told}")
        return many, best

    def _with_wide(self, placement: Placement, ranges: Mapping[str, Range], roots: list[int]) -> tuple[Placement, Choices]:
        """These layers wide, and biases corrected for what is left."""
        placement, choices = widened(placement, Choices(ranges, self.calibration.extremes), roots)
        if placement.anatomy.target.wide == "float" and roots:
            placement, given = self.calibration.run(placement)
            choices = Choices(given, self.calibration.extremes, choices.wide)
        if self.improvements.correct_bias and self.measured is not None:
            choices = correct_biases(placement, choices, self.measured, self.calibration.budget_bytes)
        return placement, choices

"""Drafts of a quantized model: ranges, corrected biases, rounded weights and wide tensors, chosen but not yet written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.quantization.accuracy.bias_correction import correct_biases, remaining_shifts
from onnxsparse.quantization.accuracy.heard import hold_out_heard
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, widened
from onnxsparse.quantization.accuracy.rounding import round_weights
from onnxsparse.quantization.activation_ranges import Calibrated, Calibration
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.qdq import Written, write_integers
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples

MEASURED_SAMPLES = 32
"""Evenly spaced samples of the calibration data that bias correction uses, as it needs only means; ranges use all."""

Rounding = Literal["nearest", "gptq"]
"""How weights become integers: each to the nearest, or by what it does to the outputs of their layer."""


@dataclass(frozen=True)
class Improvements:
    """Measures for accuracy beyond the choice of ranges.

    `wide_layers`: number of units with more than 8 bits. `min_sqnr_db`: instead, as few as reach this SQNR of the worst output
    or slice. `rounding`: None: gptq for weights of 4 bits, if there is data for it, else nearest. `curve`: whether
    sets of all sizes are judged. `felt_ranges`: whether ranges follow from what the outputs feel. `any_rule`: whether the rule
    for ranges may become another one once ops are wide.
    """

    equalize: bool = False
    correct_bias: bool = True
    wide_layers: int = 0
    min_sqnr_db: float | None = None
    rounding: Rounding | None = None
    curve: bool = False
    felt_ranges: bool = False
    any_rule: bool = False

    @property
    def widens(self) -> bool:
        """Whether ops become wide, or sets of wide ops are judged."""
        return bool(self.wide_layers) or self.judges

    @property
    def judges(self) -> bool:
        """Whether models are judged on data that was not calibrated on."""
        return self.min_sqnr_db is not None or self.curve

    def is_enough(self, sqnr_db: float | None) -> bool:
        """Whether an SQNR is wanted and this one reaches it."""
        return self.min_sqnr_db is not None and sqnr_db is not None and sqnr_db >= self.min_sqnr_db

    @property
    def named(self) -> str | None:
        """An option in use that needs calibration data; None if none is in use."""
        wide = "--wide-layers" if self.wide_layers else None
        rounding = "--rounding gptq" if self.rounding == "gptq" else wide
        judged = "--min-sqnr" if self.min_sqnr_db is not None else "--precision-curve" if self.curve else rounding
        ranges = judged if judged is not None or not self.felt_ranges else "--method output"
        return "--equalize" if self.equalize else ranges


@dataclass(frozen=True)
class Draft:
    """All choices for a quantized model, before it is written."""

    calibrated: Calibrated
    choices: Choices
    note: str | None = None
    """What rounding gained."""

    def written(self) -> Written:
        """The quantized model. Raises PassError as `write_integers` does."""
        return write_integers(self.calibrated.placement, self.choices)


@dataclass(frozen=True)
class Drafting:
    """Makes drafts as the options say."""

    calibration: Calibration
    improvements: Improvements

    def first(self, placement: Placement) -> Draft:
        """The draft of a placement in the target's bits, with its ranges and corrected biases.

        Raises ModelError as `Calibration.run` does.
        """
        calibrated = self.calibration.run(placement)
        return self.corrected(calibrated, Choices(calibrated.ranges))

    def corrected(self, found: Calibrated, choices: Choices, samples: Samples | None = None) -> Draft:
        """A draft with the ranges of `found`, biases corrected by what some samples say (default: of the calibration data)."""
        choices = replace(choices, ranges=found.ranges, extremes=found.extremes, bias_shifts={})
        measured = self._measured if samples is None else samples
        if self.improvements.correct_bias and measured is not None:
            choices = correct_biases(found.placement, choices, measured, self.calibration.budget_bytes)
        return Draft(found, choices)

    @property
    def _measured(self) -> Samples | None:
        """The samples for means; None without data."""
        data = self.calibration.data
        return None if data is None else measurement_subset(data)

    def weight_shifts(self, draft: Draft) -> Mapping[int, Floats]:
        """The addends of biases that correct for the error of weights alone."""
        all_values = replace(draft.choices, wide_values=frozenset(draft.calibrated.placement.sources))
        return self.corrected(draft.calibrated, all_values).choices.bias_shifts

    def uncorrected(self, draft: Draft, weight_shifts: Mapping[int, Floats], wide: Sequence[Candidate]) -> Draft:
        """The draft with some tensors wide; of the biases' shifts, the parts that are for 8-bit tensors stay."""
        placement, choices = widened(draft.calibrated.placement, draft.choices, wide)
        shifts = remaining_shifts(placement, choices, weight_shifts)
        found = self.calibration.run(placement, draft.calibrated)
        choices = replace(choices, ranges=found.ranges, extremes=found.extremes, bias_shifts=shifts)
        return Draft(found, choices)

    def with_wide(self, draft: Draft, wide: Sequence[Candidate], samples: Samples | None = None) -> Draft:
        """The draft with these tensors wide, ranges for what is new, and biases corrected for the error that remains.

        Weights have the nearest integers. `samples`: those that biases are corrected on, if not the calibration data.
        """
        placement, choices = widened(draft.calibrated.placement, replace(draft.choices, rounded={}), wide)
        return self.corrected(self.calibration.run(placement, draft.calibrated), choices, samples)

    def rounded(self, draft: Draft) -> Draft:
        """The draft with weights rounded as the options say, if that is better on held-out samples, and a note."""
        if draft.note is not None:  # it was rounded before
            return draft
        data, placement = self.calibration.data, draft.calibrated.placement
        fine = placement.anatomy.target.weights.bits > 4 or data is None or len(data) < 2
        rounding = self.improvements.rounding or ("nearest" if fine else "gptq")
        if rounding == "nearest" or data is None:
            return draft
        budget, correct_bias = self.calibration.budget_bytes, self.improvements.correct_bias
        model = placement.anatomy.model
        learned, judged, _ = hold_out_heard(model, data)
        choices = round_weights(placement, draft.choices, learned, judged, budget, correct_bias=correct_bias)
        found = Draft(draft.calibrated, choices)
        plain_db, found_db = (compare(model, each.written().model, judged).worst_sqnr_db for each in (draft, found))
        if found_db is None or plain_db is None:
            return replace(draft, note="nearest integers stay: held-out samples say nothing about gptq")
        if found_db <= plain_db:
            return replace(draft, note="nearest integers stay: on held-out samples, gptq is not better")
        told = (
            f"the worst output or slice of held-out samples has {found_db:.1f} dB with gptq, {plain_db:.1f} with nearest integers"
        )
        return replace(found, note=told)


def measurement_subset(data: Samples) -> Samples:
    """At most MEASURED_SAMPLES of the samples, evenly spaced."""
    return data.every(max(1, -(-len(data) // MEASURED_SAMPLES)))

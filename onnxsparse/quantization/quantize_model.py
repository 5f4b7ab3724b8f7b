"""From a placement to a quantized model: ranges, improvements of accuracy, and Q/DQ nodes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.calibration.methods import Range
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.bias_correction import correct_biases, remaining_shifts
from onnxsparse.quantization.accuracy.equalization import best_equalized
from onnxsparse.quantization.accuracy.felt_ranges import Probing, felt_rule
from onnxsparse.quantization.accuracy.heard import Heard, hold_out_heard
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, candidates, count_ops, strongest, widened
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.precision_curve import CurvePoint, precision_curve
from onnxsparse.quantization.accuracy.precision_search import Search
from onnxsparse.quantization.accuracy.rounding import round_weights
from onnxsparse.quantization.accuracy.tensor_factors import fitted
from onnxsparse.quantization.accuracy.wide_cost import WideCost
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

Quality = Callable[[Model], float | None]
"""A function that returns the SQNR in dB of a quantized model's worst output or slice; None if no output can be compared."""


@dataclass(frozen=True)
class Improvements:
    """Measures for accuracy beyond the choice of ranges.

    `wide_layers`: number of units with more than 8 bits. `min_sqnr_db`: instead, as few as reach this SQNR of the worst output
    or slice. `rounding`: None: gptq for weights of 4 bits, if there is data for it, else nearest. `curve`: whether
    sets of all sizes are judged. `felt_ranges`: whether ranges follow from what the outputs feel.
    """

    equalize: bool = False
    correct_bias: bool = True
    wide_layers: int = 0
    min_sqnr_db: float | None = None
    rounding: Rounding | None = None
    curve: bool = False
    felt_ranges: bool = False

    @property
    def named(self) -> str | None:
        """An option in use that needs calibration data; None if none is in use."""
        wide = "--wide-layers" if self.wide_layers else None
        rounding = "--rounding gptq" if self.rounding == "gptq" else wide
        judged = "--min-sqnr" if self.min_sqnr_db is not None else "--precision-curve" if self.curve else rounding
        ranges = judged if judged is not None or not self.felt_ranges else "--method output"
        return "--equalize" if self.equalize else ranges


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
    curve: tuple[CurvePoint, ...] = ()


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
class Quantizing:
    """From a placement to a quantized model.

    1. Equalize channels (optional), which changes weights.
    2. Find the ranges of activations. For powers of two, scale activations so that their ranges fit, and find ranges again.
    3. Correct biases for the error of each layer.
    4. Take the rule for ranges with which the outputs are best, measure what each tensor costs them, and give the loudest
       activations the ranges that cost least (optional).
    5. Round weights (optional).
    6. Widen the tensors that cost most: of a given number of ops, or of as few as reach an SQNR (`Search`). Correct biases for
       the error that remains, and round again.
    7. Write integers.

    `quality` returns the SQNR that the search compares with `min_sqnr_db`. `backend` says what wide layers cost.
    """

    calibration: Calibration
    improvements: Improvements
    quality: Quality
    backend: CostBackend | None = None

    def run(self, placement: Placement) -> QuantizedModel:
        """Quantize a placement's model; equalization changes the weights of that model, everything else works on copies.

        Raises ParamError for improvements that need data if there is none, ModelError as `Calibration.run` does, and PassError as
        `write_integers` does.
        """
        data = self.calibration.data
        if data is None and self.improvements.named is not None:
            raise ParamError(f"quantize: {self.improvements.named} needs --data: it runs the model on samples")
        if data is not None and len(data) < 2 and self.improvements.rounding == "gptq":
            raise ParamError("quantize: --rounding gptq judges on samples that it did not learn from: give two or more")
        notes = []
        if data is not None and self.improvements.equalize:
            placement, note = self._equalized(placement, data)
            notes.append(note)
        calibrated, factors = self._calibrated(placement)
        notes += [f"{len(factors)} activations were scaled, so that their ranges fit powers of two"] if factors else []
        draft, curve, said = self._improved(self._corrected(calibrated, Choices(calibrated.ranges)))
        notes += said
        notes += [] if draft.note is None else [draft.note]
        if self.improvements.correct_bias and data is None:
            notes.append("biases were not corrected: that needs --data")
        found = draft.calibrated
        ranges = {name: own.times(1 / factors.get(name, 1.0)) for name, own in found.ranges.items()}
        return QuantizedModel(found.placement, draft.written(), ranges, found.samples, (*found.notes, *notes), curve)

    def _equalized(self, placement: Placement, data: Samples) -> tuple[Placement, str]:
        """The placement as it is, or of an equalized model, by the outputs in integers on samples that say most; and a note."""
        model = placement.anatomy.model
        judged = Heard.of(model, data).loudest
        return best_equalized(placement, measurement_subset(data), lambda tried: self._level(model, tried, judged))

    def _level(self, model: Model, placement: Placement, judged: Samples) -> float:
        """SQNR of the worst output or slice in dB, of a placement in integers against a model; −∞ if nothing can be compared."""
        calibrated, _ = self._calibrated(placement)
        found = self._corrected(calibrated, Choices(calibrated.ranges)).written().model
        level = compare(model, found, judged).worst_sqnr_db
        return -math.inf if level is None else level

    def _calibrated(self, placement: Placement) -> tuple[Calibrated, dict[str, float]]:
        """The ranges of a placement, after activations were scaled for powers of two; and activation → its factor if not 1."""
        if not placement.anatomy.target.activations.power_of_two or self.calibration.data is None or self.calibration.given:
            return self.calibration.run(placement), {}
        best = replace(self.calibration, any_scale=True).run(placement)
        scaled, factors = fitted(best.placement, best.ranges)
        return self.calibration.run(scaled), {name: factor for name, factor in factors.items() if factor != 1}

    def _measured(self) -> Samples | None:
        """The samples for means; None without data."""
        data = self.calibration.data
        return None if data is None else measurement_subset(data)

    def _probing(self, draft: Draft, heard: Heard) -> Probing:
        """What measures a draft of the target's bits."""
        placement = draft.calibrated.placement
        return Probing(self.calibration, placement, draft.choices, self._weight_shifts(draft), heard)

    def _weight_shifts(self, draft: Draft) -> Mapping[int, Floats]:
        """The addends of biases that correct for the error of weights alone."""
        all_values = replace(draft.choices, wide_values=frozenset(draft.calibrated.placement.sources))
        return self._corrected(draft.calibrated, all_values).choices.bias_shifts

    def _improved(self, draft: Draft) -> tuple[Draft, tuple[CurvePoint, ...], list[str]]:
        """`draft` with other ranges, integers and wide ops, as the options say; the curve if it is asked for; and notes."""
        data, model = self.calibration.data, draft.calibrated.placement.anatomy.model
        if data is not None and self.improvements.felt_ranges:
            heard = Heard.of(model, data)
            ruled = self._ruled(draft, heard)
            if ruled.calibration.method != self.calibration.method:
                calibrated = ruled.calibration.run(draft.calibrated.placement)
                draft = self._corrected(calibrated, Choices(calibrated.ranges))
            return ruled._felt_and_widened(draft, heard)
        rounded = self._rounded(draft)
        return self._widened(rounded, lambda some: self._probing(rounded, Heard.of(model, some)).tensors())

    def _ruled(self, draft: Draft, heard: Heard) -> "Quantizing":
        """The same with the rule for ranges that the outputs feel least."""
        calibrated = draft.calibrated
        model, others, judged = calibrated.placement.anatomy.model, heard.others, heard.judged

        def quality(ranges: Mapping[str, Range]) -> float | None:
            found = replace(calibrated, ranges={**calibrated.ranges, **ranges})
            return compare(model, self._corrected(found, draft.choices, others).written().model, judged).worst_sqnr_db

        return replace(self, calibration=felt_rule(self.calibration, calibrated.placement, heard, quality))

    def _felt_and_widened(self, draft: Draft, heard: Heard) -> tuple[Draft, tuple[CurvePoint, ...], list[str]]:
        """What `_improved` returns, with ranges by what the outputs feel."""
        probing = self._probing(draft, heard)
        felt, tensors, notes = self._felt(draft, probing, probing.tensors())
        found = self._rounded(felt)

        def measure(_: Samples) -> list[Tensor]:
            if not found.choices.rounded:
                return tensors
            # the weights add other noise than before
            weights = replace(probing, choices=found.choices).tensors(values=())
            return [*(each for each in tensors if not each.is_weight), *weights]

        wide, curve, said = self._widened(found, measure)
        return wide, curve, [*notes, *said]

    def _felt(self, draft: Draft, probing: Probing, tensors: list[Tensor]) -> tuple[Draft, list[Tensor], list[str]]:
        """`draft` with ranges by what the outputs feel, if that is better on samples that did not choose them."""
        ranges, quieter = probing.felt(tensors)
        calibrated = replace(draft.calibrated, ranges={**draft.calibrated.ranges, **ranges})
        found = self._corrected(calibrated, draft.choices)
        model, judged = draft.calibrated.placement.anatomy.model, probing.heard.judged
        if len(judged):
            before, after = (compare(model, each.written().model, judged).worst_sqnr_db for each in (draft, found))
            if before is not None and (after is None or after < before):
                ranges = {}
        if not ranges:
            return draft, tensors, ["all ranges stay: the outputs are no better with others"]
        return found, quieter, [f"{len(ranges)} of the ranges are others, which the outputs feel less"]

    def _widened(
        self, draft: Draft, measure: Callable[[Samples], Sequence[Tensor]]
    ) -> tuple[Draft, tuple[CurvePoint, ...], list[str]]:
        """`draft` with as many ops wide as the options say; the curve if it is asked for; and notes.

        `measure`: what the tensors cost, from the calibration data.
        """
        wanted, data, placement = self.improvements.min_sqnr_db, self.calibration.data, draft.calibrated.placement
        if data is None or not (self.improvements.wide_layers or wanted is not None or self.improvements.curve):
            return draft, (), []
        plain_db = None if wanted is None else self._quality(draft)
        enough = wanted is not None and plain_db is not None and plain_db >= wanted
        if wanted is not None and enough and not self.improvements.curve:
            return draft, (), [verdict(wanted, plain_db)]
        weight_shifts = self._weight_shifts(draft)
        found, cost = candidates(measure(data), placement.anatomy.target), None
        if self.backend is not None and placement.anatomy.target.widens_tensors:
            cost = WideCost.of(placement, self.backend)
            found = cost.priced(found)

        def judge(wide: Sequence[Candidate]) -> float | None:
            return self._quality(self._uncorrected(draft, weight_shifts, wide))

        curve = tuple(precision_curve(found, judge, cost)) if self.improvements.curve else ()
        if wanted is None:
            wide = strongest(found, self.improvements.wide_layers)
            return self._with_wide(draft, wide) if wide else draft, curve, told(draft, found, wide, cost)
        if enough:
            return draft, curve, [verdict(wanted, plain_db)]
        best = Search(wanted, plain_db, found, judge).run()
        drafts = [self._uncorrected(draft, weight_shifts, best.wide), self._with_wide(draft, best.wide)]
        levels = [best.sqnr_db, self._quality(drafts[1])]
        better = int(levels[0] is None or (levels[1] is not None and levels[1] > levels[0]))
        return drafts[better], curve, [verdict(wanted, levels[better]), *told(draft, found, best.wide, cost)]

    def _quality(self, draft: Draft) -> float | None:
        return self.quality(draft.written().model)

    def _uncorrected(self, draft: Draft, weight_shifts: Mapping[int, Floats], wide: Sequence[Candidate]) -> Draft:
        """The draft with some tensors wide; of the biases' shifts, the parts that are for 8-bit tensors stay."""
        placement, choices = widened(draft.calibrated.placement, draft.choices, wide)
        shifts = remaining_shifts(placement, choices, weight_shifts)
        found = self.calibration.run(placement, draft.calibrated)
        choices = replace(choices, ranges=found.ranges, extremes=found.extremes, bias_shifts=shifts)
        return Draft(found, choices)

    def _with_wide(self, draft: Draft, wide: Sequence[Candidate]) -> Draft:
        """The draft with these tensors wide, ranges for what is new, and biases corrected for the error that remains."""
        placement, choices = widened(draft.calibrated.placement, replace(draft.choices, rounded={}), wide)
        return self._rounded(self._corrected(self.calibration.run(placement, draft.calibrated), choices))

    def _rounded(self, draft: Draft) -> Draft:
        """The draft with weights rounded as the options say, if that is better on held-out samples, and a note."""
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

    def _corrected(self, found: Calibrated, choices: Choices, samples: Samples | None = None) -> Draft:
        """A draft with the ranges of `found`, biases corrected by what some samples say (default: of the calibration data)."""
        choices = replace(choices, ranges=found.ranges, extremes=found.extremes, bias_shifts={})
        measured = self._measured() if samples is None else samples
        if self.improvements.correct_bias and measured is not None:
            choices = correct_biases(found.placement, choices, measured, self.calibration.budget_bytes)
        return Draft(found, choices)


def told(draft: Draft, choices: Sequence[Candidate], wide: Sequence[Candidate], cost: WideCost | None) -> list[str]:
    """A note on the ops that are wide, and what they add to the latency if costs are known; none without."""
    if not wide:
        return []
    anatomy = draft.calibrated.placement.anatomy
    names = list(dict.fromkeys(each.tensors[0].name if each.owner is None else anatomy.graph.names[each.owner] for each in wide))
    shown = ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
    kind = "are floats"
    if anatomy.target.widens_tensors:
        weights = sum(tensor.is_weight for each in wide for tensor in each.tensors)
        bits = anatomy.target.weights.wide_bits
        kind = f"have more bits ({len(wide) - weights} activations of 16, {weights} weights of {bits})"
    added = "" if cost is None else f"; latency grows by {cost.latency_ms(wide) - cost.latency_ms(()):.3g} ms"
    return [
        f"{len(names)} of {count_ops(choices)} layers and other ops {kind}, those whose noise the outputs feel: {shown}{added}"
    ]


def measurement_subset(data: Samples) -> Samples:
    """At most MEASURED_SAMPLES of the samples, evenly spaced."""
    return data.every(max(1, -(-len(data) // MEASURED_SAMPLES)))


def verdict(wanted_db: float, reached_db: float | None) -> str:
    """A note on whether --min-sqnr was reached; `reached_db` None: no output can be compared."""
    told = "an unknown SQNR" if reached_db is None else f"{reached_db:.1f} dB"
    missed = reached_db is None or reached_db < wanted_db
    outcome = "was not reached with all layers wide" if missed else "was requested"
    return f"an SQNR of {wanted_db:g} dB {outcome}: the worst output or slice has {told}"

"""From a placement to a quantized model: ranges, improvements of accuracy, and Q/DQ nodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnxsparse.calibration.methods import Range
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.equalization import best_equalized
from onnxsparse.quantization.accuracy.felt_ranges import Probing, felt_rule
from onnxsparse.quantization.accuracy.heard import Heard
from onnxsparse.quantization.accuracy.mixed_precision import Candidate
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.precision_curve import CurvePoint
from onnxsparse.quantization.accuracy.tensor_factors import fitted
from onnxsparse.quantization.activation_ranges import Calibrated, Calibration
from onnxsparse.quantization.drafts import Draft, Drafting, Improvements, measurement_subset
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.widening import Outcome, Quality, Widening, verdict
from onnxsparse.quantization.write.qdq import Written
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples

GPTQ_LEAVES = 0.25
"""Share of the noise of weights that gptq leaves: a fifth to a third on ResNet-20 with powers of two."""


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model with its placement, the ranges by activation, and notes.

    `samples`: calibration samples on which ranges were found; 0 if all were given. `method`: the rule by which.
    """

    placement: Placement
    written: Written
    ranges: Mapping[str, Range]
    samples: int
    method: str
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class Quantizing:
    """From a placement to a quantized model.

    1. Equalize channels (optional), which changes weights.
    2. Find the ranges of activations. For powers of two, scale activations so that the ranges of those that the outputs feel fit,
       and find ranges again.
    3. Correct biases for the error of each layer.
    4. Measure what each tensor costs the outputs, if ops become wide, for step 7.
    5. Take the rule for ranges with which the outputs are best while the ops that are likely to be wide are wide. Give the
       loudest of the other activations the ranges that cost the outputs least (optional).
    6. Round weights (optional).
    7. Widen the tensors that cost most: of a given number of ops, or of as few as reach an SQNR (`Widening`). Correct biases for
       the error that remains, and round again.
    8. Write integers.

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
        outcome = self._improved(self._drafting.corrected(calibrated, Choices(calibrated.ranges)))
        draft = outcome.draft
        notes += outcome.notes
        notes += [] if draft.note is None else [draft.note]
        if self.improvements.correct_bias and data is None:
            notes.append("biases were not corrected: that needs --data")
        found = draft.calibrated
        ranges = {name: own.times(1 / factors.get(name, 1.0)) for name, own in found.ranges.items()}
        method = "output" if self.improvements.felt_ranges else found.method
        return QuantizedModel(
            found.placement, draft.written(), ranges, found.samples, method, (*found.notes, *notes), outcome.curve
        )

    def _equalized(self, placement: Placement, data: Samples) -> tuple[Placement, str]:
        """The placement as it is, or of an equalized model, by the outputs in integers on samples that say most; and a note."""
        model = placement.anatomy.model
        judged = Heard.of(model, data).loudest
        return best_equalized(placement, measurement_subset(data), lambda tried: self._level(model, tried, judged))

    def _level(self, model: Model, placement: Placement, judged: Samples) -> float:
        """SQNR of the worst output or slice in dB, of a placement in integers against a model; −∞ if nothing can be compared."""
        calibrated, _ = self._calibrated(placement)
        found = self._drafting.corrected(calibrated, Choices(calibrated.ranges)).written().model
        level = compare(model, found, judged).worst_sqnr_db
        return -math.inf if level is None else level

    def _calibrated(self, placement: Placement) -> tuple[Calibrated, dict[str, float]]:
        """The ranges of a placement, after activations were scaled for powers of two; and activation → its factor if not 1."""
        data = self.calibration.data
        if not placement.anatomy.target.activations.power_of_two or data is None or self.calibration.given:
            return self.calibration.run(placement), {}
        best = replace(self.calibration, any_scale=True).run(placement)
        heard = Heard.of(placement.anatomy.model, data)
        tensors = self._probing(self._drafting.first(best.placement), heard).tensors()
        if self.improvements.rounding == "gptq":
            tensors = [replace(each, noise=GPTQ_LEAVES * each.noise) if each.is_weight else each for each in tensors]
        scaled, factors = fitted(best.placement, best.ranges, tensors)
        return self.calibration.run(scaled), {name: factor for name, factor in factors.items() if factor != 1}

    @property
    def _drafting(self) -> Drafting:
        return Drafting(self.calibration, self.improvements)

    @property
    def _widening(self) -> Widening:
        return Widening(self._drafting, self.quality, self.backend)

    def _probing(self, draft: Draft, heard: Heard) -> Probing:
        """What measures a draft of the target's bits."""
        weight_shifts = self._drafting.weight_shifts(draft)
        return Probing(self.calibration, draft.calibrated.placement, draft.choices, weight_shifts, heard)

    def _improved(self, draft: Draft) -> Outcome:
        """`draft` with other ranges, integers and wide ops, as the options say."""
        options, data, placement = self.improvements, self.calibration.data, draft.calibrated.placement
        if data is None or not (options.felt_ranges or options.widens):
            return Outcome(self._drafting.rounded(draft))
        plain_db = None
        if options.judges and not options.felt_ranges:
            draft = self._drafting.rounded(draft)
            plain_db = self._widening.level(draft)
            if options.is_enough(plain_db) and not options.curve:
                return Outcome(draft, notes=verdict(options, plain_db))
        heard = Heard.of(placement.anatomy.model, data)
        probing = self._probing(draft, heard)
        tensors = probing.tensors() if options.widens else None
        wide = [] if tensors is None else self._widening.likely(draft, tensors)
        ruled = self if options.is_enough(plain_db) else self._ruled(draft, wide, heard)
        if ruled.calibration.method != self.calibration.method:
            draft = ruled._drafting.first(placement)
            probing, tensors = ruled._probing(draft, heard), None
        return ruled._felt_and_widened(draft, probing, tensors, wide, plain_db)

    def _ruled(self, draft: Draft, wide: Sequence[Candidate], heard: Heard) -> "Quantizing":
        """The same with the rule for ranges that the outputs feel least while some tensors are wide, if it may be another one."""
        if not (self.improvements.any_rule or self.improvements.felt_ranges):
            return self
        model = draft.calibrated.placement.anatomy.model

        def quality(ranges: Mapping[str, Range]) -> float | None:
            found = replace(draft.calibrated, ranges={**draft.calibrated.ranges, **ranges})
            tried = self._drafting.with_wide(replace(draft, calibrated=found), wide, heard.others)
            return compare(model, tried.written().model, heard.judged).worst_sqnr_db

        return replace(self, calibration=felt_rule(self.calibration, draft.calibrated.placement, heard, quality))

    def _felt_and_widened(
        self, draft: Draft, probing: Probing, tensors: list[Tensor] | None, wide: Sequence[Candidate], plain_db: float | None
    ) -> Outcome:
        """`draft` with ranges by what the outputs feel, and with wide ops.

        `tensors`: what they cost the outputs, if it is known. `wide`: what is likely to be wide. `plain_db`: the SQNR with
        nothing wide, if it is known.
        """
        options, notes = self.improvements, list[str]()
        found = probing.tensors() if tensors is None else tensors
        if options.felt_ranges:
            draft, found, notes = self._felt(draft, probing, found, wide)
        rounded = self._drafting.rounded(draft)
        if not options.widens:
            return Outcome(rounded, notes=tuple(notes))
        if options.felt_ranges and options.judges:
            plain_db = self._widening.level(rounded)
        if rounded is not draft and rounded.choices.rounded:  # the weights add other noise than before
            weights = replace(probing, choices=rounded.choices).tensors(values=())
            found = [*(each for each in found if not each.is_weight), *weights]
        outcome = self._widening.run(rounded, found, plain_db)
        return replace(outcome, notes=(*notes, *outcome.notes))

    def _felt(
        self, draft: Draft, probing: Probing, tensors: list[Tensor], wide: Sequence[Candidate]
    ) -> tuple[Draft, list[Tensor], list[str]]:
        """`draft` with ranges by what the outputs feel while some tensors are wide, if that is better on other samples."""
        apart = {(each.name, each.is_weight) for candidate in wide for each in candidate.tensors}
        narrow = [each for each in tensors if (each.name, each.is_weight) not in apart]
        ranges, quieter = probing.felt(narrow)
        calibrated = replace(draft.calibrated, ranges={**draft.calibrated.ranges, **ranges})
        found = self._drafting.corrected(calibrated, draft.choices)
        model, judged = draft.calibrated.placement.anatomy.model, probing.heard.judged
        if len(judged):
            levels = (self._drafting.with_wide(each, wide) if wide else each for each in (draft, found))
            before, after = (compare(model, each.written().model, judged).worst_sqnr_db for each in levels)
            if before is not None and (after is None or after < before):
                ranges = {}
        if not ranges:
            return draft, tensors, ["all ranges stay: the outputs are no better with others"]
        said = f"{len(ranges)} of the ranges are others, which the outputs feel less"
        return found, [*(each for each in tensors if (each.name, each.is_weight) in apart), *quieter], [said]

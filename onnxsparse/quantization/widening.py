"""Which ops of a draft are wide: of a given number, or as few as reach an SQNR (`Search`)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, candidates, count_ops, strongest, wide_set, widths
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.precision_curve import CurvePoint, precision_curve
from onnxsparse.quantization.accuracy.precision_search import Search
from onnxsparse.quantization.accuracy.wide_cost import WideCost
from onnxsparse.quantization.drafts import Draft, Drafting, Improvements

Quality = Callable[[Model], float | None]
"""A function that returns the SQNR in dB of a quantized model's worst output or slice; None if no output can be compared."""

CURVE_SHARE = 8
"""Without a number of ops, ranges are chosen with one in so many of the ops wide."""


@dataclass(frozen=True)
class Outcome:
    """A draft, the curve if it was asked for, and notes."""

    draft: Draft
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Widening:
    """Widens ops as the options say.

    `quality` returns the SQNR that the search compares with the wanted one. `backend` says what wide layers cost.
    """

    drafting: Drafting
    quality: Quality
    backend: CostBackend | None

    def level(self, draft: Draft) -> float | None:
        """The SQNR in dB of a draft's worst output or slice."""
        return self.quality(draft.written().model)

    def likely(self, draft: Draft, tensors: Sequence[Tensor]) -> list[Candidate]:
        """What is likely to be wide, by what the tensors cost the outputs."""
        found, options = candidates(tensors, draft.calibrated.placement.anatomy.target), self.drafting.improvements
        if options.min_sqnr_db is not None:
            return wide_set(found, 10 ** (-options.min_sqnr_db / 10))
        return strongest(found, options.wide_layers or max(1, count_ops(found) // CURVE_SHARE))

    def run(self, draft: Draft, tensors: Sequence[Tensor], plain_db: float | None) -> Outcome:
        """`draft` with as many ops wide as the options say.

        `tensors`: what they cost the outputs. `plain_db`: the SQNR with nothing wide, if it is asked for or judged.
        """
        options, placement = self.drafting.improvements, draft.calibrated.placement
        wanted = options.min_sqnr_db
        weight_shifts = self.drafting.weight_shifts(draft)
        found, cost = candidates(tensors, placement.anatomy.target), None
        if self.backend is not None and placement.anatomy.target.widens_tensors:
            cost = WideCost.of(placement, self.backend)
            found = cost.priced(found)

        def judge(wide: Sequence[Candidate]) -> float | None:
            return self.level(self.drafting.uncorrected(draft, weight_shifts, wide)) if wide else plain_db

        curve = tuple(precision_curve(found, judge, cost)) if options.curve else ()
        if wanted is None:
            wide = strongest(found, options.wide_layers)
            return Outcome(self._final(draft, wide) if wide else draft, curve, told(draft, found, wide, cost))
        if options.is_enough(plain_db):
            return Outcome(draft, curve, verdict(options, plain_db))
        best = Search(wanted, plain_db, found, judge).run()
        drafts = [self.drafting.uncorrected(draft, weight_shifts, best.wide), self._final(draft, best.wide)]
        levels = [best.sqnr_db, self.level(drafts[1])]
        better = int(levels[0] is None or (levels[1] is not None and levels[1] > levels[0]))
        notes = *verdict(options, levels[better]), *told(draft, found, best.wide, cost)
        return Outcome(drafts[better], curve, notes)

    def _final(self, draft: Draft, wide: Sequence[Candidate]) -> Draft:
        return self.drafting.rounded(self.drafting.with_wide(draft, wide))


def told(draft: Draft, choices: Sequence[Candidate], wide: Sequence[Candidate], cost: WideCost | None) -> tuple[str, ...]:
    """A note on the ops that are wide, and what they add to the latency if costs are known; none without."""
    if not wide:
        return ()
    anatomy = draft.calibrated.placement.anatomy
    names = list(dict.fromkeys(each.tensors[0].name if each.owner is None else anatomy.graph.names[each.owner] for each in wide))
    shown = ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
    kind = "are floats"
    if anatomy.target.widens_tensors:
        values = sum(not tensor.is_weight for each in wide for tensor in each.tensors)
        weights = Counter(widths(wide).values())
        told = ", ".join(f"{weights[bits]} weights of {bits}" for bits in anatomy.target.wide_weight_bits)
        kind = f"have more bits ({values} activations of 16, {told})"
    added = "" if cost is None else f"; latency grows by {cost.latency_ms(wide) - cost.latency_ms(()):.3g} ms"
    return (
        f"{len(names)} of {count_ops(choices)} layers and other ops {kind}, those whose noise the outputs feel: {shown}{added}",
    )


def verdict(options: Improvements, reached_db: float | None) -> tuple[str, ...]:
    """A note on whether --min-sqnr was reached; `reached_db` None: no output can be compared."""
    told = "an unknown SQNR" if reached_db is None else f"{reached_db:.1f} dB"
    outcome = "was requested" if options.is_enough(reached_db) else "was not reached with all layers wide"
    return (f"an SQNR of {options.min_sqnr_db:g} dB {outcome}: the worst output or slice has {told}",)

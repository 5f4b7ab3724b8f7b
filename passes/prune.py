"""Unstructured, block and N:M pruning towards a target.

1. Find the tensors that may be pruned (`pruning.candidates`).
2. Rank their elements or blocks by importance over operations (`_rank`).
3. Choose the items to zero. Layers named by --layer-sparsity reach a sparsity of their own. The other layers make up the rest of
   the target with one common threshold (`_plan_global`) or, with --scope layer, reach the target one by one.
4. Zero the chosen elements. N:M patterns need no ranking: every group keeps its N largest (`_prune_groups`).
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.layer import Layers, Totals
from onnxsparse.analysis.layer_filter import LayerPattern, check_pattern, choose, pattern_files
from onnxsparse.analysis.layers import layers
from onnxsparse.analysis.stored_weights import count_zeros
from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, Role
from onnxsparse.pipeline.base import OPTIONS, StepReport, budget_bytes
from onnxsparse.pipeline.learning import Learns, open_test
from onnxsparse.pruning.application import apply, make_items, split_blockless, stored_axis, why_no_groups
from onnxsparse.pruning.candidates import Candidate, find_candidates
from onnxsparse.pruning.coverage import require_counted, unknown_operations
from onnxsparse.pruning.items import Elements, finite_histogram, keep_n_of_m
from onnxsparse.pruning.masks import writers
from onnxsparse.pruning.plan import Plan, Ranking, plan_by_layer, plan_global, reachable, refuse
from onnxsparse.pruning.scores import SCORES, Scored, ScoreName
from onnxsparse.pruning.sparsity_pattern import BlockPattern, GroupPattern, Pattern, parse_pattern
from onnxsparse.records import Change, Skip
from onnxsparse.recovery.recover import Goal, Recovery
from onnxsparse.runtime.samples import Samples

DEFAULT_TARGET = 0.5
"""sparsity_op without an explicit target."""

ADVICE = (
    "the file is as large as before and no faster on a CPU: zeros pay off on hardware that skips them (as the CV22) and under "
    "compression. Raise --sparsity-op as long as the outputs stay close enough, or fine-tune and prune further"
)

MAX_MACS = 1 << 62
"""Gains are summed in signed 64-bit integers, which larger totals would overflow."""


def pattern_and_sparsity(text: str) -> tuple[str, float]:
    """Both parts of PATTERN=VALUE. Raises ParamError if VALUE is missing or not a number from 0 to 1."""
    name, _, value = text.rpartition("=")
    if not name or not re.fullmatch(r"0?\.\d+|0|1|1\.0+", value):
        raise ParamError(f"prune: --layer-sparsity {text}: write it as PATTERN=VALUE with a value from 0 to 1")
    return name, float(value)


LayerSparsity = Annotated[
    str,
    Role(
        lambda text, option: check_pattern(pattern_and_sparsity(text)[0], option),
        reads=lambda text: pattern_files(pattern_and_sparsity(text)[0]),
    ),
]
"""A pattern of layers and their sparsity, 0 to 1, as PATTERN=VALUE."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Prune(Learns):
    """Zero the weights that matter least until the target is reached.

    With data, each layer gets the density that its effect on the outputs allows, and the weights that remain are fitted to what
    the dense layers compute.

    Without a target, half of the weights' operations are pruned. Existing zeros count and stay, so that the same command
    prunes a fine-tuned model further. File size and speed on a CPU do not change: zeros pay off on hardware that skips
    them, and under compression.
    """

    name: ClassVar[str] = "prune"
    changes_outputs: ClassVar[bool] = True

    sparsity_op: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Share of the weights' operations to put on zeros, 0 to 1 (default: 0.5)."""
    sparsity: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Share of the weights to set to zero, 0 to 1, in place of --sparsity-op."""
    scope: Literal["global", "layer"] = "global"
    """Where the target holds: over the whole model, with one threshold (global), or in every layer (layer)."""
    score: ScoreName = "lamp"
    """Importance of a weight: magnitude relative to its layer (lamp), or plain magnitude (l1)."""
    cost_exponent: Annotated[float | None, Field(ge=0, le=4)] = None
    """Power of a layer's operations that divides importance, 0 to 4 (default: 1 towards --sparsity-op, 0 towards --sparsity)."""
    pattern: str = "element"
    """Positions of zeros: element (any), 2:4 (N of every M inputs kept), or 4x1 (blocks of outputs x inputs)."""
    protect: Literal["soft", "none"] = "soft"
    """Protection of stem, depthwise and output layers: pruned only if the target needs it (soft), or as other layers (none).
    Where data is learned from, measurements decide instead."""
    max_layer_sparsity: Annotated[float | None, Field(gt=0, le=1)] = None
    """Highest sparsity of a layer, 0 to 1 (default: four fifths of the way from the target to 1; none with --scope layer)."""
    only: tuple[LayerPattern, ...] = ()
    """Layers to prune, and no others: glob, re:EXPRESSION, op:Conv, module prefix, or @FILE of those."""
    exclude: tuple[LayerPattern, ...] = ()
    """Layers to leave unchanged; patterns as in --only."""
    layer_sparsity: tuple[LayerSparsity, ...] = ()
    """Sparsity of single layers, as PATTERN=VALUE from 0 to 1; 0 leaves them unchanged. The other layers make up for it."""
    partial: bool = False
    """Prune towards --sparsity-op even if the operations of some layers are unknown; only the known ones count."""
    repair: bool = True
    """Learn from --data, if it is given; otherwise outputs are only compared on it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the positions at which activations are sampled."""
    memory: str = "2GB"
    """Memory for activations while data is learned from, in bytes (KB, MB, GB)."""
    masks: OutputFile | None = None
    """File for the masks (npz: weight name to booleans, True where the weight is kept)."""
    weights: OutputFile | None = None
    """File for the pruned and repaired weights and their biases (npz: tensor name to values)."""

    def check(self) -> None:
        """Raises ParamError for options that do not go together."""
        self._pattern()
        self._layer_cap()
        budget_bytes(self.memory)

    def split(self, model: Model) -> tuple[Samples | None, Samples | None]:
        """The samples to learn from and those to judge on; without repair, all are judged on. Raises as `Learns.split` does."""
        if self.repair:
            return super().split(model)
        found = self.data if self.test is None else self.test
        return None, None if found is None else open_test(found, model, self.preprocessing())

    def run(self, model: Model) -> StepReport:
        """Prune `model` in place.

        Raises ParamError for options that do not fit each other or the model, or a target that cannot be reached, and ModelError
        for weights that are not finite or have no elements.
        """
        self.check()
        pattern = self._pattern()
        facts = layers(model)
        chosen = choose(facts, self.only, "prune: --only", model.name) if self.only else {layer.node for layer in facts}
        excluded = choose(facts, self.exclude, "prune: --exclude", model.name)
        by_operations = self._by_operations and pattern_needs_target(pattern)
        if by_operations:
            require_operations(facts, model, partial=self.partial)
        candidates, skipped = find_candidates(model, facts, chosen, excluded, by_operations=by_operations)
        if isinstance(pattern, BlockPattern):
            candidates, blockless = split_blockless(candidates)
            skipped += blockless
        before = facts.totals
        if not candidates:
            nothing = "nothing was pruned: no layer has weights that can be pruned; the reasons are listed per layer"
            return StepReport(self.name, skipped=skipped, notes=[nothing], before=before, after=before)
        if self.repair and self.data is not None and not isinstance(pattern, BlockPattern):
            changes, more, notes = self._recover(model, facts, candidates, pattern)
        elif isinstance(pattern, GroupPattern):
            changes, more, notes = self._prune_groups(model, candidates, pattern)
        else:
            own_targets = self._own_targets(facts, model)
            changes, more, notes = self._prune_to_target(model, candidates, before, pattern, own_targets)
        skipped += more
        found = layers(model) if changes else facts
        after = found.totals
        if by_operations and not before.macs_complete:
            reached = "unknown" if after.sparsity_op is None else f"{100 * after.sparsity_op:.2f} %"
            notes = [*notes, *(f"sparsity_op is {reached} of what is known: {gap}" for gap in unknown_operations(found))]
        return StepReport(
            self.name,
            changes=changes,
            skipped=list(dict.fromkeys(skipped)),  # the two weights of a recurrent layer give the same reason twice
            notes=(*self._remarks(), *notes),
            before=before,
            after=after,
            artifacts=writers(model, candidates, self.masks, self.weights),
            advice=ADVICE if changes else None,
        )

    def _pattern(self) -> Pattern:
        """The parsed pattern. Raises ParamError if it does not go with the other options."""
        pattern = parse_pattern(self.pattern)
        if self.sparsity_op is not None and self.sparsity is not None:
            raise ParamError("prune: give --sparsity-op or --sparsity, not both")
        given = self.sparsity_op is not None or self.sparsity is not None or self.layer_sparsity
        if isinstance(pattern, GroupPattern) and given:
            raise ParamError(f"prune: --pattern {self.pattern} sets the sparsity of every layer; leave the target out")
        return pattern

    def _layer_cap(self) -> float:
        """The highest sparsity of a layer with --scope layer. Raises ParamError if it is below the target of the layers."""
        cap, target = 1.0 if self.max_layer_sparsity is None else self.max_layer_sparsity, self._target[1]
        if self.scope == "layer" and cap < target and ":" not in self.pattern:
            raise ParamError(f"prune: --max-layer-sparsity {cap:g} is below the target {target:g} of every layer")
        return cap

    def _own_targets(self, facts: Layers, model: Model) -> dict[str, float]:
        """Node → its --layer-sparsity, 0 to 1; a later pattern overrules an earlier one."""
        found: dict[str, float] = {}
        for text in self.layer_sparsity:
            name, value = pattern_and_sparsity(text)
            found |= dict.fromkeys(choose(facts, [name], "prune: --layer-sparsity", model.name), value)
        return found

    @property
    def _target(self) -> tuple[str, float]:
        if self.sparsity is not None:
            return "sparsity", self.sparsity
        return "sparsity_op", DEFAULT_TARGET if self.sparsity_op is None else self.sparsity_op

    def _remarks(self) -> tuple[str, ...]:
        if self.sparsity_op is None and self.sparsity is None and ":" not in self.pattern:
            return ("no target was given: pruned to sparsity_op 0.5; choose with --sparsity-op or --sparsity",)
        return ()

    @property
    def _by_operations(self) -> bool:
        return self._target[0] == "sparsity_op"

    def _prune_to_target(
        self,
        model: Model,
        candidates: Sequence[Candidate],
        before: Totals,
        pattern: BlockPattern | None,
        own_targets: dict[str, float],
    ) -> tuple[list[Change], list[Skip], list[str]]:
        kind, target = self._target
        rankings = [self._rank(model, c, pattern) for c in candidates]
        fixed = [r for r in rankings if own_targets.keys() & set(r.candidate.nodes)]
        free = [r for r in rankings if r not in fixed]
        targets = [max(own_targets[n] for n in r.candidate.nodes if n in own_targets) for r in fixed]
        settled = plan_by_layer(fixed, targets, 1.0)
        if self.scope == "layer":
            plan = plan_by_layer(free, [target] * len(free), self._layer_cap())
        else:
            settled_gain = sum(c.gain * r.weight for c, r in zip(settled.choices, fixed, strict=True))
            plan = self._plan_global(free, before, settled_gain, kind, target)
        chosen = [*zip(fixed, settled.choices, strict=True), *zip(free, plan.choices, strict=True)]
        changes = [apply(model, ranking, choice) for ranking, choice in chosen if choice.gain]
        return changes, self._spared(free, plan), self._tell(free, plan, changes, kind, target)

    def _spared(self, rankings: Sequence[Ranking], plan: Plan) -> list[Skip]:
        """Protected layers that were not pruned because the target was reached without them."""
        if self.protect == "none" or self.scope == "layer" or plan.cut_protected:
            return []
        spared = [r.candidate for r in rankings if r.candidate.protected]
        return [Skip(node, f"spared, the target is reached without it: {c.protected}") for c in spared for node in c.nodes]

    def _plan_global(self, rankings: Sequence[Ranking], before: Totals, settled: int, kind: str, target: float) -> Plan:
        total = before.weight_macs if self._by_operations else before.weights
        base = settled + ((before.zero_macs if self._by_operations else before.zero_weights) or 0)
        cap = default_cap(target) if self.max_layer_sparsity is None else self.max_layer_sparsity
        need = math.ceil(target * total) - base
        highest = reachable(rankings, base, total, cap)
        if highest < target and need > 0:
            raise refuse(kind, target, highest, cap)
        return plan_global(rankings, need, cap, protect=self.protect == "soft")

    def _rank(self, model: Model, candidate: Candidate, pattern: BlockPattern | None) -> Ranking:
        weight = candidate.uses if self._by_operations else 1
        exponent = float(self._by_operations) if self.cost_exponent is None else self.cost_exponent
        items = make_items(model, candidate, pattern)
        found = finite_histogram(items, candidate.nodes[0])
        score = SCORES[self.score](Scored(found, max(candidate.uses, 1) ** exponent))
        return Ranking(candidate, items, found, score, weight)

    def _tell(self, rankings: Sequence[Ranking], plan: Plan, changes: Sequence[Change], kind: str, target: float) -> list[str]:
        if not changes:
            return [f"nothing was pruned: {kind} is already {target:g} or more"]
        cut = [r.candidate for r, c in zip(rankings, plan.choices, strict=True) if c.gain and r.candidate.protected]
        if not plan.cut_protected or not cut or self.protect == "none":
            return []
        why = "every layer is pruned to the target" if self.scope == "layer" else "the target cannot be reached without them"
        return [
            f"protected layers were pruned as well, since {why}: "
            + ", ".join(dict.fromkeys(f"{c.nodes[0]} ({c.protected})" for c in cut))
        ]

    def _recover(
        self, model: Model, facts: Layers, candidates: Sequence[Candidate], pattern: GroupPattern | None
    ) -> tuple[list[Change], list[Skip], list[str]]:
        """Prune with data (`recovery`)."""
        kind, target = self._target
        before = facts.totals
        total = before.weight_macs if self._by_operations else before.weights
        base = (before.zero_macs if self._by_operations else before.zero_weights) or 0
        own = self._own_targets(facts, model)
        if self.scope == "layer":
            own = {node: target for c in candidates for node in c.nodes} | own
        goal = Goal(
            kind=kind,
            total=total,
            need=max(0, math.ceil(target * total) - base),
            weigh=(lambda c: c.uses) if self._by_operations else (lambda _: 1),
            target=target,
            max_sparsity=1.0 if self.max_layer_sparsity is None else self.max_layer_sparsity,
            own=own,
            pattern=pattern,
        )
        for c in candidates:
            finite_histogram(Elements(model.weights, c.stored, c.elements), c.nodes[0])
        learned, judged = self.split(model)
        assert learned is not None  # there is data
        recovery = Recovery(model, goal, learned, judged, budget_bytes(self.memory), self.seed)
        changes = recovery.run(candidates)
        return changes, recovery.skipped, recovery.notes

    def _prune_groups(
        self, model: Model, candidates: Sequence[Candidate], pattern: GroupPattern
    ) -> tuple[list[Change], list[Skip], list[str]]:
        changes: list[Change] = []
        skipped: list[Skip] = []
        for candidate in candidates:
            axis = stored_axis(candidate, "input")
            reason = why_no_groups(model, candidate, axis, pattern, protect=self.protect == "soft")
            if reason is not None or axis is None:
                skipped += [Skip(node, reason or "") for node in candidate.nodes]
                continue
            finite_histogram(Elements(model.weights, candidate.stored, candidate.elements), candidate.nodes[0])
            array = keep_n_of_m(model.weights, candidate.stored, axis, pattern.keep, pattern.group)
            model.weights[candidate.name] = array
            zeros = count_zeros(candidate.stored, model.weights)
            if zeros > candidate.zeros:
                changes.append(Change(candidate.name, candidate.nodes, candidate.elements, candidate.zeros, zeros))
        notes = [] if changes else [f"nothing was pruned: no layer can be, or all that can be are {self.pattern} already"]
        return changes, skipped, notes


def default_cap(target: float) -> float:
    """Highest sparsity of a layer if none is given: a fifth of the density that the target leaves the model remains in it.

    Without a cap, expensive layers would lose all of their weights.
    """
    return 1 - (1 - target) / 5


def require_operations(facts: Layers, model: Model, *, partial: bool) -> None:
    """Check that the MACs of the layers can be weighed against each other.

    Raises ParamError if those of a layer with weights are unknown, unless `partial`, and ModelError if the total exceeds
    MAX_MACS.
    """
    if facts.totals.weight_macs > MAX_MACS:
        raise ModelError(f"{model.name} has {facts.totals.weight_macs:.1e} operations at these sizes, which no device runs")
    require_counted("prune", facts, model.name, partial=partial, otherwise="prune towards --sparsity")


def pattern_needs_target(pattern: Pattern) -> bool:
    """Whether a target says how much is pruned; an N:M pattern fixes the sparsity by itself."""
    return not isinstance(pattern, GroupPattern)

"""Unstructured, block and N:M pruning towards a target.

1. Find the tensors that may be pruned (`pruning.candidates`).
2. Without data, prune by scores (`pruning.by_magnitude`). With data, each layer gets the density that its effect on the outputs
   allows, and the weights that remain are repaired (`recovery`).
"""

import math
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.layer import Layers
from onnxsparse.analysis.layer_filter import LayerPattern
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.hardware import names
from onnxsparse.cost.registry import CostTarget, predicting_backend
from onnxsparse.cost.workload import workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, reading
from onnxsparse.pipeline.base import OPTIONS, StepReport, budget_bytes, described
from onnxsparse.pipeline.learning import Learns, open_test
from onnxsparse.pipeline.limits import Limits
from onnxsparse.pruning.application import split_blockless
from onnxsparse.pruning.by_magnitude import Magnitude, prune_groups
from onnxsparse.pruning.candidates import Candidate, select_candidates
from onnxsparse.pruning.coverage import unknown_operations
from onnxsparse.pruning.items import Elements, finite_histogram
from onnxsparse.pruning.layer_sparsity import LayerSparsity, set_sparsities
from onnxsparse.pruning.masks import writers
from onnxsparse.pruning.scores import ScoreName
from onnxsparse.pruning.sparsity_pattern import BlockPattern, GroupPattern, Pattern, parse_pattern
from onnxsparse.pruning.target import Target, require_operations
from onnxsparse.records import Change, Skip
from onnxsparse.recovery.database_file import read_database
from onnxsparse.recovery.other_allocation import compared
from onnxsparse.recovery.prices import Latency
from onnxsparse.recovery.recover import Recovery, Rules, recover
from onnxsparse.runtime.judge import Judge
from onnxsparse.runtime.samples import Samples

DEFAULT_TARGET = 0.5
"""sparsity_op without an explicit target."""

ADVICE = (
    "the file is as large as before and no faster on a CPU: zeros pay off on hardware that skips them (as the CV22) and under "
    "compression. Raise --sparsity-op as long as the outputs stay close enough, or fine-tune and prune further"
)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Prune(Learns, Limits):
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
    macs: Annotated[float | None, Field(gt=0, le=1)] = None
    """Share of the multiply-accumulates to leave nonzero at most, 0 to 1, in place of --sparsity-op."""
    latency_ms: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Latency on --target to reach in ms, in place of --sparsity-op; what costs no time stays dense. It needs --data."""
    target: CostTarget | None = field(
        default=None,
        metadata=described(f"Target whose latency to predict for pruning with data: {', '.join(names())}, or a TOML file."),
    )
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
    """Prune even if the operations of some layers are unknown, or their costs with --latency-ms; only the known ones count."""
    repair: bool = True
    """Learn from --data, if it is given; otherwise outputs are only compared on it."""
    database: Annotated[Path, reading(read_database)] | None = None
    """File of 'onnxsparse sensitivity' on this model, in place of measuring; --data is still repaired on."""
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
        self._check_targets()
        self._check_learning()
        self.check_limits(self.name)
        self._layer_cap()
        budget_bytes(self.memory)

    def _check_targets(self) -> None:
        names = ("sparsity_op", "sparsity", "macs", "latency_ms")
        named = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if len(named) > 1:
            raise ParamError(f"prune: give {' or '.join(named)}, not {'both' if len(named) == 2 else 'all'}")
        if self.judges_outputs and named:
            raise ParamError(f"prune: limits ask for the highest sparsity_op that keeps them; leave {named[0]} out")
        if isinstance(self._pattern, GroupPattern) and (named or self.layer_sparsity or self.judges_outputs):
            raise ParamError(f"prune: --pattern {self.pattern} sets the sparsity of every layer; leave the target out")

    def _check_learning(self) -> None:
        needing = {
            "--latency-ms": self.latency_ms is not None,
            "--target": self.target is not None,
            "--database": self.database is not None,
            "--min-sqnr": self.min_sqnr is not None,
            "--metric": self.metric is not None,
        }
        named = next((option for option, given in needing.items() if given), None)
        if named is not None and not self.repair:
            raise ParamError(f"prune: {named} learns from data; leave --no-repair out")
        if self.database is not None and read_database(self.database).pattern != self.pattern:
            raise ParamError(f"prune: --database {self.database} is for --pattern {read_database(self.database).pattern}")
        self._backend()

    def check_model(self, model: Model) -> None:
        """Raises ParamError for an option that needs data without it, and ModelError for data that does not fit."""
        wants = {"--latency-ms": self.latency_ms, "--target": self.target, "--database": self.database}
        named = next((option for option, given in wants.items() if given is not None), "a limit" if self.judges_outputs else None)
        if named is not None and self.data is None:
            raise ParamError(f"prune: {named} needs --data to learn from")
        super().check_model(model)

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
        facts = layers(model)
        candidates, skipped = self._candidates(model, facts)
        before = facts.totals
        if not candidates:
            nothing = "nothing was pruned: no layer has weights that can be pruned; the reasons are listed per layer"
            return StepReport(self.name, skipped=skipped, notes=[nothing], before=before, after=before)
        if self.repair and self.data is not None:
            changes, more, notes = self._recover(model, facts, candidates)
        else:
            changes, more, notes = self._by_magnitude(model, facts, candidates)
        found = layers(model) if changes else facts
        after = found.totals
        if self._by_operations and not before.macs_complete:
            reached = "unknown" if after.sparsity_op is None else f"{100 * after.sparsity_op:.2f} %"
            notes = [*notes, *(f"sparsity_op is {reached} of what is known: {gap}" for gap in unknown_operations(found))]
        return StepReport(
            self.name,
            changes=changes,
            skipped=list(dict.fromkeys([*skipped, *more])),  # the two weights of a recurrent layer give the same reason twice
            notes=(*self._remarks(), *notes),
            before=before,
            after=after,
            artifacts=writers(model, candidates, self.masks, self.weights),
            advice=ADVICE if changes else None,
        )

    def _candidates(self, model: Model, facts: Layers) -> tuple[list[Candidate], list[Skip]]:
        """The tensors to prune, and the layers that are not pruned with the reason."""
        by_operations = self._by_operations
        if by_operations:
            require_operations(facts, model, partial=self.partial)
        candidates, skipped = select_candidates(model, facts, self.only, self.exclude, self.name, by_operations=by_operations)
        if not isinstance(self._pattern, BlockPattern):
            return candidates, skipped
        candidates, blockless = split_blockless(candidates)
        return candidates, skipped + blockless

    @property
    def _pattern(self) -> Pattern:
        return parse_pattern(self.pattern)

    @property
    def _target(self) -> Target:
        """The target; the default where none is given."""
        if self.sparsity is not None:
            return Target("sparsity", self.sparsity)
        if self.macs is not None:
            return Target("macs", self.macs)
        return Target("sparsity_op", DEFAULT_TARGET if self.sparsity_op is None else self.sparsity_op)

    @property
    def _by_operations(self) -> bool:
        """Whether operations count; an N:M pattern has no target, and latency has a cost of its own."""
        has_target = self.latency_ms is None and not isinstance(self._pattern, GroupPattern)
        return has_target and self._target.by_operations

    def _layer_cap(self) -> float:
        """The highest sparsity of a layer with --scope layer. Raises ParamError if it is below the target of the layers."""
        cap, target = 1.0 if self.max_layer_sparsity is None else self.max_layer_sparsity, self._target.sparsity
        if self.scope == "layer" and cap < target and ":" not in self.pattern:
            raise ParamError(f"prune: --max-layer-sparsity {cap:g} is below the target {target:g} of every layer")
        return cap

    def _remarks(self) -> tuple[str, ...]:
        given = (self.sparsity_op, self.sparsity, self.macs, self.latency_ms)
        if given == (None,) * len(given) and not self.judges_outputs and not isinstance(self._pattern, GroupPattern):
            return ("no target was given: pruned to sparsity_op 0.5; choose with --sparsity-op or --sparsity",)
        return ()

    def _by_magnitude(
        self, model: Model, facts: Layers, candidates: Sequence[Candidate]
    ) -> tuple[list[Change], list[Skip], list[str]]:
        """Prune without data: changes, layers that are not pruned, notes."""
        pattern, target = self._pattern, self._target
        if isinstance(pattern, GroupPattern):
            return prune_groups(model, candidates, pattern, protect=self.protect == "soft")
        cap = default_cap(target.sparsity) if self.max_layer_sparsity is None else self.max_layer_sparsity
        pruning = Magnitude(
            model=model,
            target=target,
            own=set_sparsities(self.layer_sparsity, facts, model.name),
            score=self.score,
            cost_exponent=float(target.by_operations) if self.cost_exponent is None else self.cost_exponent,
            max_sparsity=self._layer_cap() if self.scope == "layer" else cap,
            by_layer=self.scope == "layer",
            protect=self.protect == "soft",
            pattern=pattern,
        )
        changes = pruning.run(candidates, facts.totals)
        return changes, pruning.skipped, pruning.notes

    def _recover(
        self, model: Model, facts: Layers, candidates: Sequence[Candidate]
    ) -> tuple[list[Change], list[Skip], list[str]]:
        """Prune with data: changes, layers that are not repaired, notes."""
        for c in candidates:
            finite_histogram(Elements(model.weights, c.stored, c.elements), c.nodes[0])
        own = set_sparsities(self.layer_sparsity, facts, model.name)
        if self.scope == "layer":
            own = {node: self._target.sparsity for c in candidates for node in c.nodes} | own
        learned, judged = self.split(model)
        assert learned is not None  # there is data
        dense, backend = model.copy(), self._backend()
        rules = Rules(pattern=self._pattern, max_sparsity=self.max_layer_sparsity or 1.0, own=own)
        stored = None if self.database is None else read_database(self.database)
        recovery = Recovery(dense, facts.totals, rules, learned, judged, budget_bytes(self.memory), self.seed, stored)
        latency = None if backend is None else Latency(backend, workload(model), self.latency_ms or math.inf)
        target: Target | Latency = self._target
        if latency is not None and self.latency_ms is not None:
            self._require_costs(latency, model)
            target = latency
        lacking = None if judged is not None else f"prune: {self.data} holds one sample, which is learned from; give --test"
        judge = Judge(dense, judged, lacking=lacking)
        found = recover(recovery, candidates, None if self.judges_outputs else target, lambda m: self.verdict(m, judge).failures)
        model.assign(found.model)
        notes = found.notes if latency is None else [*found.notes, *compared(recovery, found, latency)]
        return found.changes, recovery.skipped, notes

    def _require_costs(self, latency: Latency, model: Model) -> None:
        """Raises ParamError if the latency to reach is not known as a whole, unless --partial."""
        if latency.unknown and not self.partial:
            lacking = f"{len(latency.unknown)} of {model.name}, {latency.unknown[0]} first"
            raise ParamError(
                f"prune: --latency-ms {self.latency_ms:g}: layers have no known cost on {latency.backend.name} ({lacking}); "
                "--partial counts the others"
            )

    def _backend(self) -> CostBackend | None:
        """The backend that predicts latency; None without one. Raises ParamError for a target that measures."""
        if self.target is None and self.latency_ms is None:
            return None
        return predicting_backend(self.target or "cv22", self.name)


def default_cap(target: float) -> float:
    """Highest sparsity of a layer if none is given: a fifth of the density that the target leaves the model remains in it.

    Without a cap, expensive layers would lose all of their weights.
    """
    return 1 - (1 - target) / 5

"""Removal of whole channels: smaller tensors, the same inputs and outputs.

1. Find the groups of channels that can only be removed together (`channels.groups.solve`).
2. Choose channels up to a ratio or a share of the MACs, or read them from a plan (`_choose`): with data those without which the
   outputs lose least (`recovery.channel_curves`), else the least important ones.
3. Cut every tensor along the axes of the chosen channels (`channels.cut`).
4. Prove in onnxruntime that the result is the original without these channels (`channels.proof`).
5. With data, fit the weights that remain to what the original computes (`recovery.channels`); or only add the expected value of
   the removed channels to biases (`channels.statistics`).
"""

import json as json_format
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.flattening import flatten
from onnxsparse.analysis.layer import Layers
from onnxsparse.analysis.layer_filter import LayerPattern, choose
from onnxsparse.analysis.layers import layers
from onnxsparse.calibration.data import DataFiles
from onnxsparse.channels.allocation import LossCurve, allocate, scores_of, steps
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Group, Removed, Solution, solve
from onnxsparse.channels.importance import Scores, activation_importance, weight_importance
from onnxsparse.channels.plan import classes_of, plan_json, read_cuts
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.report import groups_table, told, unmeasured, why_nothing
from onnxsparse.channels.selection import Choice, choose_channels, choose_for_macs
from onnxsparse.channels.statistics import channel_means, compensate, only_biases_differ
from onnxsparse.channels.versions import CutResult
from onnxsparse.cost.backends.hardware import alignment_of, names
from onnxsparse.cost.registry import HardwareTarget
from onnxsparse.errors import BackendError, ParamError, PassError
from onnxsparse.folding import computes_on_constants, fold_all_constants
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, reading
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Labels
from onnxsparse.pipeline.base import OLD_NAME, OPTIONS, StepReport, budget_bytes, described, named_target
from onnxsparse.pipeline.learning import Learns
from onnxsparse.pipeline.reuse import reused
from onnxsparse.pruning.coverage import require_counted, unknown_operations
from onnxsparse.records import ArtifactWriter, Skip, text_writer
from onnxsparse.recovery.channel_curves import Measuring
from onnxsparse.recovery.channels import Refit, only_fitted_differ
from onnxsparse.recovery.judgement import keep_better
from onnxsparse.runtime.samples import Samples

DEFAULT_RATIO = 0.5
"""Share of every group's channels to cut without an explicit target."""

DEFAULT_ROUNDING = 8
"""Channels of a group stay a multiple of this without a target's alignment; vector units commonly handle 8 at a time."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class PruneChannels(Learns):
    """Remove whole channels from the model, rewrite all shapes, and prove in onnxruntime that nothing else has changed.

    The result computes what the original computes without the removed channels. Shapes of inputs and outputs stay as they are.

    With data, those channels go without which the outputs lose least, and the weights that remain are then fitted to what the
    original computes.
    """

    name: ClassVar[str] = "prune-channels"
    changes_outputs: ClassVar[bool] = True

    ratio: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of each group's channels to cut, 0 to 1 (default: 0.5)."""
    macs: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of the multiply-accumulates to keep at most, 0 to 1, in place of --ratio."""
    sparsity_op: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of the operations to cut, 0 to 1, in place of --ratio; the same as --macs with 1 minus it."""
    importance: Literal["output", "l1", "l2", "bn-scale", "activation"] | None = None
    """Importance of a channel: what is lost without it after the best refit on --data (output), its weights (l1, l2), its
    BatchNormalization scale, or its activations on --data (default: output where data is learned from, else l1)."""
    scope: Literal["group", "all"] | None = None
    """Where the share holds: in every group (group), or over all groups, least important channels first (all) (default: all for
    --macs and --sparsity-op by --importance output, else group)."""
    round_to: Annotated[int | None, Field(ge=1)] = None
    """Number of channels of which a group keeps a multiple (default: the alignment of --target, else 8)."""
    target: HardwareTarget | None = field(
        default=None, metadata=described(f"Target whose channel alignment to round to: {', '.join(names())}, or a TOML file.")
    )
    backend: Annotated[HardwareTarget | None, OLD_NAME] = None
    """Old name of --target."""
    min_channels: Annotated[int, Field(ge=1)] = 1
    """Smallest number of channels to keep in a group."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of a group's channels to cut, 0 to 1."""
    cut_norms: bool = False
    """Also cut along axes that a normalisation, Softmax, mean or extreme reduces over; it then reduces over the rest."""
    only: tuple[LayerPattern, ...] = ()
    """Layers whose outputs to cut, and no others: glob, re:EXPRESSION, op:Conv, module prefix, or @FILE of those."""
    exclude: tuple[LayerPattern, ...] = ()
    """Layers whose outputs to keep; patterns as in --only."""
    partial: bool = False
    """Cut to --macs or --sparsity-op even if the operations of some layers are unknown; only the known ones count."""
    calibration: Annotated[DataFiles | None, OLD_NAME] = None
    """Old name of --data."""
    repair: bool = True
    """Fit the remaining weights on --data, if it is given; otherwise only the means of removed channels go into biases."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the positions at which activations are sampled."""
    memory: str = "2GB"
    """Memory for activations while data is learned from, in bytes (KB, MB, GB)."""
    plan: bool = False
    """Only show the groups, what can be cut, and what cannot and why."""
    from_plan: Annotated[Path, reading(read_cuts)] | None = None
    """File written by --json whose cut to repeat, on this model or on a fine-tuned one."""
    json: OutputFile | None = None
    """File for groups and cuts, tensor by tensor (JSON)."""
    verify: bool = True
    """Prove the cut in onnxruntime before anything is written."""

    @property
    def dry(self) -> bool:
        """Whether only the groups are shown and no model is written."""
        return self.plan

    def check(self) -> None:
        """Raises ParamError for options that do not go together."""
        if sum(given is not None for given in (self.ratio, self.macs, self.sparsity_op, self.from_plan)) > 1:
            raise ParamError("prune-channels: give one of --ratio, --macs, --sparsity-op and --from-plan")
        if None not in (self.data, self.calibration) and self.data != self.calibration:
            raise ParamError("prune-channels: --calibration is the old name of --data; give one of them")
        if self.importance in ("activation", "output") and not self._has_data:
            raise ParamError(f"prune-channels: --importance {self.importance} needs --data")
        budget_bytes(self.memory)
        self._target()

    @property
    def _has_data(self) -> bool:
        return self.data is not None or self.calibration is not None

    @property
    def _importance(self) -> str:
        return self.importance or ("output" if self.repair and self._has_data else "l1")

    @property
    def _over_all(self) -> bool:
        by_macs = self.macs is not None or self.sparsity_op is not None
        return self.scope == "all" or (self.scope is None and by_macs and self._importance == "output")

    def _target(self) -> str | None:
        return named_target(self.name, None, target=self.target, backend=self.backend)

    def split(self, model: Model) -> tuple[Samples | None, Samples | None]:
        """The samples to learn from and those to judge on, by either name of --data. Raises as `Learns.split` does."""
        return super(PruneChannels, self if self.calibration is None else replace(self, data=self.calibration)).split(model)

    def run(self, model: Model) -> StepReport:
        """Cut `model` in place; with `plan`, only report what would be cut.

        Raises ParamError if nothing can be cut or the options do not fit the model, and PassError if the proof fails.
        """
        self.check()
        original, facts, solution, groups, notes = self._prepared(model)
        learned, judged = self.split(original)
        chosen, more = self._choose(original, solution, groups, learned)
        self._require_reached(chosen, solution)
        notes += more
        skipped = [Skip(f.node, f"{f.channels} of {f.of} outputs stay: {f.reason}") for f in solution.frozen()]
        report = StepReport(self.name, skipped=skipped, notes=notes, before=facts.totals, after=facts.totals)
        if self.plan:
            # the cut is made on the copy, so that the model stays as it is
            result = apply_cut(original, solution, solution.removal(chosen))
            report = replace(report, tables=(groups_table(solution, chosen),), dry=True)
            return replace(report, artifacts=self._plan_file(model, facts, solution, chosen, result, None))
        if not chosen.size:
            raise ParamError(f"prune-channels: nothing can be cut from {model.name}: {why_nothing(solution, groups)}")
        result = apply_cut(model, solution, solution.removal(chosen))
        proof = self._prove(original, solution, chosen, model) if self.verify else None
        notes += list(told(solution, chosen, result, proof))
        if learned is not None:
            more, left = self._learn(model, original, solution, solution.removal(chosen), learned, judged)
            notes, skipped = notes + more, skipped + left
        after = layers(model).totals
        artifacts = self._plan_file(model, facts, solution, chosen, result, proof)
        return replace(report, skipped=skipped, notes=notes, after=after, rewrote=True, shrank=True, artifacts=artifacts)

    def cut(self, model: Model) -> float:
        """Only cut `model` in place, as far as possible: nothing is proven, fitted or written.

        Returns the share of the multiply-accumulates that stays. Raises ParamError for options that do not fit the model.
        """
        original, _, solution, groups, _ = self._prepared(model)
        chosen, _ = self._choose(original, solution, groups, self.split(original)[0])
        removed = solution.removal(chosen)
        if chosen.size:
            apply_cut(model, solution, removed)
        return solution.macs(removed) / max(1, solution.macs(solution.removal(np.zeros(0, np.int64))))

    def _prepared(self, model: Model) -> tuple[Model, Layers, Solution, list[Group], list[str]]:
        """Flatten and fold `model` in place: a copy of it then, its layers, all groups, those that may be cut, and notes."""
        notes = flatten(model)
        facts = layers(model)
        if self.macs is not None or self.sparsity_op is not None:
            require_counted(self.name, facts, model.name, partial=self.partial, otherwise="cut a --ratio of the channels")
            notes += [f"the target covers what is known: {gap}" for gap in unknown_operations(facts)]
        if computes_on_constants(model):
            notes.append(f"{fold_all_constants(model)} values computed from constants were folded first")
        named = self._named(facts, model)
        solution = solve(model, cut_norms=self.cut_norms)
        return model.copy(), facts, solution, self._groups(solution, *named), notes

    def _named(self, facts: Layers, model: Model) -> tuple[set[str] | None, set[str]]:
        """The layers of --only (None: all) and of --exclude. Raises ParamError for a pattern that matches no layer."""
        chosen = choose(facts, self.only, "prune-channels: --only", model.name) if self.only else None
        return chosen, choose(facts, self.exclude, "prune-channels: --exclude", model.name)

    def _groups(self, solution: Solution, chosen: set[str] | None, excluded: set[str]) -> list[Group]:
        """The groups with a producing layer in `chosen` (None: all) and none in `excluded`."""
        found = []
        for group in solution.groups:
            makers = {m.node for m in group.members if m.role is Role.PRODUCES} | {group.name}
            if (chosen is None or makers & chosen) and not makers & excluded:
                found.append(group)
        return found

    def _choose(self, model: Model, solution: Solution, groups: list[Group], learned: Samples | None) -> tuple[Labels, list[str]]:
        """The classes to cut, and notes."""
        if self.from_plan is not None:
            return classes_of(read_cuts(self.from_plan), model, solution, self.from_plan), []
        target = self._target()
        rounding = self.round_to or (DEFAULT_ROUNDING if target is None else alignment_of(target, DEFAULT_ROUNDING))
        choice = Choice(self.ratio or DEFAULT_RATIO, self._over_all, rounding, self.min_channels, self.max_share)
        if self._importance == "output":
            assert learned is not None  # `check` requires data
            free = [group for group in groups if len(steps(group, choice)) > 1]
            measuring = Measuring(model, solution, free, learned, budget_bytes(self.memory), self.seed)
            options = ([group.classes.tolist() for group in free], measuring.budget_bytes, self.seed)
            measured = reused("channel curves", model, learned, options, measuring.run)
            chosen = self._by_curves(solution, measured.curves, choice)
            return chosen, list(unmeasured(measured.unmeasured))
        scores = self._scores(model, solution, learned)
        macs = self._most_macs(solution)
        if macs is None:
            return choose_channels(groups, scores, choice), []
        return choose_for_macs(solution, groups, scores, choice, macs), []

    def _by_curves(self, solution: Solution, curves: Sequence[LossCurve], choice: Choice) -> Labels:
        """The classes to cut by predicted loss, or in each group in the order of the curves."""
        macs = self._most_macs(solution)
        if self._over_all:
            return allocate(solution, curves, choice, macs)
        groups, scores = [curve.group for curve in curves], scores_of(curves, solution)
        if macs is None:
            return choose_channels(groups, scores, choice)
        return choose_for_macs(solution, groups, scores, choice, macs)

    def _most_macs(self, solution: Solution) -> int | None:
        """The operations that may stay. None: the target is a share of the channels."""
        share = self.macs if self.sparsity_op is None else 1 - self.sparsity_op
        return None if share is None else int(share * solution.macs(solution.removal(np.zeros(0, np.int64))))

    def _require_reached(self, chosen: Labels, solution: Solution) -> None:
        """Raises ParamError if more operations than the target stay."""
        most, left = self._most_macs(solution), solution.macs(solution.removal(chosen))
        if most is not None and left > most:
            cut = 1 - left / solution.macs(solution.removal(np.zeros(0, np.int64)))
            name = solution.found.model.name
            raise ParamError(f"prune-channels: at most {cut:.1%} of the operations of {name} can be cut; see --plan")

    def _scores(self, model: Model, solution: Solution, learned: Samples | None) -> Scores:
        if self._importance != "activation":
            return weight_importance(model, solution, self._importance)
        assert learned is not None  # `check` requires data
        return activation_importance(weight_importance(model, solution, "l1"), solution, channel_means(model, solution, learned))

    def _learn(
        self, model: Model, original: Model, solution: Solution, removed: Removed, learned: Samples, judged: Samples | None
    ) -> tuple[list[str], list[Skip]]:
        """Fit the weights of the cut `model`, or only its biases; notes, and layers that were not fitted.

        Raises PassError if more than weights or biases change.
        """
        proven, plain = model.copy(), model.copy()
        folded = compensate(plain, original, solution, removed, channel_means(original, solution, learned))
        if self.verify and not only_biases_differ(proven, plain):
            raise PassError("prune-channels: folding expected values changed more than biases")
        if not self.repair:
            model.assign(plain)
            return [f"the expected value of removed channels was folded into {folded} biases"], []
        refit = Refit(model, original, solution, removed, budget_bytes(self.memory), self.seed)
        refit.run(learned)
        if self.verify and not only_fitted_differ(proven, model, refit.fitted):
            raise PassError("prune-channels: the refit changed more than weights and biases")
        return [*refit.notes(), keep_better(original, model, plain, judged, "refit")], list(dict.fromkeys(refit.skipped))

    def _prove(self, original: Model, solution: Solution, chosen: Labels, cut: Model) -> Proof:
        try:
            proof = prove(original, solution, chosen, cut)
        except (BackendError, ParamError) as error:
            raise PassError(f"prune-channels: the cut cannot be proven ({error}); --no-verify writes it unproven") from None
        if not proof.holds:
            where = "" if proof.worst_node is None else f", {proof.worst_node.node} by {proof.worst_node.error:.1e}"
            off = f"off by {proof.output_error:.1e}{where}"
            raise PassError(f"prune-channels: the cut model is not the original without the cut channels: {off}")
        return proof

    def _plan_file(
        self, model: Model, facts: Layers, solution: Solution, chosen: Labels, result: CutResult, proof: Proof | None
    ) -> dict[Path, ArtifactWriter]:
        if self.json is None:
            return {}
        content = plan_json(model, facts, solution, chosen, result, proof)
        return {self.json: text_writer(f"{json_format.dumps(content, indent=1)}\n")}

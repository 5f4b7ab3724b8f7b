"""Removal of whole channels: smaller tensors, the same inputs and outputs.

1. Find the groups of channels that can only be removed together (`channels.groups.solve`).
2. Choose channels by importance, up to a ratio or a share of the MACs, or read them from a plan (`_choose`).
3. Cut every tensor along the axes of the chosen channels (`channels.cut`).
4. Prove in onnxruntime that the result is the original without these channels (`channels.proof`).
5. With calibration data, add the expected value of the removed channels to biases (`channels.statistics`).
"""

import json as json_format
from collections import Counter
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
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Group, Solution, solve
from onnxsparse.channels.importance import Scores, activation_importance, weight_importance
from onnxsparse.channels.plan import classes_of, macs_at_stake, plan_json, read_cuts
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.selection import Choice, choose_channels, choose_for_macs
from onnxsparse.channels.statistics import ChannelMeans, channel_means, compensate, only_biases_differ
from onnxsparse.channels.versions import CutResult
from onnxsparse.cost.backends.hardware import alignment_of, names
from onnxsparse.cost.registry import HardwareTarget
from onnxsparse.errors import BackendError, ParamError, PassError
from onnxsparse.folding import computes_on_constants, fold_all_constants
from onnxsparse.format import format_count
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, reading
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Labels
from onnxsparse.pipeline.base import OLD_NAME, OPTIONS, StepReport, described, named_target
from onnxsparse.pipeline.learning import Learns
from onnxsparse.pruning.coverage import require_counted, unknown_operations
from onnxsparse.records import ArtifactWriter, Skip, TextTable, text_writer
from onnxsparse.runtime.samples import Samples

DEFAULT_RATIO = 0.5
"""Share of every group's channels to cut without an explicit target."""

DEFAULT_ROUNDING = 8
"""Channels of a group stay a multiple of this without a target's alignment; vector units commonly handle 8 at a time."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class PruneChannels(Learns):
    """Remove whole channels from the model, rewrite all shapes, and prove in onnxruntime that nothing else has changed.

    The result computes what the original computes without the removed channels. Shapes of inputs and outputs stay as they are.
    """

    name: ClassVar[str] = "prune-channels"
    changes_outputs: ClassVar[bool] = True

    ratio: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of each group's channels to cut, 0 to 1 (default: 0.5)."""
    macs: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of the multiply-accumulates to keep at most, 0 to 1, in place of --ratio."""
    sparsity_op: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Share of the operations to cut, 0 to 1, in place of --ratio; the same as --macs with 1 minus it."""
    importance: Literal["l1", "l2", "bn-scale", "activation"] = "l1"
    """Importance of a channel: its weights (l1, l2), its BatchNormalization scale, or its activations on --data."""
    scope: Literal["group", "all"] = "group"
    """Where the share holds: in every group (group), or over all groups, least important channels first (all)."""
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
    """Old name of --data, on which the mean of each removed channel is measured, to fold it into biases."""
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
        if self.importance == "activation" and self.data is None and self.calibration is None:
            raise ParamError("prune-channels: --importance activation needs --data")
        self._target()

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
        notes = flatten(model)
        facts = layers(model)
        if self.macs is not None or self.sparsity_op is not None:
            require_counted(self.name, facts, model.name, partial=self.partial, otherwise="cut a --ratio of the channels")
            notes += [f"the target covers what is known: {gap}" for gap in unknown_operations(facts)]
        if computes_on_constants(model):
            notes.append(f"{fold_all_constants(model)} values computed from constants were folded first")
        named = self._named(facts, model)
        solution = solve(model, cut_norms=self.cut_norms)
        groups = self._groups(solution, *named)
        original = model.copy()
        means = self._means(original, solution)
        chosen = self._choose(model, solution, groups, means)
        skipped = [Skip(f.node, f"{f.channels} of {f.of} outputs stay: {f.reason}") for f in solution.frozen()]
        report = StepReport(self.name, skipped=skipped, notes=notes, before=facts.totals, after=facts.totals)
        if self.plan:
            # the cut is made on the copy, so that the model stays as it is
            result = apply_cut(original, solution, solution.removal(chosen))
            report = replace(report, tables=(groups_table(solution, chosen),), dry=True)
            return replace(report, artifacts=self._plan_file(model, facts, solution, chosen, result, None))
        if not chosen.size:
            raise ParamError(f"prune-channels: nothing can be cut from {model.name}: {self._why_nothing(solution, groups)}")
        result = apply_cut(model, solution, solution.removal(chosen))
        proof = self._prove(original, solution, chosen, model) if self.verify else None
        notes += list(told(solution, chosen, result, proof))
        if means is not None:
            proven = model.copy()
            folded = compensate(model, original, solution, solution.removal(chosen), means)
            if self.verify and not only_biases_differ(proven, model):
                raise PassError("prune-channels: folding expected values changed more than biases")
            notes.append(f"the expected value of removed channels was folded into {folded} biases")
        after = layers(model).totals
        artifacts = self._plan_file(model, facts, solution, chosen, result, proof)
        return replace(report, notes=notes, after=after, rewrote=True, shrank=True, artifacts=artifacts)

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

    def _means(self, original: Model, solution: Solution) -> dict[str, ChannelMeans] | None:
        learned, _ = self.split(original)
        return None if learned is None else channel_means(original, solution, learned)

    def _choose(self, model: Model, solution: Solution, groups: list[Group], means: dict[str, ChannelMeans] | None) -> Labels:
        if self.from_plan is not None:
            return classes_of(read_cuts(self.from_plan), model, solution, self.from_plan)
        scores = self._scores(model, solution, means)
        target = self._target()
        rounding = self.round_to or (DEFAULT_ROUNDING if target is None else alignment_of(target, DEFAULT_ROUNDING))
        choice = Choice(self.ratio or DEFAULT_RATIO, self.scope == "all", rounding, self.min_channels, self.max_share)
        share = self.macs if self.sparsity_op is None else 1 - self.sparsity_op
        if share is None:
            return choose_channels(groups, scores, choice)
        before = solution.macs(solution.removal(np.zeros(0, np.int64)))
        chosen = choose_for_macs(solution, groups, scores, choice, round(share * before))
        left = solution.macs(solution.removal(chosen))
        if left > share * before:
            raise ParamError(
                f"prune-channels: at most {1 - left / before:.1%} of the operations of {model.name} can be cut; see --plan"
            )
        return chosen

    def _scores(self, model: Model, solution: Solution, means: dict[str, ChannelMeans] | None) -> Scores:
        if self.importance != "activation":
            return weight_importance(model, solution, self.importance)
        assert means is not None
        return activation_importance(weight_importance(model, solution, "l1"), solution, means)

    def _why_nothing(self, solution: Solution, groups: list[Group]) -> str:
        if not solution.groups:
            reasons = Counter(f.reason.split(" (")[0] for f in solution.frozen()) or Counter(solution.found.stopped.values())
            why = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3)) or "it has no layers with weights"
            open_sizes = "; ".join(solution.found.model.binding.unbound) if solution.found.open_sizes else ""
            hint = f"give the open sizes with --input-shape ({open_sizes})" if open_sizes else "see --plan"
            return f"all channels have to stay ({why}); {hint}"
        if not groups:
            return "--only and --exclude leave nothing"
        largest = max(int(group.classes.size) * group.width for group in groups)
        return f"no group gets smaller when it is rounded to --round-to (the largest has {largest} channels); see --plan"

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


def told(solution: Solution, chosen: Labels, result: CutResult, proof: Proof | None) -> list[str]:
    """Notes for the user: how much was cut, which tensors were copied, and what the proof showed (None: it was not made)."""
    groups = sum(bool(np.isin(group.classes, chosen).any()) for group in solution.groups)
    notes = [f"{chosen.size} channels of {groups} groups were cut from {len({c.tensor for c in result.cuts})} tensors"]
    if result.copied:
        some = ", ".join(result.copied[:3]) + ("…" if len(result.copied) > 3 else "")
        notes.append(f"{len(result.copied)} tensors were copied, since the nodes that use them are cut differently: {some}")
    if proof is None:
        notes.append("the cut was not proven (--no-verify)")
        return notes
    worst = 0.0 if proof.worst_node is None else proof.worst_node.error
    notes.append(
        f"proven in onnxruntime: outputs equal the original's without those channels to {proof.output_error:.1e}, "
        f"each of {proof.nodes} nodes alone to {worst:.1e}"
    )
    if not proof.sensitive:
        notes.append(
            f"but other channels would have changed the outputs by only {proof.moved:.1e}, so that equal outputs prove little"
        )
    elif proof.rescaled:
        notes.append("the weights were rescaled for the proof: unscaled, no choice of channels changes the outputs")
    return notes


def groups_table(solution: Solution, chosen: Labels) -> TextTable:
    """One row per group of channels; "to cut" counts its channels in `chosen`."""
    rows = [
        (
            group.name,
            str(group.classes.size),
            str(group.width),
            str(int(np.isin(group.classes, chosen).sum())),
            format_count(macs_at_stake(solution, group)),
            str(len(group.members)),
        )
        for group in solution.groups
    ]
    return TextTable("groups", ("group", "channels", "width", "to cut", "MACs at stake", "tensors"), tuple(rows))

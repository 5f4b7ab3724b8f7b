"""Which passes there are: name → where its class is and one line about it, so that `--help` imports none of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from onnxsparse.errors import ParamError

if TYPE_CHECKING:
    from onnxsparse.pipeline.base import Pass


@dataclass(frozen=True)
class Entry:
    """`target` is `module:Class`; `summary` is the first line of the class's docstring (a test compares)."""

    target: str
    summary: str

    def load(self) -> "type[Pass]":
        module, _, name = self.target.partition(":")
        return cast("type[Pass]", getattr(import_module(module), name))


BUILT_IN = {
    "prune": Entry("onnxsparse.passes.prune:Prune", "Zero the weights that matter least until the target is reached."),
    "prune-channels": Entry(
        "onnxsparse.passes.prune_channels:PruneChannels",
        "Cut whole channels out of the model, every shape rewritten, and prove in onnxruntime that nothing else has changed.",
    ),
    "quantize": Entry(
        "onnxsparse.passes.quantize:Quantize",
        "Make an int8 model of a float one, for the CV22 or for onnxruntime, with scales that calibration data says.",
    ),
    "apply-masks": Entry(
        "onnxsparse.passes.apply_masks:ApplyMasks",
        "Zero the weights that the masks of an earlier `prune --masks` leave out, found by name and shape.",
    ),
    "fold": Entry(
        "onnxsparse.passes.fold:Fold",
        "Fold batch normalisation and constant expressions into the weights, and remove Identity and Dropout.",
    ),
    "fix-shapes": Entry(
        "onnxsparse.passes.fix_shapes:FixShapes",
        "Write the input sizes that are bound (by --input-shape, --dim, or assumed) into the file, and all shapes that follow.",
    ),
    "annotate": Entry(
        "onnxsparse.passes.annotate:Annotate",
        "Write each node's MACs, sparsity and share of sparsity_op into its metadata, where Netron shows them.",
    ),
    "report": Entry(
        "onnxsparse.passes.report:Report",
        "Predict what the model costs on a target, and write the report to files; the model stays as it is.",
    ),
    "strip": Entry("onnxsparse.passes.strip:Strip", "Take the annotations of `annotate` off the model; other metadata stays."),
}


GROUP = "onnxsparse.passes"
"""Entry points of third parties: pass name → `module:Class`."""


@cache
def passes() -> dict[str, Entry]:
    """The passes there are, the built-in ones first; a name that is taken stays whose it was."""
    found = dict(BUILT_IN)
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, Entry(point.value, f"(from {point.dist.name if point.dist else point.module})"))
    return found


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'prune'?` for a name that is nearly one of those known, else nothing."""
    like = {option.replace("_", "-"): option for option in known}
    found = get_close_matches(str(name).replace("_", "-"), like, n=1)
    return f"; did you mean '{like[found[0]]}'?" if found else ""


def find_pass(name: str) -> "type[Pass]":
    """The class of a pass. Raises ParamError for a name that is none, or a third party's that cannot be loaded."""
    if name not in passes():
        raise ParamError(f"there is no pass '{name}'; there are {', '.join(passes())}{did_you_mean(name, passes())}")
    entry = passes()[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ParamError(f"the pass '{name}' {entry.summary} cannot be loaded: {error}") from None

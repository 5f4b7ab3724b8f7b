"""The known passes: name → location of the class and one line of help, so that `--help` imports none of them."""

from collections.abc import Iterable, Sequence
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
    """A pass that is not imported yet."""

    target: str
    """Location of the class: `module:Class`."""
    summary: str
    """First line of the class's docstring; tests/test_house.py compares them."""

    def load(self) -> "type[Pass]":
        """Import the class. ImportError or AttributeError leaves it if the location does not exist."""
        module, _, name = self.target.partition(":")
        return cast("type[Pass]", getattr(import_module(module), name))


BUILT_IN = {
    "prune": Entry("onnxsparse.passes.prune:Prune", "Zero the weights that matter least until the target is reached."),
    "prune-channels": Entry(
        "onnxsparse.passes.prune_channels:PruneChannels",
        "Remove whole channels from the model, rewrite all shapes, and prove in onnxruntime that nothing else has changed.",
    ),
    "sensitivity": Entry(
        "onnxsparse.passes.sensitivity:Sensitivity",
        "Measure on data what pruning costs each layer, and how much the model's outputs feel it; the model stays as it is.",
    ),
    "quantize": Entry(
        "onnxsparse.passes.quantize:Quantize",
        "Quantize a float model to int8, for the CV22 or onnxruntime, with scales chosen on calibration data.",
    ),
    "apply-masks": Entry(
        "onnxsparse.passes.apply_masks:ApplyMasks",
        "Zero the weights that the masks of an earlier `prune --masks` exclude; weights are found by name and shape.",
    ),
    "fold": Entry(
        "onnxsparse.passes.fold:Fold",
        "Fold batch normalisation and constant expressions into the weights, and remove Identity and Dropout.",
    ),
    "fix-shapes": Entry(
        "onnxsparse.passes.fix_shapes:FixShapes",
        "Write the bound input sizes (--input-shape, --dim, or assumed) and all shapes that follow from them into the file.",
    ),
    "annotate": Entry(
        "onnxsparse.passes.annotate:Annotate",
        "Write each node's MACs, sparsity and share of sparsity_op into its metadata, where Netron shows them.",
    ),
    "report": Entry(
        "onnxsparse.passes.report:Report",
        "Predict what the model costs on a target, and write the report to files; the model stays as it is.",
    ),
    "strip": Entry("onnxsparse.passes.strip:Strip", "Remove the annotations of `annotate` from the model; other metadata stays."),
}


GROUP = "onnxsparse.passes"
"""Entry-point group in which other packages register passes: pass name → `module:Class`."""


@cache
def passes() -> dict[str, Entry]:
    """Name → pass, the built-in ones first. A name that is registered twice keeps its first pass."""
    found = dict(BUILT_IN)
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, Entry(point.value, f"(from {point.dist.name if point.dist else point.module})"))
    return found


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'prune'?` if `name` is similar to one of `known`, else an empty string."""
    like = {option.replace("_", "-"): option for option in known}
    found = get_close_matches(str(name).replace("_", "-"), like, n=1)
    return f"; did you mean '{like[found[0]]}'?" if found else ""


def find_pass(name: str, also: Sequence[str] = ()) -> "type[Pass]":
    """The class of a pass. `also`: other steps to offer in the message.

    Raises ParamError for an unknown name, or if another package's pass cannot be imported.
    """
    if name not in passes():
        known = (*passes(), *also)
        raise ParamError(f"there is no pass '{name}'; there are {', '.join(known)}{did_you_mean(name, known)}")
    entry = passes()[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ParamError(f"the pass '{name}' {entry.summary} cannot be loaded: {error}") from None

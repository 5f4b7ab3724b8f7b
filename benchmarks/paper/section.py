"""One section of docs/paper.md: a claim of the paper, what was measured, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Spec = Mapping[str, object]
"""A figure as a Vega-Lite specification."""


@dataclass(frozen=True)
class Section:
    """`name`: short, for file names. `verdict`: begins with "holds", "holds under variant", "differs, because" or "cannot be
    tested here, because". `lines`: Markdown that follows the verdict, tables included. `figures`: name → figure, below the lines.
    """

    name: str
    title: str
    claim: str
    verdict: str
    lines: Sequence[str]
    figures: Mapping[str, Spec] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What sections have at hand. `work`: a folder for models on the way. `eval`: a folder with networks and labelled data that
    this project does not ship (resnet20_cifar10.onnx, cifar10_calib512.npz, cifar10_test2000.npz, rfb320.onnx); None: without.
    `quick`: fewer points, for the test that compares page and script.
    """

    work: Path
    eval: Path | None = None
    quick: bool = False

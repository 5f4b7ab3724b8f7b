"""What a pass is: its options, one `run`, and a report of what it did."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from cyclopts import Parameter
from pydantic import BeforeValidator, ConfigDict

from onnxsparse.analysis.layer import Totals
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.records import ArtifactWriter, Change, Skip, TextTable
from onnxsparse.runtime.judge import Verdict

OPTIONS = ConfigDict(use_attribute_docstrings=True, extra="forbid", arbitrary_types_allowed=False)
"""Configuration of every pass's pydantic dataclass: a field's docstring is its help, and an unknown option is an error."""


def from_text(given: object) -> object:
    """Decimal text as an integer, anything else unchanged: a command line gives text, which `Literal[8, 16]` does not accept."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


Bits = Annotated[Literal[8, 16], BeforeValidator(from_text)]
"""Width of an integer in bits."""

WeightBits = Annotated[Literal[4, 7, 8, 16], BeforeValidator(from_text)]
"""Width of a weight in bits; 7 bits are stored in 8 and use half of their range."""

OLD_NAME = Parameter(show=False)
"""Marks the former name of a renamed option: it still works, but the help does not show it."""


def described(text: str) -> dict[str, str]:
    """Metadata of a field whose help is computed, in place of a docstring: for pydantic, and for the command line."""
    return {"description": text, "help": text}


def named_target(command: str, default: str | None, /, **given: str | Path | None) -> str | None:
    """The target that the options of a command name, by whichever of an option's names; `default` where none does.

    Raises ParamError where two options name different targets.
    """
    named = {option: str(value) for option, value in given.items() if value is not None and str(value) != default}
    if len(set(named.values())) > 1:
        options = " and ".join(f"--{option} {value}" for option, value in named.items())
        raise ParamError(f"{command}: {options} are two targets; name one")
    return next(iter(named.values()), default)


BYTES = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def budget_bytes(text: str) -> int:
    """Bytes of a text such as `512MB` (decimal units). Raises ParamError for another form, or 0."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([KMG]?B)\s*", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise ParamError(f"--memory {text}: write it as 512MB or 2GB")
    return int(float(found[1]) * BYTES[found[2].upper()])


@dataclass(frozen=True)
class StepReport:
    """What one pass did to one model."""

    pass_name: str
    changes: Sequence[Change] = ()
    """Weight tensors whose values changed."""
    skipped: Sequence[Skip] = ()
    """Nodes that the pass left unchanged, each with the reason."""
    notes: Sequence[str] = ()
    """Sentences for the user."""
    before: Totals | None = None
    """Totals of the layers before the pass; None for a pass that does not compute them."""
    after: Totals | None = None
    """Totals of the layers after the pass; None likewise."""
    artifacts: dict[Path, ArtifactWriter] = field(default_factory=dict)
    """Output files besides the model: path → a function that writes the file. The pipeline calls it."""
    tables: Sequence[TextTable] = ()
    """Tables to print."""
    dry: bool = False
    """Whether the pass only inspected the model, so that only its artifacts are written."""
    verdict: Verdict | None = None
    """The verdict of a check; None for a pass."""
    saves: dict[Path, Model] = field(default_factory=dict)
    """Models to write besides the last: path → model. None of them is written after a failed check."""
    reused: bool = False
    """Whether the result of an earlier run was reused."""
    runs_here: bool = False
    """Whether the model is meant for onnxruntime on this kind of processor, and is also compared as it runs here."""
    rewrote: bool = False
    """Whether the pass changed more than the values of weights."""
    shrank: bool = False
    """Whether the model has fewer channels or narrower numbers now, so that its file is smaller and it runs faster."""
    advice: str | None = None
    """What to do next with a model that no step has shrunk; None: nothing particular."""
    seconds: float | None = None
    """Elapsed time; filled in by the pipeline."""
    peak_memory_bytes: int | None = None
    """Peak memory of the process up to the end of the pass; filled in by the pipeline."""


class Pass(Protocol):
    """A transformation of a model in place. A pass is a frozen dataclass: its fields are its options, its docstring its help.

    The roles in the types of fields (`ir.option_roles`) are checked before the first pass of a pipeline runs. Optional members:

    - `check(self)` raises ParamError for options that do not go together;
    - `check_model(self, model)` raises ParamError or ModelError for options that do not fit the model. It is called before any
      pass runs, unless an earlier pass has `changes_inputs`;
    - `dry`: whether the pass will only inspect the model, so that no model is written;
    - `changes_inputs`: whether the inputs of the model are different afterwards;
    - `fixes_sizes`: whether the sizes of inputs are fixed afterwards, so that a comparison which onnxruntime refuses to run for
      these sizes is an error.
    """

    name: ClassVar[str]
    """The pass's name on the command line and in recipes."""
    changes_outputs: ClassVar[bool]
    """Whether the outputs of the model may differ afterwards."""

    def run(self, model: Model) -> StepReport:
        """Change `model` in place. Raises ParamError, ModelError or PassError and leaves the model in an unspecified state."""

"""What a pass is: its options, one `run`, and a report of what it did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import BeforeValidator, ConfigDict

from onnxsparse.analysis.layer import Totals
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.records import ArtifactWriter, Change, Skip, TextTable

OPTIONS = ConfigDict(use_attribute_docstrings=True, extra="forbid", arbitrary_types_allowed=False)
"""Of every pass's pydantic dataclass: a field's docstring is its help, an unknown option an error."""


def from_text(given: object) -> object:
    """A command line gives text, which a choice of numbers does not take."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


Bits = Annotated[Literal[8, 16], BeforeValidator(from_text)]
"""Of an integer."""

WeightBits = Annotated[Literal[7, 8, 16], BeforeValidator(from_text)]


@dataclass(frozen=True)
class StepReport:
    """What one pass did to one model.

    `artifacts` are what it made besides the model: target file → a function that writes it, which the pipeline calls.
    `before` and `after` are None for a pass that does not look at layers. The pipeline fills in `seconds` (elapsed) and
    `peak_memory_bytes` (of the process, up to the end of the pass).
    """

    pass_name: str
    changes: Sequence[Change] = ()
    skipped: Sequence[Skip] = ()
    notes: Sequence[str] = ()
    before: Totals | None = None
    after: Totals | None = None
    artifacts: dict[Path, ArtifactWriter] = field(default_factory=dict)
    tables: Sequence[TextTable] = ()
    dry: bool = False
    """Whether it only looked: nothing is to be written but its artifacts."""
    feeds: Sequence[dict[str, Array]] = ()
    """Inputs that say more of the model than random ones: what to compare outputs on if the caller names none."""
    runs_here: bool = False
    """Whether the model was made for onnxruntime on a processor like this one, so that it is to be tried on it."""
    rewrote: bool = False
    """Whether more than weights was changed."""
    seconds: float | None = None
    peak_memory_bytes: int | None = None


class Pass(Protocol):
    """A transformation of a model in place. A pass is a frozen dataclass: its fields are its options, its docstring its help.

    What a field's type says (`ir.option_roles`) is checked before the first pass of a pipeline runs. A pass may define more:

    - `check(self)` raises ParamError for options that do not go together;
    - `check_model(self, model)` raises for options that do not fit the model, which only passes before it may have changed;
    - `dry`, whether it will only look, so that there is no model to write;
    - `changes_inputs`, whether the model takes other inputs afterwards.
    """

    name: ClassVar[str]
    changes_outputs: ClassVar[bool]
    """Whether the model computes something else afterwards."""

    def run(self, model: Model) -> StepReport:
        """Change `model`. Raises ParamError, ModelError or PassError with the model in an unspecified state."""

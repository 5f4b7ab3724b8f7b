"""Cost backends by target: shipped targets, TOML files, backends that measure, and those of other packages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Protocol, cast

from onnxsparse.cost.backends.base import EIGHT_BIT, CostBackend, Described, Precision
from onnxsparse.cost.backends.hardware import load_hardware, names
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role
from onnxsparse.targets.files import target_paths

GROUP = "onnxsparse.backends"
"""Entry-point group of other packages: target name → `module:function`, which takes a Precision and returns a Backend."""

MEASURING = {"onnxruntime-cpu": "onnxsparse.cost.profiler:OnnxruntimeCpu"}
"""Built-in backends that measure: target name → `module:class`, imported on use."""


@dataclass(frozen=True)
class Measurement:
    """Measured milliseconds per inference: of each work item that could be identified, by node, and of everything else."""

    latency_ms: dict[str, float]
    other_ms: float


class MeasuringBackend(Described, Protocol):
    """Runs a model and measures its work items."""

    def measure(self, model: Model, load: Workload) -> Measurement:
        """The time of every work item of `load`. Raises BackendError if the model cannot run."""


Backend = CostBackend | MeasuringBackend


@cache
def third_parties() -> dict[str, EntryPoint]:
    """The entry points of other packages, by target name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find_backend(target: str | Path, precision: Precision = EIGHT_BIT) -> Backend:
    """The backend of a target's name or file, for a precision.

    Raises ParamError for an unknown target, a file that is not valid, or another package's backend that cannot be imported.
    """
    name = str(target)
    if name in MEASURING:
        return load_point(EntryPoint(name, MEASURING[name], GROUP), precision)
    if name in third_parties() and name not in names():
        return load_point(third_parties()[name], precision)
    return make_backend(load_hardware(target, also=(*MEASURING, *third_parties())), precision)


def predicting_backend(target: str | Path, command: str) -> CostBackend:
    """The backend of a target that predicts costs. Raises ParamError for one that measures, and as `find_backend` does."""
    found = find_backend(target)
    if not hasattr(found, "cost"):
        raise ParamError(f"{command}: --target {target} measures models; name a target that predicts their cost")
    return cast(CostBackend, found)


def load_point(point: EntryPoint, precision: Precision) -> Backend:
    """Import a backend and make it for a precision. Raises ParamError if the import fails."""
    try:
        made = cast(Callable[[Precision], Backend], point.load())
    except (ImportError, AttributeError) as error:
        raise ParamError(f"the backend '{point.name}' ({point.value}) cannot be loaded: {error}") from None
    return made(precision)


def backend_names() -> list[str]:
    """Every target that has a cost: shipped ones, those that measure, and other packages'."""
    return [*names(), *MEASURING, *(name for name in third_parties() if name not in names())]


def backend_paths(target: str | Path) -> tuple[Path, ...]:
    """The file that a target's path names; empty for a target's name."""
    return target_paths(target, also=backend_names())


CostTarget = Annotated[str, Role(lambda target, _option: find_backend(target), reads=backend_paths)]
"""A target with a cost: a name, or a TOML file."""

HardwareTarget = Annotated[str, Role(lambda target, _option: load_hardware(target), reads=target_paths)]
"""A target with a `[cost]` section: the name of a shipped one, or a TOML file."""

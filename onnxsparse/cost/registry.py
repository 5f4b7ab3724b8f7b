"""Targets by name: those that come with the package, files, what measures instead of predicting, and third parties'."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Protocol, cast

from onnxsparse.cost.backends.base import EIGHT_BIT, CostBackend, Precision
from onnxsparse.cost.backends.hardware import load_hardware, names
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role
from onnxsparse.targets.files import target_paths

GROUP = "onnxsparse.backends"
"""Entry points of third parties: target name → `module:function`, called with a Precision, returning a backend of either kind."""

MEASURING = {"onnxruntime-cpu": "onnxsparse.cost.profiler:OnnxruntimeCpu"}


@dataclass(frozen=True)
class Measurement:
    """Milliseconds per inference of each work item (by node) that could be told apart, and of everything else."""

    latency_ms: dict[str, float]
    other_ms: float


class MeasuringBackend(Protocol):
    """Runs a model and says how long its parts took."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def fidelity(self) -> tuple[str, ...]: ...

    def measure(self, model: Model, load: Workload) -> Measurement:
        """Raises BackendError where the model does not run."""


Backend = CostBackend | MeasuringBackend


@cache
def third_parties() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def find_backend(target: str | Path, precision: Precision = EIGHT_BIT) -> Backend:
    """The backend for a target's name or file. Raises ParamError for one that is neither."""
    name = str(target)
    if name in MEASURING:
        module, _, attribute = MEASURING[name].partition(":")
        return load_point(EntryPoint(name, f"{module}:{attribute}", GROUP), precision)
    if name in third_parties() and name not in names():
        return load_point(third_parties()[name], precision)
    return make_backend(load_hardware(target, also=(*MEASURING, *third_parties())), precision)


def load_point(point: EntryPoint, precision: Precision) -> Backend:
    """The backend of another package's entry point. Raises ParamError if it cannot be imported."""
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

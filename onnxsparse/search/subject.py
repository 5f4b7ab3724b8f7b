"""What is searched for: the model, the data, the budgets. Workers get it with every trial."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from onnxsparse.calibration.data import data_files
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.registry import backend_paths, predicting_backend
from onnxsparse.ir.model import Model, load
from onnxsparse.ir.option_roles import split_key
from onnxsparse.parallel.files import below
from onnxsparse.pipeline.cache import code, digest, versions
from onnxsparse.pipeline.learning import Judging
from onnxsparse.runtime.metric import metric_files
from onnxsparse.search.budgets import Budget, Budgets

PATHS = ("model", "data", "test", "preprocess", "labels")
"""The fields that name files."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model, its data, and what is wanted. Files, sizes and metric are as the options of the same names take them."""

    model: Path
    data: Path
    test: Path | None = None
    preprocess: Path | None = None
    labels: Path | None = None
    metric: str | None = None
    max_drop: float | None = None
    input_shape: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()
    target: str = "cv22"
    budgets: tuple[Budget, ...] = ()
    optimistic: bool = False
    quantize: bool = False
    by_drop: bool = False
    """Whether `budgets` only say how far to go, and the largest drop of the metric is what limits."""
    seed: int = 0
    memory: str = "2GB"

    def load(self) -> Model:
        """The model with its sizes bound. Raises ModelError and ParamError as `load` and `bind` do."""
        return load(self.model).bind(self.input_shape, self.dim)

    @property
    def backend(self) -> CostBackend:
        """The backend that predicts costs. Raises ParamError for a target that measures, or an unknown one."""
        return predicting_backend(self.target, "search")

    @property
    def costs(self) -> Budgets:
        """The budgets on the target."""
        return Budgets(self.budgets, self.backend, self.optimistic)

    @property
    def harm(self) -> str:
        """What a search minimises, in words."""
        return "divergence of the outputs" if self.metric is None else f"drop of {Path(self.metric).name}"

    @property
    def judging(self) -> Judging:
        """What trials are judged on; they are compared by the search itself."""
        return Judging(
            data=self.data, test=self.test, preprocess=self.preprocess, metric=self.metric, labels=self.labels, compare=False
        )

    def files(self) -> list[Path]:
        """All files that the search reads."""
        model = [self.model, *sorted(self.load().weights.side_files())]
        return [*model, *self._data_files(), *self._other_files()]

    def _data_files(self) -> list[Path]:
        return [file for source in (self.data, self.test) if source is not None for file in data_files(source)]

    def _other_files(self) -> list[Path]:
        found = [] if self.preprocess is None else [self.preprocess]
        found += [] if self.labels is None else [split_key(self.labels)[0]]
        found += [] if self.metric is None else [*metric_files(self.metric)]
        return found + list(backend_paths(self.target))

    def data_digest(self) -> str:
        """A digest of the data and of how it becomes inputs."""
        files = self._data_files() + ([] if self.preprocess is None else [self.preprocess])
        return digest(["" if self.preprocess is None else "preprocess"], files)

    def digest(self) -> str:
        """A digest of all that results depend on, besides the trial. Raises ModelError and ParamError as `load` does."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in PATHS}
        return digest([code(), *versions(), repr(sorted(plain.items())), repr(self.test is not None)], self.files())

    def absolute(self) -> Self:
        """With paths that do not depend on the working directory."""
        return self.moved(Path(self.model.absolute().anchor))

    def moved(self, root: Path) -> Self:
        """With every path below `root` instead of below the root of the file system."""
        given = {name: getattr(self, name) for name in PATHS if getattr(self, name) is not None}
        changes: dict[str, object] = {name: below(root, path.absolute()) for name, path in given.items()}
        if backend_paths(self.target):
            changes["target"] = str(below(root, Path(self.target).absolute()))
        if self.metric is not None and metric_files(self.metric):
            file, _, function = self.metric.rpartition(":")
            changes["metric"] = f"{below(root, Path(file).absolute())}:{function}"
        return replace(self, **changes)  # type: ignore[arg-type]  # names are fields, and values have their types

    def recipe_head(self) -> Iterator[tuple[str, object]]:
        """The keys of a recipe besides its passes, with paths that hold in every folder."""
        for name in ("data", "test", "preprocess", "labels"):
            path: Path | None = getattr(self, name)
            if path is not None:
                yield name, str(path.absolute())
        for name in ("input_shape", "dim"):
            if getattr(self, name):
                yield name, list(getattr(self, name))

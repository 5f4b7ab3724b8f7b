"""Results of finished passes, kept on disk, so that a pipeline goes on where an earlier run of it stopped.

The key of a result is a hash of all it depends on: the model's files and input sizes, the options of this pass and of all before
it, the content of the files that they name (data, targets, patterns), the code of the package and of the passes, and the
versions of what computes. An entry is a folder, renamed into place when it is complete.
"""

import hashlib
import inspect
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Self

from pydantic import TypeAdapter

import onnxsparse
from onnxsparse.errors import OnnxSparseError
from onnxsparse.ir.model import Model, load
from onnxsparse.ir.option_roles import given_options, unnamed_paths
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.check import Check, Save, Step
from onnxsparse.records import ArtifactWriter

LIMIT_BYTES = 8 * 10**9
"""Largest size of a cache; the entries that were unused longest are removed."""

MODEL, REPORT = "model.onnx", "report.pickle"
"""Files of an entry, besides artifacts, which are numbered."""

COMPUTING = ("onnx", "onnxruntime", "numpy", "pillow", "onnx-graphsurgeon")
"""Packages whose versions results depend on."""

REUSED = "its result is reused from an earlier run; --no-cache runs it again"


def cache_folder() -> Path:
    """The folder of the cache: `onnxsparse` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxsparse"


@dataclass(frozen=True)
class Cache:
    """Finished passes in a folder. A folder that cannot be written is no error: nothing is stored then."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def find(self, key: str) -> tuple[Model, StepReport] | None:
        """The model after a pass, and its report; None if it is not there, or cannot be read."""
        entry = self.folder / key
        with suppress(OSError, OnnxSparseError, pickle.UnpicklingError, EOFError, AttributeError, ImportError):
            report: StepReport = pickle.loads((entry / REPORT).read_bytes())
            made = load(entry / MODEL)
            os.utime(entry)
            artifacts = {path: copier(entry / str(at)) for at, path in enumerate(report.artifacts)}
            return made, replace(report, artifacts=artifacts, notes=(*report.notes, REUSED), reused=True)
        return None

    def store(self, key: str, model: Model, report: StepReport) -> None:
        """Keep a result, if the folder can be written and the model is not larger than the limit."""
        if model.written_bytes > self.limit_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as place:
                made = Path(place) / "entry"
                made.mkdir()
                fill(made, model, report)
                with suppress(OSError):  # another run has stored the same
                    made.rename(self.folder / key)
        except (OSError, OnnxSparseError, pickle.PicklingError):
            return
        self.trim()

    def trim(self) -> None:
        """Remove the entries that were unused longest until the cache fits its limit."""
        entries = sorted((p for p in self.folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
        total = 0
        for entry in entries:
            total += sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            if total > self.limit_bytes:
                shutil.rmtree(entry, ignore_errors=True)


def fill(entry: Path, model: Model, report: StepReport) -> None:
    """Write a result into a new folder."""
    for at, writer in enumerate(report.artifacts.values()):
        with (entry / str(at)).open("wb") as file:
            writer(file)
    plain = replace(report, artifacts=dict.fromkeys(report.artifacts))  # type: ignore[arg-type]  # writers cannot be pickled
    (entry / REPORT).write_bytes(pickle.dumps(plain))
    model.save(entry / MODEL)


def copier(source: Path) -> ArtifactWriter:
    """A writer of the content of a file, which is opened now and may be deleted before it is written. Raises OSError."""
    stored = source.open("rb")

    def write(file: IO[bytes]) -> None:
        """Copy the file's bytes."""
        stored.seek(0)
        shutil.copyfileobj(stored, file)

    return write


@dataclass
class Progress:
    """How far a pipeline has come: the key of the model as it is now. `key` None: nothing is looked up or stored."""

    cache: Cache | None
    key: str | None

    @classmethod
    def of(cls, model: Model, cache: Cache | None) -> Self:
        """The start of a pipeline on a model that was loaded from a file."""
        if cache is None or model.path is None:
            return cls(cache, None)
        sizes = repr(sorted(model.binding.shapes.items()))
        return cls(cache, digest([*versions(), code(), sizes], [model.path, *sorted(model.weights.side_files())]))

    def find(self, step: Step, model: Model) -> StepReport | None:
        """The report of an earlier run of `step`, whose result `model` then has; None if there is none."""
        self.key = self._next(step)
        found = None if self.key is None or self.cache is None or not is_kept(step) else self.cache.find(self.key)
        if found is None:
            return None
        model.assign(found[0])
        return found[1]

    def store(self, step: Step, model: Model, report: StepReport) -> None:
        """Keep the result of `step`, which has just run."""
        if self.key is not None and self.cache is not None and not report.reused and is_kept(step):
            self.cache.store(self.key, model, report)

    def _next(self, step: Step) -> str | None:
        """The key after `step`. None from a step on whose options name files that may be read or written."""
        if self.key is None or isinstance(step, Check | Save):
            return self.key
        reads = [path for given in given_options(step) for path in given.reads]
        if unnamed_paths(step):
            return None
        return digest([self.key, options_of(step), source_of(type(step))], reads)


def is_kept(step: Step) -> bool:
    """Whether the result of a step is stored: it is a pass, and no mere check or copy."""
    return not isinstance(step, Check | Save)


def options_of(step: Step) -> str:
    """The name and options of a pass as JSON."""
    return f"{step.name} {TypeAdapter(type(step)).dump_json(step).decode()}"


def digest(texts: Iterable[str], files: Iterable[Path]) -> str:
    """A hash of texts and of the content of files."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{len(text)} {text}".encode())
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@cache
def versions() -> tuple[str, ...]:
    """The versions of what computes."""
    return tuple(f"{name} {version(name)}" for name in COMPUTING)


@cache
def code() -> str:
    """A hash of the package's code, because a version number alone stays while code is developed."""
    return digest([], sorted(python_files(Path(onnxsparse.__file__).parent)))


def python_files(root: Path) -> list[Path]:
    """All Python files below a folder, links included."""
    return [Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names if name.endswith(".py")]


@cache
def source_of(kind: type) -> str:
    """A hash of the file that defines a pass, which may be another package's."""
    with suppress(TypeError, OSError):
        return digest([], [Path(inspect.getfile(kind))])
    return kind.__qualname__

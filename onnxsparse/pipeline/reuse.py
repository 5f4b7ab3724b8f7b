"""Measurements of passes, kept on disk while many pipelines run on the same model and data.

A search sets the folder (`reusing`), and passes ask by content (`reused`). Without a folder, everything is computed.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from onnxsparse.ir.model import Model
from onnxsparse.pipeline.cache import code, digest, versions
from onnxsparse.runtime.samples import Samples

Found = TypeVar("Found")


@dataclass(frozen=True)
class Reuse:
    """A folder of measurements. `data`: a digest of the data's files and of how they become inputs."""

    folder: Path
    data: str


_current: ContextVar[Reuse | None] = ContextVar("reuse", default=None)


@contextmanager
def reusing(reuse: Reuse) -> Iterator[None]:
    """Keep and find measurements in a folder within the block."""
    token = _current.set(reuse)
    try:
        yield
    finally:
        _current.reset(token)


def reused(what: str, model: Model, samples: Samples, options: object, compute: Callable[[], Found]) -> Found:
    """What `compute` returns, or what it returned before for the same model, samples and `options`.

    `what`: the kind of measurement. `options`: all else that it depends on; their `repr` tells them apart.
    """
    current = _current.get()
    if current is None:
        return compute()
    sizes = repr(sorted(model.binding.shapes.items()))
    texts = (what, code(), *versions(), current.data, repr(list(samples.places)), repr(options), sizes)
    key = digest([*texts, model.digest()], [])
    entry = current.folder / key
    with suppress(OSError, pickle.UnpicklingError, EOFError):
        kept: Found = pickle.loads(entry.read_bytes())
        return kept
    found = compute()
    store(entry, pickle.dumps(found))
    return found


def store(entry: Path, content: bytes) -> None:
    """Write a file that other processes may write at the same time: it is there as a whole or not at all."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=entry.parent, prefix=".new-", delete=False) as file:
        file.write(content)
    Path(file.name).replace(entry)

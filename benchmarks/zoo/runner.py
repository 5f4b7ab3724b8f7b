"""The graphs of a zoo: a folder of .onnx files with a manifest.json that says, per file, `file` and `run_shapes`.

`run_shapes` maps each input to a shape that runs. Every benchmark on a zoo reads it here.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from onnxsparse import Model, OnnxSparseError, load
from onnxsparse.parallel.executor import Job, Result, in_order, local
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner

Shapes = Mapping[str, list[int]]

CHECKER_ERRORS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
"""What onnx's checker raises for a model with a fault."""


@dataclass(frozen=True)
class Entry:
    """One graph: its path, its name within the zoo, and shapes of its inputs that run."""

    path: Path
    name: str
    run_shapes: Shapes

    @property
    def sizes(self) -> list[str]:
        """The shapes as --input-shape takes them; inputs without axes need none."""
        return sizes(self.run_shapes)

    def load(self) -> Model:
        """The model with its inputs at the sizes that run."""
        return load(self.path).bind(self.sizes)


def sizes(shapes: Shapes) -> list[str]:
    """Shapes as --input-shape takes them; inputs without axes need none."""
    return [f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape]


def entries(zoo: Path, only: str = "") -> list[Entry]:
    """The graphs of a zoo by name, of those that have `only` in their names."""
    manifest = json.loads((zoo / "manifest.json").read_text())
    found = [Entry(zoo / given["file"], given["file"], given["run_shapes"]) for given in manifest]
    return sorted((entry for entry in found if only in entry.name), key=lambda entry: entry.name)


def arguments(doc: str | None) -> argparse.Namespace:
    """`zoo`, `out` and `only`, from the command line; `doc` is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, help="folder of graphs, with a manifest.json")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--only", default="", help="text in the names of the graphs to take")
    parser.add_argument("--jobs", type=int, default=1, help="graphs at the same time")
    return parser.parse_args()


def examined(examine: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> list[Result]:
    """What `examine`, a function of a module, returns for each job, in order; each is printed when its job has ended."""
    with local(workers) as executor:
        return in_order(executor, partial(printed, examine), jobs)


def printed(examine: Callable[[Job], Result], job: Job, _failures: int) -> Result:
    """What `examine` returns for a job, which is printed too."""
    found = examine(job)
    print(found, flush=True)
    return found


def at_other_sizes(entry: Entry, target: Path, factors: Iterable[tuple[int, int]]) -> str:
    """At how many other sizes of its open dimensions a model made of a graph runs, of those at which the graph does: `2 of 3`.

    Each pair multiplies the open dimensions of an input: the first axis, and the others. Empty where no dimension is open.
    """
    inputs = load(entry.path).proto.graph.input
    free = {value.name: [not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim] for value in inputs}
    if not any(any(dims) for dims in free.values()):
        return ""
    others = (sizes({name: scaled(shape, free[name], *pair) for name, shape in entry.run_shapes.items()}) for pair in factors)
    return runs_at(entry.path, target, (bound for bound in others if bound != entry.sizes))


def scaled(shape: list[int], free: list[bool], batch: int, rest: int) -> list[int]:
    """A shape with its open dimensions multiplied: the first by `batch`, the others by `rest`."""
    factors = [(batch if at == 0 else rest) if is_open else 1 for at, is_open in enumerate(free)]
    return [size * factor for size, factor in zip(shape, factors, strict=True)]


def runs_at(source: Path, target: Path, bindings: Iterable[list[str]]) -> str:
    """At how many sizes a model that was made of another runs, of those at which that one does: `2 of 3`."""
    works = total = 0
    for bound in bindings:
        try:
            feeds = seeded_samples(load(source).bind(bound), 1).feeds[0]
            wanted = runner(load(source)).run(feeds)
        except OnnxSparseError:
            continue
        total += 1
        try:
            found = runner(load(target)).run(feeds)
            works += all(found[name].shape == value.shape for name, value in wanted.items())
        except OnnxSparseError:
            continue
    return f"{works} of {total}"


def checker_faults(source: Path, written: Path) -> list[str]:
    """What onnx's checker has against a file, unless it has something against the original as well."""
    try:
        onnx.checker.check_model(str(written), full_check=True)
    except CHECKER_ERRORS as error:
        try:
            onnx.checker.check_model(str(source), full_check=True)
        except CHECKER_ERRORS:
            return []
        return [f"checker: {said(error)}"]
    return []


def said(error: Exception) -> str:
    """The type of an exception, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"

"""Inputs for a model: the caller's data, or seeded random values that the model can work with."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import sample_files, samples_with
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.ops import OpView, find
from onnxsparse.runtime.session import Feeds

MAX_INPUT_BYTES = 1 << 47
"""The address space of a process on x86-64, in bytes."""

ARRAY_SUFFIXES = (".npy", ".npz")
"""Suffixes of files of arrays, in lower case."""

ArrayFiles = Annotated[Path, samples_with(*ARRAY_SUFFIXES)]
"""An option for model inputs: an npy or npz file, or a folder of them."""


@dataclass(frozen=True)
class Samples:
    """Inputs of several runs. `notes`: where they come from, for the report."""

    feeds: tuple[Feeds, ...]
    notes: tuple[str, ...] = ()


def seeded_samples(model: Model, count: int, seed: int = 0) -> Samples:
    """`count` random feeds, equal for equal seeds. The values of an input depend on its type and use:

    - floats: standard normal;
    - integers that index a table (Gather): 0 to the table's size − 1; other uint8: 0 to 255;
    - other integers: the first constant that the model compares them with, else 1;
    - booleans, and inputs with `mask` in their name: 1.

    Raises ParamError for an input with open sizes, of a type that cannot be drawn, or larger than memory.
    """
    rng = np.random.default_rng(seed)
    graph = Graph(model.proto.graph)
    notes: list[str] = []
    makers = {value.name: InputMaker(model, graph, value, notes) for value in fed_inputs(model.proto.graph)}
    feeds = tuple({name: maker.draw(rng) for name, maker in makers.items()} for _ in range(count))
    return Samples(feeds, (f"{count} seeded random inputs", *notes))


class InputMaker:
    """Draws the values of one input. `limit`: values are integers below it. `fixed`: all values equal it. Both None: normal
    floats.

    `notes`: a list to which the choice is added. Raises ParamError as `seeded_samples` does.
    """

    def __init__(self, model: Model, graph: Graph, value: onnx.ValueInfoProto, notes: list[str]) -> None:
        if not value.type.HasField("tensor_type"):
            raise ParamError(f"input '{value.name}' of {model.name} is not a tensor; give --data")
        self.shape = require_sizes(model, value.name)
        self.dtype = element_dtype(value.name, value.type.tensor_type.elem_type)
        if self.dtype.kind not in "fiubV":
            raise ParamError(
                f"input '{value.name}' of {model.name} has type {self.dtype}, which cannot be drawn at random; give --data"
            )
        if math.prod(self.shape) * self.dtype.itemsize > MAX_INPUT_BYTES:
            raise ParamError(f"input '{value.name}' of {model.name} is {format_shape(self.shape)}, which is larger than memory")
        self.limit: int | None = None
        self.fixed: int | None = None
        if self.dtype.kind in "iu":
            uses = IntegerUses.of(model, graph, value.name)
            self.limit = min(uses.table_sizes, default=256 if self.dtype == np.uint8 else None)
            self.fixed = uses.compared[0] if uses.compared else 1
        elif self.dtype.kind == "b" or "mask" in value.name.lower():
            self.fixed = 1
        if self.limit is not None:
            notes.append(f"input '{value.name}' is drawn from 0 to {self.limit - 1}")
        elif self.fixed is not None:
            notes.append(f"input '{value.name}' is set to {self.fixed}")

    def draw(self, rng: np.random.Generator) -> Array:
        """Values for one run, in the input's shape and type."""
        if self.limit is not None:
            return rng.integers(0, self.limit, self.shape).astype(self.dtype)
        if self.fixed is not None:
            return np.full(self.shape, self.fixed, self.dtype)
        return rng.standard_normal(self.shape).astype(self.dtype)


def require_sizes(model: Model, name: str) -> tuple[int, ...]:
    """The shape of an input. Raises ParamError if one of its sizes is open."""
    shape = model.binding.shapes.get(name)
    if shape is None or None in shape:
        raise ParamError(f"input '{name}' of {model.name} has open sizes ({format_shape(shape)}); give them with --input-shape")
    return tuple(d for d in shape if d is not None)


@dataclass(frozen=True)
class IntegerUses:
    """How a model uses an integer input: sizes of the tables that it indexes, and scalar constants that it is compared with."""

    table_sizes: tuple[int, ...]
    compared: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, graph: Graph, name: str) -> "IntegerUses":
        """The uses of input `name`, directly or after ops that only move elements."""
        sizes: list[int] = []
        compared: list[int] = []
        pending, seen = [name], set()
        while pending:
            value = pending.pop()
            for index in graph.consumers.get(value, []):
                node = graph.proto.node[index]
                spec = find(node.domain, node.op_type, model.opset(node.domain))
                if spec is None or index in seen:
                    continue
                seen.add(index)
                others = [model.weights[i] for i in node.input if i != value and i in model.weights]
                rules, table = spec.shape, node.input[0]
                if rules.index_axis is not None and node.input[rules.index_at or 0] == value and table in model.weights:
                    sizes.append(model.weights.shape(table)[rules.index_axis(OpView(node, (), ()))])
                elif spec.shape.compares and others and others[0].size == 1:
                    compared.append(int(others[0].reshape(-1)[0]))
                elif spec.shape.moves or spec.shape.view is not None:
                    pending += node.output
        return cls(tuple(sizes), tuple(compared))


def load_samples(path: Path, model: Model) -> Samples:
    """Feeds from an npy or npz file, or a folder of them, in the order of file names.

    An array is one sample if it has the input's shape, and several along its first axis if it is longer there. Arrays of an npz
    belong to the inputs of the same name; a model with one input takes the only array of a file, whatever its name.

    Raises ModelError for a file that cannot be read or does not fit the model.
    """
    feeds = [feed for file in array_files(path) for feed in file_samples(file, model)]
    return Samples(tuple(feeds), (f"{len(feeds)} samples from {path}",))


def check_samples(path: Path, model: Model) -> None:
    """Raises ModelError if the first file that `load_samples` would read does not fit."""
    file_samples(array_files(path)[0], model)


def array_files(path: Path) -> list[Path]:
    """The file `path`, or the array files of the folder. Raises ModelError for a folder without any."""
    files = sample_files(path, ARRAY_SUFFIXES)
    if not files:
        raise ModelError(f"--data {path}: the folder holds no .npy or .npz files")
    return files


def file_samples(path: Path, model: Model) -> list[Feeds]:
    """The samples of one file. Raises ModelError if it cannot be read, or does not fit the model's inputs."""
    names = [value.name for value in fed_inputs(model.proto.graph)]
    arrays = read_arrays(path)
    if len(names) == 1 and len(arrays) == 1:
        arrays = dict(zip(names, arrays.values(), strict=True))
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ModelError(
            f"--data {path}: no array for input '{missing[0]}' of {model.name}; it has {', '.join(arrays) or 'none'}"
        )
    split = {v.name: split_samples(path, model, v, arrays[v.name]) for v in fed_inputs(model.proto.graph)}
    counts = {name: len(parts) for name, parts in split.items()}
    if len(set(counts.values())) > 1:
        raise ModelError(f"--data {path}: different numbers of samples ({', '.join(f'{n}: {c}' for n, c in counts.items())})")
    return [dict(zip(split, parts, strict=True)) for parts in zip(*split.values(), strict=True)]


def read_arrays(path: Path) -> dict[str, Array]:
    """Name → array of an npz file; of an npy file, its stem → the array. Raises ModelError if it cannot be read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no npy or npz file"
        raise ModelError(f"--data {path}: {reason}") from None


def split_samples(path: Path, model: Model, value: onnx.ValueInfoProto, array: Array) -> list[Array]:
    """The samples in one array, in the input's type and shape. Raises ModelError if type or shape do not fit.

    Integers and floats are converted to another width of the same kind.
    """
    wanted = model.binding.shapes.get(value.name, ())
    dtype = element_dtype(value.name, value.type.tensor_type.elem_type)
    if array.dtype != dtype and (array.dtype.kind != dtype.kind or array.dtype.kind not in "fiu"):
        raise ModelError(f"--data {path}: input '{value.name}' of {model.name} takes {dtype}, the array has {array.dtype}")
    array = array.astype(dtype, copy=False)
    if fits(array.shape, wanted):
        return [array]
    if fits(array.shape[1:], wanted):
        return list(array)
    if wanted and fits(array.shape[1:], wanted[1:]) and wanted[0] and array.shape[0] % wanted[0] == 0 and array.size:
        return list(array.reshape(-1, wanted[0], *array.shape[1:]))
    raise ModelError(
        f"--data {path}: input '{value.name}' of {model.name} takes {format_shape(wanted)}, "
        f"the array is {format_shape(array.shape)}"
    )


def fits(shape: Sequence[int], wanted: Shape) -> bool:
    """Whether a shape has the wanted rank and sizes; a wanted None fits every size."""
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))

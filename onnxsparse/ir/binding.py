"""Which sizes the model's inputs have: what the caller says, what the model says of itself, else batch 1."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from onnxsparse.errors import ParamError

Dim = int | None
Shape = tuple[Dim, ...]

BATCH_NAMES = re.compile(r"^(n|b|bs|batch(_?size)?|.*batch.*)$", re.IGNORECASE)

IMAGE_SIZE_KEYS = ("imgsz",)
"""Model metadata in which exporters record the input size, as `[height, width]` or one number (ultralytics)."""


@dataclass(frozen=True)
class Binding:
    """Input shapes and symbolic dimensions with their sizes, and what was assumed to get there.

    `given`: the options that the caller gave sizes with, as they were written.
    """

    shapes: dict[str, Shape]
    symbols: dict[str, int] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def unbound(self) -> tuple[str, ...]:
        """The inputs that still have unknown sizes, each as `name: 1x3x?x?`."""
        return tuple(f"{name}: {format_shape(s)}" for name, s in self.shapes.items() if None in s)

    def apply(self, shape: onnx.TensorShapeProto) -> None:
        """Replace bound symbols in a recorded shape, and forget sizes of 0 and −1, which mean unknown."""
        for dim in shape.dim:
            if dim.dim_param in self.symbols:
                dim.dim_value = self.symbols[dim.dim_param]
            elif dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller feeds: graph inputs that no initializer provides."""
    provided = {t.name for t in graph.initializer}
    return [value for value in graph.input if value.name not in provided]


def bind(proto: onnx.ModelProto, name: str, input_shape: Sequence[str] = (), dim: Sequence[str] = ()) -> Binding:
    """Sizes for every input of a model, which messages call `name`.

    `input_shape`: `name:1,3,224,224`, `name=1x3x224x224`, or the sizes alone for a model with one input. `dim`:
    `symbol=size`. Then `imgsz` in the model's metadata; then 1 for a batch axis. Raises ParamError where the caller
    contradicts the model.
    """
    binder = Binder(proto.graph, name)
    for text in input_shape:
        binder.set_input(text)
    for text in dim:
        binder.set_symbol(text)
    binder.assume_image_size({p.key: p.value for p in proto.metadata_props})
    binder.assume_batch()
    given = (*(f"--input-shape {text}" for text in input_shape), *(f"--dim {text}" for text in dim))
    return Binding({n: tuple(s) for n, s in binder.shapes.items()}, binder.symbols, tuple(binder.assumed), given)


def recorded(proto: onnx.ModelProto) -> Binding:
    """The sizes that a file fixes for its inputs, and no others: what follows from them holds wherever the model runs."""
    return Binding({name: tuple(shape) for name, shape in Binder(proto.graph, "").shapes.items()})


class Binder:
    """Collects sizes; an axis is (input name, axis number)."""

    def __init__(self, graph: onnx.GraphProto, model_name: str) -> None:
        self.model_name = model_name
        self.shapes: dict[str, list[Dim]] = {}
        self.names: dict[str, list[str]] = {}
        self.inputs = [value.name for value in fed_inputs(graph)]
        self.unranked: set[str] = set()
        self.symbols: dict[str, int] = {}
        self.assumed: list[str] = []
        for value in fed_inputs(graph):
            tensor = value.type.tensor_type
            if not tensor.HasField("shape"):
                self.unranked.add(value.name)
                continue
            self.shapes[value.name] = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
            self.names[value.name] = [d.dim_param if d.dim_param != "?" else "" for d in tensor.shape.dim]

    def set_input(self, text: str) -> None:
        name, sizes = self._parse(text)
        if name in self.unranked and name not in self.shapes:
            self.shapes[name], self.names[name] = [None] * len(sizes), [""] * len(sizes)
        if len(sizes) != len(self.shapes[name]):
            raise ParamError(f"--input-shape {text}: input '{name}' of {self.model_name} has {len(self.shapes[name])} dimensions")
        for axis, size in enumerate(sizes):
            known = self.shapes[name][axis]
            if known not in (None, size):
                raise ParamError(f"--input-shape {text}: axis {axis} of input '{name}' of {self.model_name} is fixed to {known}")
            self._set(name, axis, size)

    def _parse(self, text: str) -> tuple[str, list[int]]:
        head, separator, tail = text.rpartition("=")
        if not separator:
            head, separator, tail = text.rpartition(":")
        if not separator:
            if len(self.inputs) != 1:
                raise ParamError(f"--input-shape {text}: name the input, one of {', '.join(self.inputs) or '(none)'}")
            head = self.inputs[0]
        if head not in self.inputs:
            raise ParamError(f"--input-shape {text}: {self.model_name} has no input '{head}'; it has {', '.join(self.inputs)}")
        parts = [p for p in re.split(r"[x,\s]+", tail.strip("[]() ")) if p]
        if not all(map(is_size, parts)):
            raise ParamError(
                f"--input-shape {text}: sizes are positive whole numbers of at most 63 bits, as in {head}:1,3,224,224"
            )
        return head, [int(p) for p in parts]

    def set_symbol(self, text: str) -> None:
        symbol, _, size = text.partition("=")
        known = sorted({n for names in self.names.values() for n in names if n})
        if not is_size(size):
            raise ParamError(f"--dim {text}: write it as NAME=SIZE with a positive size of at most 63 bits")
        if symbol not in known:
            raise ParamError(
                f"--dim {text}: {self.model_name} has no dimension '{symbol}'; it has {', '.join(known) or 'none with a name'}"
            )
        self._set_all(symbol, int(size))

    def assume_image_size(self, metadata: dict[str, str]) -> None:
        size = next((s for key in IMAGE_SIZE_KEYS if (s := parse_image_size(metadata.get(key, "")))), None)
        images = [n for n, s in self.shapes.items() if len(s) == 4 and s[2] is None and s[3] is None]
        if size is None or len(images) != 1:
            return
        for axis, value in zip((2, 3), size, strict=True):
            self._assume(images[0], axis, value, "imgsz in the model's metadata")

    def assume_batch(self) -> None:
        for name, axis in self._open_axes():
            if axis == 0 or BATCH_NAMES.match(self.names[name][axis]):
                self._assume(name, axis, 1, "batch")

    def _open_axes(self) -> Iterator[tuple[str, int]]:
        for name, shape in self.shapes.items():
            for axis in range(len(shape)):
                if shape[axis] is None:
                    yield name, axis

    def _assume(self, name: str, axis: int, size: int, why: str) -> None:
        self._set(name, axis, size)
        self.assumed.append(f"axis {axis} of input '{name}' is {size} ({why})")

    def _set(self, name: str, axis: int, size: int) -> None:
        symbol = self.names[name][axis]
        if symbol:
            self._set_all(symbol, size)
        self.shapes[name][axis] = size

    def _set_all(self, symbol: str, size: int) -> None:
        if self.symbols.setdefault(symbol, size) != size:
            raise ParamError(f"dimension '{symbol}' of {self.model_name} is given as {self.symbols[symbol]} and as {size}")
        for name, names in self.names.items():
            self.shapes[name] = [size if n == symbol else d for n, d in zip(names, self.shapes[name], strict=True)]


def is_size(text: str) -> bool:
    """Whether a text is a size that ONNX can hold."""
    return re.fullmatch(r"[1-9]\d{0,18}", text) is not None and int(text) < 1 << 63


def parse_image_size(text: str) -> tuple[int, int] | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None  # somebody else's use of the key: nothing is assumed
    pair = (value, value) if isinstance(value, int) else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(v, int) and v > 0 for v in pair):
        return pair[0], pair[1]
    return None


def format_shape(shape: Sequence[Dim] | None) -> str:
    """`1x3x?x?`; `scalar` without axes, `?` where even the rank is unknown."""
    if shape is None:
        return "?"
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"

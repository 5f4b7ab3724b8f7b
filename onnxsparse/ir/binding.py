"""Input sizes: those that the caller gives, else those that the model records, else batch 1."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from onnxsparse.errors import ParamError

Dim = int | None
"""A size; None if it is unknown."""

Shape = tuple[Dim, ...]

BATCH_NAMES = re.compile(r"^(n|b|bs|batch(_?size)?|.*batch.*)$", re.IGNORECASE)
"""Names of symbolic dimensions that are assumed to be the batch, and so to be 1, if no size is given."""

IMAGE_SIZE_KEYS = ("imgsz",)
"""Keys of model metadata with the input size, as `[height, width]` or one number. `imgsz` is written by ultralytics."""


@dataclass(frozen=True)
class Binding:
    """Sizes of the inputs and symbolic dimensions of a model, and how they were found.

    `shapes`: input → shape. `symbols`: symbolic dimension → size. `assumed`: a sentence for each assumed size. `given`: the
    options with which the caller gave sizes, as text.
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
        """Set the bound symbols in a recorded shape, and remove sizes of 0 and −1, which mean unknown.

        Changes `shape` in place.
        """
        for dim in shape.dim:
            if dim.dim_param in self.symbols:
                dim.dim_value = self.symbols[dim.dim_param]
            elif dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller has to feed: graph inputs without an initializer of the same name."""
    provided = {t.name for t in graph.initializer}
    return [value for value in graph.input if value.name not in provided]


def bind(proto: onnx.ModelProto, name: str, input_shape: Sequence[str] = (), dim: Sequence[str] = ()) -> Binding:
    """Sizes for every input of a model. The first source that has a size decides:

    1. `input_shape`: `name:1,3,224,224`, `name=1x3x224x224`, or the sizes alone for a model with one input; `dim`: `symbol=size`.
    2. The shapes recorded in the model.
    3. `imgsz` in the model's metadata, for the height and width of the only image input.
    4. 1, for an open first axis and for an axis whose symbol is called like a batch.

    `name`: the model's, for messages. Raises ParamError for a text that cannot be parsed, and for sizes that contradict the model
    or each other.
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
    """The input sizes that the file fixes. Facts that follow from these alone hold for every run of the model."""
    return Binding({name: tuple(shape) for name, shape in Binder(proto.graph, "").shapes.items()})


class Binder:
    """Collects the sizes of the axes of all inputs; see `bind` for the order.

    `shapes`: input → sizes so far. `names`: input → symbol of each axis, empty if it has none. `unranked`: inputs of unknown
    rank.
    """

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
        """Apply one `--input-shape`. Raises ParamError if it cannot be parsed or contradicts the model."""
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
        """Input name and sizes of one `--input-shape`. Raises ParamError for an unknown input or an invalid size."""
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
        """Apply one `--dim`.

        Raises ParamError if it cannot be parsed, the model has no such symbol, or another size is given for it.
        """
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
        """Assume the size in the model's metadata for the only 4-D input whose last two axes are open; otherwise do nothing."""
        size = next((s for key in IMAGE_SIZE_KEYS if (s := parse_image_size(metadata.get(key, "")))), None)
        images = [n for n, s in self.shapes.items() if len(s) == 4 and s[2] is None and s[3] is None]
        if size is None or len(images) != 1:
            return
        for axis, value in zip((2, 3), size, strict=True):
            self._assume(images[0], axis, value, "imgsz in the model's metadata")

    def assume_batch(self) -> None:
        """Assume 1 for every open axis that is the first, or whose symbol is called like a batch."""
        for name, axis in self._open_axes():
            if axis == 0 or BATCH_NAMES.match(self.names[name][axis]):
                self._assume(name, axis, 1, "batch")

    def _open_axes(self) -> Iterator[tuple[str, int]]:
        """(input, axis) of every unknown size."""
        for name, shape in self.shapes.items():
            for axis in range(len(shape)):
                if shape[axis] is None:
                    yield name, axis

    def _assume(self, name: str, axis: int, size: int, why: str) -> None:
        self._set(name, axis, size)
        self.assumed.append(f"axis {axis} of input '{name}' is {size} ({why})")

    def _set(self, name: str, axis: int, size: int) -> None:
        """Set one axis, and with it every axis of the same symbol. Raises ParamError if the symbol has another size."""
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
    """Whether a text is a positive decimal number that fits into 63 bits, the largest size that ONNX can hold."""
    return re.fullmatch(r"[1-9]\d{0,18}", text) is not None and int(text) < 1 << 63


def parse_image_size(text: str) -> tuple[int, int] | None:
    """(height, width) from the text `[height, width]` or `size`; None for any other text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that literal_eval raises
        return None  # another exporter uses the key for something else
    pair = (value, value) if isinstance(value, int) else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(v, int) and is_size(str(v)) for v in pair):
        return pair[0], pair[1]
    return None


def format_shape(shape: Sequence[Dim] | None) -> str:
    """A shape as text: `1x3x?x?` with `?` for unknown sizes, `scalar` for rank 0, `?` for an unknown rank (None)."""
    if shape is None:
        return "?"
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"

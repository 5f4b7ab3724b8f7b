"""A model in memory: a skeleton proto without bulk weights, and the weights beside it."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Binding, bind
from onnxsparse.ir.files import Staging, check_target, identity, remove
from onnxsparse.ir.mapped import MappedFile, Payload
from onnxsparse.ir.protos import opset_of
from onnxsparse.ir.sparse import densify, restore
from onnxsparse.ir.weights import Weights, bodies, is_lifted, set_external, tensors
from onnxsparse.ir.wire import FileSpan, Piece, Rewritten, lift, splice
from onnxsparse.ir.wire import Payload as PayloadPiece

if TYPE_CHECKING:
    from onnx_graphsurgeon import Graph


MAX_INLINE_BYTES = (1 << 31) - 1
"""protobuf's limit for one message, in bytes. A larger model needs external data."""

ALIGNMENT_BYTES = 4096
"""Alignment of tensors in a side file: a memory page, as the ONNX documentation asks, so that runtimes can map them."""


class Model:
    """An ONNX model. `proto` holds everything but bulk weights; `weights` reads and assigns those by name.

    Sparse tensors are dense in memory, and sparse again in a saved file. Values may be changed in place, through `weights` or
    `proto`; make a `copy` first if the original is still needed.

    `path`: the file that the model was loaded from, None if it was made in memory. `role`: the part that the model plays, for
    messages; empty for a model as it was loaded.
    """

    def __init__(self, proto: onnx.ModelProto, weights: Weights, path: Path | None = None, role: str = "") -> None:
        self.proto = proto
        self.weights = weights
        self.path = path
        self.role = role
        self._binding: Binding | None = None

    @property
    def binding(self) -> Binding:
        """The input sizes that facts are computed for: those given to `bind`, else those in the model, else batch 1.

        Raises ParamError as `bind` does.
        """
        if self._binding is None:
            self._binding = bind(self.proto, self.name)
        return self._binding

    def bind(self, input_shape: Sequence[str] = (), dim: Sequence[str] = ()) -> Self:
        """Fix input sizes, given as `x:1,3,224,224` or `x=1x3x224x224`, and symbolic dimensions, given as `N=1`. Returns the
        model.

        Raises ParamError for a text that cannot be parsed, and for sizes that contradict the model or each other.
        """
        self._binding = bind(self.proto, self.name, input_shape, dim)
        return self

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, role: str = "") -> "Model":
        """A model of a proto built in memory, whose external data cannot be read. `role`: the part it plays, for messages.

        Raises ModelError for a proto that is no valid model; see `load`.
        """
        made = parse(memoryview(proto.SerializeToString()), None, None)
        made.role = role
        return made

    @property
    def name(self) -> str:
        """The name of the model in messages: its file name, preceded by its role if it has one."""
        name = self.path.name if self.path is not None else "the model"
        return f"{self.role} of {name}" if self.role else name

    def copy(self, role: str | None = None) -> "Model":
        """An independent copy that shares unchanged weights.

        `role`: its part, for messages; None keeps the role of this model.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        twin = Model(proto, self.weights.copy(proto), self.path, self.role if role is None else role)
        twin._binding = self._binding
        return twin

    def assign(self, other: "Model") -> None:
        """Replace the content of this model by that of `other`. The path, role and binding stay."""
        self.proto.CopyFrom(other.proto)
        self.weights = other.weights.copy(self.proto)

    def edit(self) -> "AbstractContextManager[Graph]":
        """`with model.edit() as graph:` gives an onnx-graphsurgeon graph. Changes are applied when the block ends without an
        error.

        Every field that the block does not touch stays unchanged, fields included that graphsurgeon cannot represent.
        """
        from onnxsparse.ir.graphsurgeon import edit

        return edit(self.proto, self.weights)

    def opset(self, domain: str = "") -> int:
        """The imported version of an operator domain, 0 if it is not imported."""
        return opset_of(self.proto, domain)

    def save(self, path: str | Path) -> None:
        """Write the model, completely or not at all.

        1. Weights that were inline stay inline, unless the file would exceed 2 GB; then all of them become external.
        2. External weights go to a new side file `<name>.data` beside the target. If a file of that name exists, the side file
           gets a number in its name: at no moment does a model file refer to the side file of another version.
        3. Temporaries are renamed onto their targets together; then the old side files of the target are deleted.

        The target may be the file that the model was loaded from.

        Raises ParamError if `path` cannot be a file, or is a file that holds weights of this model. Raises ModelError if the
        system refuses to write.
        """
        if identity(Path(path)) in map(identity, self.weights.side_files()):
            raise ParamError(f"cannot write {path}: {self.name} keeps its weights there; name another file")
        with Staging() as staging:
            obsolete = self.stage(staging, Path(path))
        remove(obsolete)

    def stage(self, staging: Staging, path: Path) -> list[Path]:
        """First step of `save`: write the temporaries. Returns the files to delete after `staging` is committed.

        Raises ParamError and ModelError as `save` does.
        """
        target = check_target(path)
        obsolete = self._obsolete_side_files(target)
        side_file = unused_side_file(target, staging.targets)
        skeleton, external = self._place(side_file.name)
        if external:
            check_link(path, target)
            staging.write(side_file, lambda file: write_side_file(file, external))
        message = splice(skeleton, self._describe)
        staging.write(target, lambda file: self._write(file, message))
        return obsolete

    def _obsolete_side_files(self, target: Path) -> list[Path]:
        """The side files of the old target that are unused once it is replaced.

        Only files named after the target count, and none that this model still reads.
        """
        try:
            old = load(target).weights.side_files()
        except ModelError:
            return []
        if self.path is not None and self.path.resolve() != target:
            old -= self.weights.side_files()
        return [path for path in old if path.name.startswith(f"{target.name}.") and path.parent == target.parent]

    def to_bytes(self) -> bytes:
        """The whole model as one ONNX message. Raises ModelError above 2 GB."""
        message = splice(self._as_written().SerializeToString(), self._describe)
        if message.length > MAX_INLINE_BYTES:
            raise ModelError(f"{self.name} is larger than 2 GB and cannot be held in one message")
        return b"".join(self._bytes(piece) for piece in message.pieces)

    def digest(self) -> str:
        """A digest of the model's content, as 64 hexadecimal digits. ModelError as `to_bytes` does."""
        found = hashlib.sha256(self.to_bytes())
        for _, _, tensor in tensors(self._as_written()):
            if tensor.data_location == TensorProto.EXTERNAL and not is_lifted(tensor):
                payload = self.weights.payload(tensor)
                found.update(b"" if payload is None else payload.view())
        return found.hexdigest()

    @property
    def written_bytes(self) -> int:
        """The size of the saved model in bytes: the ONNX message and the contents of side files."""
        proto = self._as_written()
        external = (t for _, _, t in tensors(proto) if t.data_location == TensorProto.EXTERNAL and not is_lifted(t))
        payloads = (self.weights.payload(tensor) for tensor in external)
        inside = splice(proto.SerializeToString(), self._describe).length
        return inside + sum(payload.length for payload in payloads if payload is not None)

    def _as_written(self) -> onnx.ModelProto:
        """A copy of the proto in which tensors that were loaded as sparse are sparse again."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        if self.weights.sparse:
            restore(proto, self.weights)
        return proto

    def _place(self, side_name: str) -> tuple[bytes, list[Payload]]:
        """The skeleton to write, whose external tensors point to their new places, and their payloads in that order."""
        proto = self._as_written()
        lifted = (self.weights.payload(tensor) for _, _, tensor in tensors(proto) if is_lifted(tensor))
        inline_bytes = sum(payload.length for payload in lifted if payload is not None)
        external_only = inline_bytes + proto.ByteSize() > MAX_INLINE_BYTES
        payloads: list[Payload] = []
        offset = 0
        for _, _, tensor in tensors(proto):
            if tensor.data_location != TensorProto.EXTERNAL or (is_lifted(tensor) and not external_only):
                continue
            payload = self.weights.payload(tensor)
            assert payload is not None
            offset = aligned(offset)
            set_external(tensor, side_name, offset, payload.length)
            payloads.append(payload)
            offset += payload.length
        return proto.SerializeToString(), payloads

    def _describe(self, index: int) -> tuple[int, int]:
        """The TensorProto field of lifted payload `index`, and its length in bytes."""
        payload = self.weights.lifted(index)
        return payload.field, payload.length

    def _bytes(self, piece: Piece) -> bytes | memoryview:
        return self.weights.lifted(piece.index).view() if isinstance(piece, PayloadPiece) else piece

    def _write(self, file: IO[bytes], message: Rewritten) -> None:
        for piece in message.pieces:
            if isinstance(piece, PayloadPiece):
                self.weights.lifted(piece.index).write_to(file)
            else:
                file.write(piece)


def load(path: str | Path) -> Model:
    """Read the ONNX model at `path`. Bulk weights stay on disk until they are read.

    Raises ModelError for a file that is missing, unreadable, truncated, not an ONNX model, or larger than 2 GB.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's version raises if a parent folder is unreadable
        raise ModelError(f"{path} is a folder, not an ONNX file")
    try:
        file = MappedFile.open(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    if file.size > MAX_INLINE_BYTES:
        raise ModelError(f"{path} is larger than 2 GB, which no ONNX runtime reads; save it with external data")
    try:
        return parse(file.view(), file, path)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def parse(data: memoryview, file: MappedFile | None, path: Path | None) -> Model:
    """The model in the bytes `data`; `file` and `path` say where they come from, None for a model made in memory.

    Raises ModelError for bytes that are truncated, damaged or not an ONNX model. The message does not name the file.
    """
    skeleton, spans = lift(data)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except DecodeError:
        raise ModelError("the file is truncated or not an ONNX model") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError("not an ONNX model (it holds no graph)")
    if proto.ir_version >= 3 and not proto.opset_import:
        raise ModelError("the file is truncated or not an ONNX model (it imports no operator set)")
    check_names(proto)
    payloads = [payload_of(span, file, data) for span in spans]
    weights = Weights(proto, payloads, path)
    densify(proto, weights)
    return Model(proto, weights, path)


def check_names(proto: onnx.ModelProto) -> None:
    """Raises ModelError for a name that is not valid UTF-8. protobuf accepts such names when it parses a damaged file."""
    graphs: list[onnx.GraphProto] = [proto.graph]
    try:
        for graph in graphs:
            names = [graph.name, *(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer)]
            names += [v.name for values in (graph.input, graph.output, graph.value_info) for v in values]
            graphs += check_nodes(list(graph.node), names)
        for function in proto.functions:
            graphs += check_nodes(list(function.node), [function.name, function.domain, *function.input, *function.output])
        "".join([*(o.domain for o in proto.opset_import), *(text for p in proto.metadata_props for text in (p.key, p.value))])
    except (UnicodeDecodeError, TypeError):
        raise ModelError("the file is damaged: it holds names that are not valid text") from None


def check_nodes(nodes: list[onnx.NodeProto], names: list[str]) -> list[onnx.GraphProto]:
    """Join the names of `nodes` and `names`, which raises UnicodeDecodeError or TypeError for invalid text.

    Returns the bodies that the nodes hold, for the caller to check next.
    """
    for node in nodes:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    "".join(names)
    return [body for node in nodes for attribute in node.attribute for body in bodies(attribute)]


def payload_of(span: FileSpan, file: MappedFile | None, data: memoryview) -> Payload:
    """The payload at `span`: in `file` if there is one, else in the bytes `data`."""
    if file is not None:
        return Payload(None, file, span.offset, span.length, span.field)
    return Payload.of(data[span.offset : span.offset + span.length], span.field)


def check_link(path: Path, target: Path) -> None:
    """Raises ParamError if `path` is a link into another folder.

    Readers look for external data beside the name that they are given, so they would not find it beside the linked file.
    """
    if identity(path.parent) != identity(target.parent):
        raise ParamError(
            f"cannot write {path}: it is a link to {target}, beside which its external data would not be found; "
            f"name that file, or one that is not a link"
        )


def unused_side_file(target: Path, taken: Sequence[Path]) -> Path:
    """`<name>.data` beside the target, with a number if that file exists or is in `taken`."""
    names = (f"{target.name}.data", *(f"{target.name}.{i}.data" for i in range(1, 1000)))
    return next(p for name in names if not os.path.lexists(p := target.with_name(name)) and p not in taken)


def aligned(offset: int) -> int:
    """`offset` rounded up to ALIGNMENT_BYTES."""
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def write_side_file(file: IO[bytes], payloads: list[Payload]) -> None:
    """Write payloads one after the other, each at an aligned offset. Raises ModelError if a source file got shorter."""
    for payload in payloads:
        file.seek(aligned(file.tell()))
        payload.write_to(file)

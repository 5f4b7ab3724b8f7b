"""An onnx-graphsurgeon graph to edit, behind which every field of the proto stays what it was.

graphsurgeon's own import and export lose metadata, docs, odd attributes and types (90 of onnx's 2033 test models do not
survive them). Here its classes are the editing surface only: each object remembers the proto it came from, and on the way
out only what differs from that is written. Shapes, types, header and bulk weights never go through it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxsparse.ir.graphsurgeon.exporter import Exporter
from onnxsparse.ir.graphsurgeon.importer import Importer
from onnxsparse.ir.graphsurgeon.origins import Origins
from onnxsparse.ir.model import Model


@contextmanager
def edit(model: Model) -> Iterator[Any]:
    """`with edit(model) as graph:` gives a graphsurgeon graph; the model has its changes when the block ends well."""
    origins = Origins()
    importer = Importer(model, origins)
    graph = importer.model_graph()
    yield graph
    Exporter(model, origins).write(graph)

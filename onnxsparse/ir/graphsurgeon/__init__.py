"""An onnx-graphsurgeon graph to edit, behind which every field of the proto stays what it was.

graphsurgeon's own import and export lose metadata, docs, odd attributes and types (90 of onnx's 2033 test models do not
survive them). Here its classes are the editing surface only: each object remembers the proto it came from, and on the way
out only what differs from that is written. Shapes, types, header and bulk weights never go through it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx

from onnxsparse.ir.graphsurgeon.exporter import Exporter
from onnxsparse.ir.graphsurgeon.importer import Importer
from onnxsparse.ir.graphsurgeon.origins import Origins
from onnxsparse.ir.weights import Weights


@contextmanager
def edit(proto: onnx.ModelProto, weights: Weights) -> Iterator[Any]:
    """`with edit(proto, weights) as graph:` gives a graphsurgeon graph; the model has its changes when the block ends well."""
    origins = Origins()
    graph = Importer(proto, weights, origins).model_graph()
    yield graph
    Exporter(proto, weights, origins).write(graph)

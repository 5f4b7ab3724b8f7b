"""Editing a model as an onnx-graphsurgeon graph, without loss.

graphsurgeon's own import and export lose metadata, doc strings, some attributes and types: 90 of onnx's 2033 test models do not
survive them. Only its classes are used here:

1. The importer builds graphsurgeon objects, and records the proto from which each was made (`Origins`).
2. The caller edits the objects.
3. The exporter writes the recorded proto of each unchanged object, and only the differences of a changed one.

Recorded shapes, types, the model's header and bulk weights are never converted.
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
    """`with edit(proto, weights) as graph:` gives a graphsurgeon graph.

    Changes are applied when the block ends without an error.
    """
    origins = Origins()
    graph = Importer(proto, weights, origins).model_graph()
    yield graph
    Exporter(proto, weights, origins).write(graph)

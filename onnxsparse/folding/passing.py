"""Removal of nodes that pass their input on unchanged."""

from typing import Any

from onnxsparse.folding.rewriting import Folding, is_output, remove, rewire


def remove_passing(folding: Folding, graph: Any) -> None:
    """Remove Identity, and Dropout at inference. One that connects a graph's input to its output stays."""
    for node in list(graph.nodes):
        spec = folding.spec(node)
        if spec is None or spec.fold.passes is None or not spec.fold.passes(folding.view(node)):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if is_output(graph, result):
            if not take_over(graph, node, source, result):
                continue
        else:
            rewire(result, source, list(result.outputs))
        remove(graph, [node])
        folding.count(f"{node.op} removed")


def take_over(graph: Any, node: Any, source: Any, result: Any) -> bool:
    """Let the node that produces `source` produce the graph output `result` instead. False if `source` comes from elsewhere,
    or is an output itself.
    """
    maker = next((n for n in graph.nodes if any(o is source for o in n.outputs)), None)
    if maker is None or is_output(graph, source):
        return False
    node.outputs.clear()
    rewire(source, result, [user for user in source.outputs if user is not node])
    maker.outputs = [result if o is source else o for o in maker.outputs]
    return True

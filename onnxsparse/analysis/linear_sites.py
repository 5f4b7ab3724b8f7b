"""Where stored weights multiply activations as matrices."""

from collections.abc import Iterator
from dataclasses import dataclass

from onnxsparse.analysis.layers import Survey
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.linear_forms import LinearForm


@dataclass(frozen=True)
class Site:
    """A node that uses a weight. `index`: in the main graph. `data`: the activation that it multiplies."""

    index: int
    form: LinearForm
    data: str


def sites_of(survey: Survey, tensor: str, index: int) -> Iterator[Site]:
    """The sites of a tensor in one node. Raises UnknownFact if it has none."""
    context, node = survey.context, survey.context.nodes[index]
    spec = context.specs[index]
    op = survey.view(context.graph, node)
    found = False
    for slot in spec.weights if spec is not None else ():
        held = context.resolver.resolve(context.graph, node.input[slot.at]) if op.has_input(slot.at) else None
        if held is None or held.name != tensor:
            continue
        if slot.form is None:
            raise UnknownFact(f"how {node.op_type} multiplies is not known as a matrix")
        form = slot.form(op)
        found = True
        yield Site(index, form, node.input[form.data_at])
    if not found:
        raise UnknownFact("its op does not read it directly")

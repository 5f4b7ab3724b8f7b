"""Einsum: operands contracted along labels. Source: the ONNX operator page of Einsum."""

import math
from collections import Counter
from functools import partial

from onnxsparse.ir.binding import format_shape
from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.facets import ChannelRules, ShapeRules
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.sizes import UnknownFact, paired
from onnxsparse.ops.spec import OpSpec, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView


def einsum_macs(op: OpView) -> int:
    """Multiply-accumulates of contracting the operands from left to right.

    Each step costs the product of the sizes of all labels that either side has. A label is summed as soon as neither a later
    operand nor the output has it. Raises UnknownFact.
    """
    terms, output, sizes = einsum_labels(op)
    macs, current = 0, terms[0]
    for position, term in enumerate(terms[1:], start=1):
        macs += math.prod(sizes[label] for label in set(current) | set(term))
        needed = set(output).union(*terms[position + 1 :])
        current = [label for label in dict.fromkeys([*current, *term]) if label in needed]
    return macs


def einsum_labels(op: OpView) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """(labels of each operand, labels of the output, size of each label).

    An ellipsis becomes labels `…1`, `…2`, numbered from its right end, because broadcasting aligns them there. Raises UnknownFact
    if the equation does not fit the inputs.
    """
    left, arrow, right = op.text("equation", "").replace(" ", "").partition("->")
    terms: list[list[str]] = []
    sizes: dict[str, int] = {}
    for at, term in enumerate(left.split(",")):
        shape = op.input(at)
        hidden = len(shape) - len(term.replace("...", ""))
        head, dots, tail = term.partition("...")
        labels = [*head, *(f"…{i}" for i in range(hidden, 0, -1) if dots), *tail]
        if len(labels) != len(shape):
            raise UnknownFact(f"its equation has {len(labels)} letters for an input of {len(shape)} axes")
        for label, size in paired(labels, shape):
            sizes[label] = max(size, sizes.get(label, 1))  # sizes of 1 broadcast
        terms.append(labels)
    dots_labels = sorted((label for label in sizes if label[0] == "…"), reverse=True)
    if arrow:
        head, dots, tail = right.partition("...")
        return terms, [*head, *(dots_labels if dots else []), *tail], sizes
    # without an arrow the output has every label that occurs once, in alphabetical order
    counts = Counter(label for term in terms for label in term)
    return terms, [*dots_labels, *sorted(label for label, n in counts.items() if n == 1 and label[0] != "…")], sizes


def einsum_conflict(op: OpView) -> str | None:
    """Why a letter has two sizes other than 1, or None."""
    terms, _, _ = einsum_labels(op)
    sizes: dict[str, int] = {}
    for at, term in enumerate(terms):
        for label, size in zip(term, op.input(at), strict=True):
            if size != 1 and sizes.setdefault(label, size) != size:
                shapes = " and ".join(format_shape(op.input(i)) for i in range(len(terms)))
                return f"cannot multiply {shapes}: {sizes[label]} meets {size} along '{label}'"
    return None


def einsum_axes(op: OpView, at: int) -> WeightAxes:
    """The weight axes of operand `at`: the input axis is that of its first contracted letter, the output axis that of its
    first kept letter that no other operand has. Raises UnknownFact if the equation has no such operand.
    """
    terms, output, _ = einsum_labels(op)
    if at >= len(terms):
        raise UnknownFact(f"its equation has {len(terms)} terms")
    others = set().union(*(term for i, term in enumerate(terms) if i != at))
    labels = terms[at]
    contracted = [i for i, label in enumerate(labels) if label not in output]
    own = [i for i, label in enumerate(labels) if label in output and label not in others]
    return WeightAxes(output=(own or [0])[0], input=(contracted or [len(labels) - 1])[0])


def couple_einsum(c: Coupling) -> None:
    """Axes of one letter are tied. A letter that the output lacks is summed over."""
    terms, output, _ = einsum_labels(c.op)
    found: dict[str, Labels | None] = {}
    for letter in {letter for term in terms for letter in term}:
        places = [(at, i) for at, term in enumerate(terms) for i, other in enumerate(term) if other == letter]
        there = [c.axes(at)[i] for at, i in places if c.op.input(at)[i] != 1]
        found[letter] = c.unite(*there)
        if len({at for at, _ in places}) < len(places):
            c.freeze(found[letter], "is a diagonal")
        if letter not in output:
            c.contracted += places
            c.roles |= dict.fromkeys(places, Role.CONSUMES)
        elif len(places) == 1:
            c.roles[places[0]] = Role.PRODUCES
    c.emit([found.get(letter) for letter in output])


SPECS = (
    OpSpec(
        op_type="Einsum",
        since=12,
        macs=einsum_macs,
        weights=tuple(WeightSlot(at=at, axes=partial(einsum_axes, at=at)) for at in (1, 0, 2, 3)),
        channels=ChannelRules(couple=couple_einsum),
        shape=ShapeRules(conflict=einsum_conflict),
    ),
)

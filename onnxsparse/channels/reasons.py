"""Why channels stay: the reason recorded where they were frozen, and how it concerns the layer that produces them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxsparse.channels.labelled_graph import Discovery
from onnxsparse.ops.labels import Classes, Freeze, Labels

Key = str
"""A value's key in a Discovery."""


@dataclass(frozen=True)
class Reasons:
    """Answers why labels stay."""

    found: Discovery
    """The walk, whose freezes come first."""
    later: tuple[Freeze, ...]
    """Freezes of the resolution, in order."""
    classes: Classes
    """The resolution's classes."""
    choices: Sequence[Labels]
    """Each group's classes that can be cut."""

    def of_outputs(self, index: int, labels: Labels) -> Counter[str]:
        """Reason → how many of `labels` stay for it. `labels`: frozen output channels of node `index`."""
        carried = self._carried(index)
        counts: Counter[str] = Counter()
        for root, count in zip(*np.unique(self.classes.root[labels], return_counts=True), strict=True):
            counts[self._of_class(int(root), index, carried)] += int(count)
        return counts

    def _of_class(self, root: int, index: int, carried: set[Key]) -> str:
        at = self._first.get(root)
        if at is None:
            return f"it stays for a reason that was not recorded ({self.found.places[index].name})"
        freeze = self._freezes[at]
        if self._is_direct(freeze, index, carried):
            return self._told(at)
        if freeze.output is not None:
            return f"is tied to channels of an output of the model ({freeze.node})"
        return f"is tied to channels that stay: {self._told(at)}"

    def _told(self, at: int) -> str:
        """A freeze's reason, followed by the reasons that caused it."""
        freeze = self._freezes[at]
        reason = freeze.reason if freeze.instead is None else self._instead(freeze.instead, at)
        told = f"{reason} ({freeze.node})"
        causes = [] if freeze.because is None else [cause for cause in self._causes(freeze.because) if cause < at]
        why = dict.fromkeys(self._told(cause) for cause in causes)
        return f"{told}: {' and '.join(why)}" if why else told

    def _instead(self, chosen: Labels, at: int) -> str:
        """Whether the factor that was chosen instead of another is cut in the end."""
        roots = self.classes.root[chosen]
        if np.isin(roots, self._cuttable).any():
            return "another factor of its axis is cut instead"
        if self.classes.frozen[roots].all():
            # two factors may have been given up for each other; only earlier freezes are followed, so that this ends
            why = "".join(f": {self._told(cause)}" for cause in self._causes(chosen)[:1] if cause < at)
            return f"another factor of its axis was chosen, which stays{why}"
        return "another factor of its axis was chosen, but no layer has weights along it"

    def _causes(self, labels: Labels) -> list[int]:
        """The first freezes of these labels' classes, in the order in which they were found."""
        found = (self._first.get(int(root)) for root in np.unique(self.classes.root[labels]))
        return sorted({at for at in found if at is not None})

    def _is_direct(self, freeze: Freeze, index: int, carried: set[Key]) -> bool:
        """Whether the frozen axis is the node's own output, not one that is tied to it."""
        if freeze.output is not None:
            return freeze.output in carried
        return freeze.node == self.found.places[index].name or not carried.isdisjoint(self._read.get(freeze.node, ()))

    def _carried(self, index: int) -> set[Key]:
        """The node's outputs, and what ops with a single activation input produce from them."""
        pending = [self.found.output_key(index, at) for at in range(len(self.found.places[index].node.output))]
        carried: set[Key] = set()
        while pending:
            key = pending.pop()
            if key not in carried:
                carried.add(key)
                pending += self._made_of_it_alone.get(key, ())
        return carried

    @cached_property
    def _freezes(self) -> tuple[Freeze, ...]:
        return (*self.found.space.freezes, *self.later)

    @cached_property
    def _first(self) -> dict[int, int]:
        """Class → position of the first freeze that contains it."""
        first: dict[int, int] = {}
        for at, freeze in enumerate(self._freezes):
            for root in np.unique(self.classes.root[freeze.labels]).tolist():
                first.setdefault(root, at)
        return first

    @cached_property
    def _cuttable(self) -> Labels:
        return np.concatenate(self.choices) if self.choices else np.zeros(0, np.int64)

    @cached_property
    def _read(self) -> dict[str, set[Key]]:
        """Node → keys of the values that it reads."""
        found = self.found
        return {
            place.name: {found.input_key(index, at) for at, name in enumerate(place.node.input) if name}
            for index, place in enumerate(found.places)
        }

    @cached_property
    def _made_of_it_alone(self) -> dict[Key, list[Key]]:
        """Value → outputs of the nodes that read no other followed value and have no multiply-accumulates."""
        made: dict[Key, list[Key]] = {}
        for index, place in enumerate(self.found.places):
            spec = self.found.spec(index)
            followed = [key for key in self._read[place.name] if any(a is not None for a in self.found.axes.get(key) or ())]
            if len(followed) == 1 and spec is not None and spec.macs is None and not place.bodies:
                made.setdefault(followed[0], []).extend(
                    self.found.output_key(index, at) for at, name in enumerate(place.node.output) if name
                )
        return made

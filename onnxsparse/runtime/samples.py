"""Samples: inputs of several runs, read one by one and as often as needed; they are never held as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from onnxsparse.runtime.session import Feeds

HELD_OUT = 10
"""One of this many samples is held out to judge on."""


class SampleSource(Protocol):
    """A source of samples: a list of feeds, or files that are read when a sample is asked for.

    A source may have `names`, one for each sample.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Feeds: ...

    def __iter__(self) -> Iterator[Feeds]: ...


class Indexed:
    """A base of sources that define `__len__` and `__getitem__` alone."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int, /) -> Feeds:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Feeds]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Picked(Indexed):
    """Some samples of a source, by index; the others are not read."""

    source: SampleSource | Sequence[Feeds]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Feeds:
        return self.source[self.indices[index]]


@dataclass(frozen=True)
class Samples:
    """Inputs of several runs of a model.

    `notes`: where they come from, for reports. `source`: their name in messages. Iteration raises ModelError for a sample that
    cannot be read or does not fit the model.
    """

    feeds: SampleSource | Sequence[Feeds]
    notes: tuple[str, ...] = ()
    source: str = "the given samples"

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    @property
    def whole(self) -> SampleSource | Sequence[Feeds]:
        """All samples of the source, of which these may be some."""
        return self.feeds.source if isinstance(self.feeds, Picked) else self.feeds

    @property
    def places(self) -> Sequence[int]:
        """For each sample, its index among all samples of the source; labels are found by it."""
        return self.feeds.indices if isinstance(self.feeds, Picked) else range(len(self.feeds))

    @property
    def names(self) -> tuple[str, ...]:
        """For each sample, the name of its file, with an index in files of several samples; the index alone without a file."""
        names: Sequence[str] | None = getattr(self.whole, "names", None)
        return tuple(str(place) if names is None else names[place] for place in self.places)

    def pick(self, indices: Sequence[int]) -> "Samples":
        """The samples with these indices."""
        places = self.places
        return replace(self, feeds=Picked(self.whole, [places[index] for index in indices]))

    def every(self, step: int) -> "Samples":
        """Every `step`-th sample, starting with the first."""
        return self.pick(range(0, len(self), step))


def hold_out(samples: Samples) -> tuple[Samples, Samples]:
    """The samples to learn from, and one in HELD_OUT to judge on, but at least one of several. A single sample is learned from.

    Those held out are spread evenly, because files are often sorted by content.
    """
    count = len(samples)
    held = max(1, count // HELD_OUT) if count > 1 else 0
    judged = {(2 * at + 1) * count // (2 * held) for at in range(held)}
    learned = samples.pick([index for index in range(count) if index not in judged])
    note = f"judged on {held} of the {count} samples of {samples.source}, which nothing was learned from"
    return learned, replace(samples.pick(sorted(judged)), notes=(note,))

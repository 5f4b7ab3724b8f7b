"""Channels, single zeros, or both, at equal nonzero MACs: accuracy of classifiers, and cost of the SSDs."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.paper.detectors import costs, path_of
from benchmarks.paper.section import Context, Section
from benchmarks.paper.trained import Trained, networks
from benchmarks.tables import table
from onnxsparse import Model, Prune, PruneChannels, compare, layers, load
from onnxsparse.runtime.inputs import seeded_samples

SHARES = (0.5, 0.3, 0.2)
"""Nonzero MACs that stay, as shares of the dense network's."""

FIRST_CUTS = (0.8, 0.6)
"""Shares of the MACs to which channels are cut before weights are pruned to the rest."""

SSD_GMACS = 8.2
"""What the paper leaves of both SSDs, which have 41 and 164 GMACs."""

SSD_FIRST_CUTS = {"small": 0.5, "large": 0.25}
"""Shares of the MACs to which channels are cut before weights are pruned to the rest: of the large one, to the small one's."""

KINDS = ("single zeros", "channels", "both")


@dataclass(frozen=True)
class Row:
    """Top-1 in per cent of one network at one share, by kind, without data and with the repair."""

    network: str
    share: float
    plain: dict[str, float]
    repaired: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """An SSD by one kind, on cv22. `error_db`: SQNR of the worst output on noise."""

    size: str
    kind: str
    gmacs: float
    latency_ms: float
    mem_p_mb: float
    mem_a_mb: float
    error_db: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        figures = (f"{each:.2f}" for each in (self.gmacs, self.latency_ms, self.mem_p_mb, self.mem_a_mb))
        return self.size, self.kind, *figures, "-" if self.error_db is None else f"{self.error_db:.1f}"


def section(context: Context) -> Section:
    """Accuracy at equal MACs, and what the same kinds cost on the SSD."""
    shares = SHARES[:1] if context.quick else SHARES
    rows = [row for network in networks(context) for row in accuracies(network, shares)]
    found = [cost for size in SSD_FIRST_CUTS for cost in ssd(context, size)]
    told = []
    for row in rows:
        for how, values in (("by magnitude", row.plain), ("on data", row.repaired)):
            told.append((row.network, f"{row.share:.0%}", how, *(f"{values[kind]:.2f}" for kind in KINDS)))
    lines = [
        "Top-1 in per cent at equal nonzero MACs. *by magnitude*: scores of weights alone. *on data*: `--data`, no labels, with",
        "repair. *both*: channels are cut to 80 or 60 % of the MACs first; which is better is decided on held-out samples. The",
        "digits are judged on 200 pictures, so that one is half a point.",
        "",
        *table(("network", "MACs left", "pruned", *KINDS), told),
        "",
        f"The SSDs with {SSD_GMACS} nonzero GMACs, trained magnitudes, by magnitude, on cv22. *both*: channels are cut to",
        f"{SSD_FIRST_CUTS['small']:.0%} of the small one's MACs first, and to {SSD_FIRST_CUTS['large']:.0%} of the large one's.",
        "The last column is the SQNR of the outputs on noise: of weights that are drawn and not trained, nothing is kept.",
        "",
        *table(("SSD", "pruned", "nonzero GMACs", "latency ms", "mem_p MB", "mem_a MB", "outputs, dB"), [c.cells for c in found]),
    ]
    if context.eval is None:
        lines += ["", "ResNet-20 is left out: it and its pictures are not at hand."]
    claim = "The combination is best: structured sparsity saves memory and overhead, unstructured sparsity keeps accuracy."
    return Section("combined", "Structured, unstructured, both", claim, verdict(rows, found), lines)


def verdict(rows: list[Row], found: list[Cost]) -> str:
    """It holds if both together keep at least the accuracy of either alone, on data, and are faster than single zeros."""
    latency = {(cost.size, cost.kind): cost.latency_ms for cost in found}
    sizes = dict.fromkeys(cost.size for cost in found)
    gained = min(1 - latency[size, "both"] / latency[size, "single zeros"] for size in sizes)
    worse = {kind: where(rows, kind) for kind in KINDS[:2]}
    lost = [f"{kind} keep more accuracy on {places}" for kind, places in worse.items() if places]
    lost += [] if gained > 0 else ["single zeros are as fast on cv22"]
    if not lost:
        return f"holds: both together keep the most accuracy and take at least {gained:.0%} less time than single zeros"
    kept = [f"at least the accuracy of {kind} everywhere" for kind, places in worse.items() if not places]
    kept += [f"at least {gained:.0%} less time than single zeros on cv22"] if gained > 0 else []
    return f"differs, because {' and '.join(lost)}; both together have {' and '.join(kept) or 'no advantage'}"


def where(rows: list[Row], kind: str) -> str:
    """The networks and shares at which a kind keeps more accuracy than both together."""
    return ", ".join(f"{r.network} at {r.share:.0%}" for r in rows if r.repaired[kind] > r.repaired["both"])


def accuracies(network: Trained, shares: tuple[float, ...]) -> Iterator[Row]:
    """A row for each share; cuts that several shares begin with are made once."""
    dense = load(network.dense)
    cuts = {first: cut(network, first, learned=True) for first in FIRST_CUTS}
    plain_cut = cut(network, FIRST_CUTS[0], learned=False)
    for share in shares:
        plain = {
            "single zeros": zeroed(network, dense, share, learned=False),
            "channels": cut(network, share, learned=False),
            "both": zeroed(network, plain_cut, share, learned=False),
        }
        both = [zeroed(network, start, share, learned=True) for start in cuts.values()]
        repaired = {
            "single zeros": zeroed(network, dense, share, learned=True),
            "channels": cut(network, share, learned=True),
            "both": max(both, key=lambda model: level(network, model)),
        }
        tops = ({kind: network.top1(model) for kind, model in models.items()} for models in (plain, repaired))
        yield Row(network.name, share, *tops)


def cut(network: Trained, share: float, *, learned: bool) -> Model:
    """The network with this share of its MACs, by channels."""
    model = load(network.dense)
    PruneChannels(macs=share, round_to=1, data=network.data if learned else None).run(model)
    return model


def zeroed(network: Trained, start: Model, share: float, *, learned: bool) -> Model:
    """`start` with zeros, so that this share of the dense network's MACs is nonzero."""
    model, (dense, now) = start.copy(), ((layers(m).totals.macs or 0) for m in (load(network.dense), start))
    if share * dense < now:
        Prune(macs=share * dense / now, data=network.data if learned else None).run(model)
    return model


def level(network: Trained, model: Model) -> float:
    """SQNR in dB of the logits on samples of the data that nothing was learned from."""
    dense = load(network.dense)
    found = compare(dense, model, Prune(data=network.data).split(dense)[1]).outputs[0].sqnr_db
    return float("inf") if found is None else found


def ssd(context: Context, size: str) -> Iterator[Cost]:
    """An SSD by each kind."""
    path = path_of(context, size, "trained")
    dense = load(path)
    whole = layers(dense, count=False).totals.macs or 0
    share = SSD_GMACS * 1e9 / whole
    single, narrow, both = dense.copy(), dense.copy(), dense.copy()
    Prune(macs=share).run(single)
    PruneChannels(macs=share, verify=False).run(narrow)
    PruneChannels(macs=SSD_FIRST_CUTS[size], verify=False).run(both)
    Prune(macs=share * whole / (layers(both, count=False).totals.macs or 0)).run(both)
    noise = seeded_samples(dense, 1, 0)
    for kind, model in zip(KINDS, (single, narrow, both), strict=True):
        cost = costs(model)["cv22"]
        gmacs = (layers(model).totals.nonzero_macs or 0) / 1e9
        error_db = min((o.sqnr_db for o in compare(dense, model, noise).outputs if o.sqnr_db is not None), default=None)
        yield Cost(size, kind, gmacs, cost.latency_ms, cost.mem_p_mb, cost.mem_a_mb or 0.0, error_db)

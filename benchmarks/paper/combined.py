"""Channels, single zeros, or both, at equal nonzero MACs: accuracy of classifiers, and cost of the small SSD."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.paper.detectors import costs, path_of, pruned
from benchmarks.paper.section import Context, Section
from benchmarks.paper.trained import Trained, networks
from benchmarks.tables import table
from onnxsparse import Model, Prune, PruneChannels, compare, layers, load

SHARES = (0.5, 0.3, 0.2)
"""Nonzero MACs that stay, as shares of the dense network's."""

FIRST_CUTS = (0.8, 0.6)
"""Shares of the MACs to which channels are cut before weights are pruned to the rest."""

SSD_SHARE = 0.2
SSD_FIRST_CUT = 0.5
"""The paper's small SSD has 8.2 of 41 GMACs left."""

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
    """The small SSD by one kind, on cv22."""

    kind: str
    gmacs: float
    latency_ms: float
    mem_p_mb: float
    mem_a_mb: float


def section(context: Context) -> Section:
    """Accuracy at equal MACs, and what the same kinds cost on the SSD."""
    shares = SHARES[:1] if context.quick else SHARES
    rows = [row for network in networks(context) for row in accuracies(network, shares)]
    found = list(ssd(context))
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
        f"SSD small with {SSD_SHARE:.0%} of its MACs, trained magnitudes, on cv22 (*both*: to {SSD_FIRST_CUT:.0%} by channels):",
        "",
        *table(
            ("pruned", "nonzero GMACs", "latency ms", "mem_p MB", "mem_a MB"),
            [(c.kind, f"{c.gmacs:.2f}", f"{c.latency_ms:.2f}", f"{c.mem_p_mb:.2f}", f"{c.mem_a_mb:.2f}") for c in found],
        ),
    ]
    if context.eval is None:
        lines += ["", "ResNet-20 is left out: it and its pictures are not at hand."]
    claim = "The combination is best: structured sparsity saves memory and overhead, unstructured sparsity keeps accuracy."
    return Section("combined", "Structured, unstructured, both", claim, verdict(rows, found), lines)


def verdict(rows: list[Row], found: list[Cost]) -> str:
    """It holds if both together keep at least the accuracy of either alone, on data, and are faster than single zeros."""
    latency = {cost.kind: cost.latency_ms for cost in found}
    gained = 1 - latency["both"] / latency["single zeros"]
    worse = {kind: where(rows, kind) for kind in KINDS[:2]}
    lost = [f"{kind} keep more accuracy on {places}" for kind, places in worse.items() if places]
    lost += [] if gained > 0 else ["single zeros are as fast on cv22"]
    if not lost:
        return f"holds: both together keep the most accuracy and take {gained:.0%} less time than single zeros"
    kept = [f"at least the accuracy of {kind} everywhere" for kind, places in worse.items() if not places]
    kept += [f"{gained:.0%} less time than single zeros on cv22"] if gained > 0 else []
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


def ssd(context: Context) -> Iterator[Cost]:
    """The small SSD by each kind."""
    path = path_of(context, "small", "trained")
    single, _ = pruned(path, macs=SSD_SHARE)
    narrow, both = load(path), load(path)
    PruneChannels(macs=SSD_SHARE, verify=False).run(narrow)
    PruneChannels(macs=SSD_FIRST_CUT, verify=False).run(both)
    dense, now = ((layers(m, count=False).totals.macs or 0) for m in (load(path), both))
    Prune(macs=SSD_SHARE * dense / now).run(both)
    for kind, model in zip(KINDS, (single, narrow, both), strict=True):
        cost = costs(model)["cv22"]
        gmacs = (layers(model).totals.nonzero_macs or 0) / 1e9
        yield Cost(kind, gmacs, cost.latency_ms, cost.mem_p_mb, cost.mem_a_mb or 0.0)

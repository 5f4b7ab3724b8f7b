"""Second moments of the inputs of a unit."""

from onnxsparse.calibration.positions import Inputs, gather
from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.array_types import Floats
from onnxsparse.recovery.units import Unit


def unit_moments(unit: Unit, walk: Walk, seed: int) -> Floats:
    """H of a unit's inputs, before whose first node the walk stands.

    Of a tensor with several sites, it is the mean over them; a walk of its own reaches the later ones.
    """
    found = Inputs.of(gather(walk, unit.sites[0], seed), centre=unit.shifts).moments()
    if len(unit.sites) == 1:
        return found
    ahead = walk.fork()
    for site in unit.sites[1:]:
        ahead.advance(site.index)
        found = found + Inputs.of(gather(ahead, site, seed), centre=False).moments()
    return found / len(unit.sites)

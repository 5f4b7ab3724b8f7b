"""Which samples say most: an order by hand, halves without the samples they are judged on, and data that is silent at its end."""

import numpy as np

from onnxsparse import Model, Quantize
from onnxsparse.quantization.accuracy.heard import Heard, covering, hold_out_heard, with_signal
from onnxsparse.runtime.samples import Samples, hold_out
from tests.graphs import Array, chain, model, node

LEVELS = [1e-3, 2e-3, 50.0, 3e-3, 4e-3, -60.0, 70.0, 80.0]
LOUD = {50.0, -60.0, 70.0, 80.0}


def filled(*levels: float) -> Samples:
    return Samples([{"x": np.full((1, 3, 8, 8), level, np.float32)} for level in levels])


def levels_of(samples: Samples) -> list[float]:
    return [float(f"{each['x'][0, 0, 0, 0]:g}") for each in samples]


def test_each_slice_is_heard_in_turn() -> None:
    """A has most of the first slice, b all of the second, c a little of the first; d is silent."""
    a, b, c, d = [9.0, 0.0], [0.0, 1.0], [4.0, 0.0], [0.0, 0.0]
    assert covering(np.array([d, c, b, a])) == [2, 3, 1, 0]
    assert covering(np.array([[np.nan, 1.0], [5.0, 1.0]])) == [1, 0]


def test_half_of_the_loud_samples_is_probed_and_half_judged() -> None:
    found = Heard.of(Model.from_proto(chain(3, 4)), filled(*LEVELS))
    probed, judged = levels_of(found.probed), levels_of(found.judged)
    assert len(probed) == 4
    assert sorted([*probed, *judged]) == sorted(LEVELS)
    assert len({*probed} & LOUD) == len({*judged} & LOUD) == 2


def test_an_output_of_one_number_is_heard() -> None:
    built = model([node("GlobalAveragePool", "x", "a"), node("Flatten", "a", "y")], {"x": "1x1x8x8"}, ["y"])
    data = Samples([{"x": np.full((1, 1, 8, 8), level, np.float32)} for level in (1.0, 2.0, -7.0, 3.0)])
    assert list(Heard.of(built, data).order) == [2, 3, 1, 0]


def test_ranges_of_a_half_are_found_on_other_samples() -> None:
    found = Heard.of(Model.from_proto(chain(3, 4)), filled(*LEVELS))
    probed, tried = levels_of(found.probed), []
    for numbers, others in found.halves():
        own = {probed[number] for number in numbers}
        assert own.isdisjoint(levels_of(others))
        assert {*probed} - own <= {*levels_of(others)}
        tried += numbers
    assert sorted(tried) == [0, 1, 2, 3]
    assert not [*Heard.of(Model.from_proto(chain(3, 4)), filled(1.0)).halves()]


def test_what_is_held_out_has_signal_and_leaves_some_to_learn_from() -> None:
    """Twenty samples, two of them loud, none of which an even choice of two holds out."""
    built = model([node("Relu", "x", "y")], {"x": "1x3x8x8"}, ["y"])
    data = filled(*[1e-4] * 8, 5.0, *[1e-4] * 3, 6.0, *[1e-4] * 7)
    learned, judged = hold_out(data)
    assert not {5.0, 6.0} & {*levels_of(judged)}
    fewer, others, notes = with_signal(built, learned, judged)
    assert len({5.0, 6.0} & {*levels_of(others)}) == len({5.0, 6.0} & {*levels_of(fewer)}) == 1
    assert {*fewer.places}.isdisjoint([*others.places, *judged.places])
    assert {*others.places}.isdisjoint(judged.places)
    assert notes == ["judged on 1 other samples: on those held out, 'y' has no signal"]
    assert with_signal(built, judged, learned)[2] == []


def test_a_single_sample_is_learned_from() -> None:
    learned, judged, _ = hold_out_heard(Model.from_proto(chain(3, 4)), filled(1.0))
    assert (len(learned), len(judged)) == (1, 0)


def test_an_sqnr_is_reached_although_the_even_choice_is_silent() -> None:
    built = Model.from_proto(chain(3, 8, 4))
    rng = np.random.default_rng(3)
    size = [5.0 if number % 4 == 0 else 1e-6 for number in range(20)]  # 5 and 15 are held out
    data: list[dict[str, Array]] = [{"x": (level * rng.standard_normal((1, 3, 8, 8))).astype(np.float32)} for level in size]
    report = Quantize(min_sqnr=10).run(built.copy(), Samples(data))
    assert any("an SQNR of 10 dB was requested" in note for note in report.notes)

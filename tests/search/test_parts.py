"""The parts of a search: budgets, densities, generations, promotion, and measurements that are kept."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse import Model, ParamError, Prune, PruneChannels, layers, load
from onnxsparse.analysis.layer_filter import choose
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.report.records import totals
from onnxsparse.cost.workload import workload
from onnxsparse.parallel.files import below
from onnxsparse.pipeline.reuse import Reuse, reused, reusing
from onnxsparse.runtime.samples import Samples
from onnxsparse.search.budgets import Budget, Budgets, read_budget
from onnxsparse.search.densities import Densities, allocated, exact_pattern
from onnxsparse.search.front import Point, undominated
from onnxsparse.search.generations import SIZE, distributions, grid, proposed, told
from onnxsparse.search.run import promoted
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import Outcome, Params, Trial, recipe, run_trial
from tests.graphs import chain
from tests.recovery.samples import inputs
from tests.search.conftest import MACS


class TestBudgets:
    @pytest.mark.parametrize("text", ["latency_ms", "latency_ms=", "latency_ms=nan", "latency_ms=inf", "fps=0", "fps=x"])
    def test_of_no_number(self, text: str) -> None:
        with pytest.raises(ParamError, match="write it as"):
            read_budget(text)

    def test_frames_per_second_are_a_latency(self) -> None:
        assert (read_budget("fps=25").most, read_budget("fps=25").cost) == (40.0, "latency_ms")

    def test_latency_is_judged_by_the_highest_variant(self, small: Subject) -> None:
        budgets = Budgets((Budget("latency_ms", 1.0),), small.backend)
        known = totals(deploy_on(small.load(), small.backend))
        values = [quantity.value(workload(small.load()), 8) for quantity in budgets.quantities()]
        assert max(values) == pytest.approx(known["latency_ms_high"])
        assert budgets.excess(known) == [pytest.approx((known["latency_ms_high"] or 0) - 1)]
        optimistic = replace(budgets, optimistic=True)
        assert [q.value(workload(small.load()), 8) for q in optimistic.quantities()] == [pytest.approx(known["latency_ms"])]

    @pytest.mark.parametrize("name", ["latency_ms", "nonzero_macs", "macs", "mem_p_mb", "mem_a_mb", "dram_mb"])
    def test_quantities_are_the_totals_of_the_report(self, name: str) -> None:
        given = model_with_zeros()
        budgets = Budgets((Budget(name, 1.0),), Subject(model=Path(), data=Path()).backend, optimistic=True)
        (quantity,) = budgets.quantities()
        known = totals(deploy_on(given, budgets.backend))[name]
        assert known is not None
        assert quantity.value(workload(given), 8) == pytest.approx(known, rel=1e-9)


def model_with_zeros() -> Model:
    found = Model.from_proto(chain(3, 16, 24, 8))
    kept = found.weights["conv1.weight"].copy()
    kept[:, ::2] = 0
    found.weights["conv1.weight"] = kept
    return found


class TestDensities:
    def found(self, subject: Subject, *budgets: Budget) -> Densities:
        model = subject.load()
        learned, _ = PruneChannels(data=subject.data).split(model)
        assert learned is not None
        return allocated(model, learned, Budgets(budgets, subject.backend).quantities(), "2GB", 0, 8)

    def test_prune_keeps_what_was_allocated(self, small: Subject) -> None:
        texts = self.found(small, Budget("nonzero_macs", MACS / 3)).texts
        pruned = small.load()
        report = Prune(data=small.data, sparsity=0.0, layer_sparsity=texts).run(pruned)
        after = layers(pruned).totals.nonzero_macs
        assert after is not None
        assert MACS / 3 - 64 < after <= MACS / 3
        assert not any("sensitivity was measured" in note for note in report.notes)

    def test_layers_that_the_budget_does_not_feel_stay_dense(self, small: Subject) -> None:
        """Only the memory of coefficients is limited; a target that stores them dense is out of reach."""
        dense = deploy_on(small.load(), small.backend).mem_p_mb
        texts = self.found(small, Budget("mem_p_mb", 0.3 * dense)).texts
        pruned = small.load()
        Prune(data=small.data, sparsity=0.0, layer_sparsity=texts).run(pruned)
        assert deploy_on(pruned, small.backend).mem_p_mb <= 0.3 * dense

    def test_several_budgets_are_used_up_together(self, tmp_path: Path) -> None:
        """Latency on three variants of the target, and memory: one of them is used almost whole, and none exceeded."""
        onnx.save(chain(32, 128, 128, 32, size=16), tmp_path / "wide.onnx")
        np.save(tmp_path / "calib.npy", inputs(12, "1x32x16x16"))
        wide = Subject(model=tmp_path / "wide.onnx", data=tmp_path / "calib.npy")
        dense = deploy_on(wide.load(), wide.backend)
        budgets = (Budget("latency_ms", 0.8 * max(dense.variants.values())), Budget("mem_p_mb", 0.6 * dense.mem_p_mb))
        pruned = wide.load()
        Prune(data=wide.data, sparsity=0.0, layer_sparsity=self.found(wide, *budgets).texts).run(pruned)
        excess = Budgets(budgets, wide.backend).excess(totals(deploy_on(pruned, wide.backend)))
        assert -0.05 < max(excess) <= 0

    def test_within_the_budget_nothing_is_pruned(self, small: Subject) -> None:
        assert self.found(small, Budget("nonzero_macs", 2 * MACS)) == Densities()

    def test_out_of_reach(self, small: Subject) -> None:
        found = self.found(small, Budget("nonzero_macs", MACS / 30))
        # a layer keeps 6 % of its weights, rounded up
        assert found.exceeded == pytest.approx(30 * 0.06, rel=0.01)
        assert not found.texts

    @pytest.mark.parametrize("name", ["conv1", "a[0]/conv", "re:x", "op:Conv", "@list", "a*b", "a.b"])
    def test_patterns_match_one_node(self, name: str) -> None:
        proto = chain(3, 16, 24, 8)
        for at, other in enumerate([name, f"{name}.inner", f"{name}2"]):
            proto.graph.node[2 * at].name = other
        facts = layers(Model.from_proto(proto))
        assert choose(facts, [exact_pattern(facts, name, "m")], "test", "m") == {name}


def outcome(reach: float, cost: float, loss: float, fault: str | None = None) -> Outcome:
    return Outcome(Params(reach=reach), 32, (), fault, {"nonzero_macs": cost}, (cost / 10 - 1,), loss)


class TestGenerations:
    def test_the_grid_lies_within_what_may_be_proposed(self) -> None:
        choices = distributions([8, 4], channels=True, quantize=True)
        for at_budget in (True, False):
            for params in grid([8, 4], channels=True, at_budget=at_budget):
                told(params, choices, [1.0, 1.0], 0.0, {})  # raises for a value that is not

    def test_without_channels_to_cut(self) -> None:
        assert {params.channels for params in grid([8], channels=False, at_budget=True)} == {0.0}
        assert set(distributions([8], channels=False, quantize=False)) == {"reach"}

    def test_a_generation_follows_from_seed_number_and_past(self) -> None:
        choices = distributions([8, 4], channels=True, quantize=False)
        rng = np.random.default_rng(0)
        ways = grid([8], channels=True, at_budget=True) * 2
        past = [told(params, choices, rng.random(2).tolist(), 0.0, {}) for params in ways]
        first = proposed(3, 1, past, choices, at_budget=True)
        assert first == proposed(3, 1, past, choices, at_budget=True)
        assert len(first) == SIZE
        others = [proposed(4, 1, past, choices, at_budget=True), proposed(3, 2, past, choices, at_budget=True)]
        others.append(proposed(3, 1, past[:-1], choices, at_budget=True))
        assert all(first != other for other in others)
        assert sum(params.reach == 1.0 for params in first) == 6

    def test_promoted_are_those_within_limits_that_nothing_beats(self, small: Subject) -> None:
        subject = replace(small, budgets=(Budget("nonzero_macs", 10.0),))
        cheap = [
            outcome(1, 9, 0.5),
            outcome(1, 9, 0.4),
            outcome(1, 11, 0.1),  # beyond the limit
            outcome(1, 8, 0.3, "it failed"),
            outcome(1, 8, 0.6),
            outcome(1, 9.5, 0.45),
        ]
        assert promoted(subject, cheap) == [0, 1, 4, 5]
        assert promoted(subject, [*cheap[:2], *cheap[3:], outcome(1, 9.6, 0.49)]) == [0, 1, 3, 4]
        assert promoted(subject, cheap[2:4]) == [0]
        assert promoted(subject, []) == []


def test_a_point_that_keeps_all_limits_is_not_beaten_by_one_that_does_not(small: Subject) -> None:
    subject = replace(small, budgets=(Budget("nonzero_macs", 10.0), Budget("mem_p_mb", 1.0)))

    def point(number: int, cost: float, loss: float, memory: float) -> Point:
        made = replace(outcome(1, cost, loss), exceeds=(cost / 10 - 1, memory - 1))
        return Point(number, made, cost, Path(), Path())

    keeps, exceeds, worse = point(0, 9, 0.5, 0.9), point(1, 8, 0.4, 2.0), point(2, 9, 0.6, 0.8)
    assert undominated(subject, [keeps, exceeds, worse]) == [exceeds, keeps]
    assert undominated(subject, [keeps, point(3, 8, 0.4, 1.0)]) == [point(3, 8, 0.4, 1.0)]


def test_a_recipe_names_the_files_of_the_caller(small: Subject, tmp_path: Path) -> None:
    """Not those of the worker on another machine that ran the trial."""
    target = tmp_path / "own.toml"
    target.write_text(files("onnxsparse.targets").joinpath("cv22.toml").read_text())
    subject = replace(small, target=str(target), quantize=True)
    spool = tmp_path / "spool"
    for file in subject.files():
        below(spool, file).parent.mkdir(parents=True, exist_ok=True)
        below(spool, file).write_bytes(file.read_bytes())
    found = run_trial(Trial(subject, Params(), None, tmp_path, keep=False).moved(spool), 0)
    assert found.fault is None
    assert "spool" not in repr(recipe(subject, found.steps))
    assert str(target) in repr(recipe(subject, found.steps))


class TestReuse:
    def test_content_decides(self, tmp_path: Path) -> None:
        given, calls = model_with_zeros(), itertools.count(1)

        def once(model: Model, samples: Sequence[int], options: object) -> int:
            """The number of the call whose result is found."""
            return reused("number", model, Samples([{}] * 9).pick(list(samples)), options, lambda: next(calls))

        with reusing(Reuse(tmp_path, "data")):
            assert [once(given, [1, 2], "o"), once(given.copy(), [1, 2], "o")] == [1, 1]
            changed = given.copy()
            changed.weights["conv0.bias"] = changed.weights["conv0.bias"] + 1
            assert [once(changed, [1, 2], "o"), once(given, [1, 3], "o"), once(given, [1, 2], "p")] == [2, 3, 4]
        with reusing(Reuse(tmp_path, "other data")):
            assert once(given, [1, 2], "o") == 5
        assert [once(given, [1, 2], "o"), once(given, [1, 2], "o")] == [6, 7]  # without a folder

    def test_a_torn_file_is_measured_again(self, tmp_path: Path) -> None:
        samples = Samples([{}])
        with reusing(Reuse(tmp_path, "data")):
            reused("number", model_with_zeros(), samples, "", lambda: 1)
            (file,) = tmp_path.iterdir()
            file.write_bytes(file.read_bytes()[:-3])
            assert reused("number", model_with_zeros(), samples, "", lambda: 2) == 2


class TestTrials:
    def test_after_too_much_memory_half_of_the_samples_are_learned_from(self, small: Subject, tmp_path: Path) -> None:
        trial = Trial(small, Params(channels=0.5), None, tmp_path, keep=False)
        found = run_trial(trial, 1)
        assert found.samples == 27  # of 54
        assert {options["samples"] for step in found.steps for options in step.values()} == {27}
        assert run_trial(trial, 0).samples is None

    def test_a_trial_moves_with_its_files(self, small: Subject, tmp_path: Path) -> None:
        moved = Trial(small, Params(), None, tmp_path, keep=False).moved(Path("/spool"))
        assert moved.subject.model == Path("/spool") / small.model.relative_to("/")
        assert moved.subject.data == Path("/spool") / small.data.relative_to("/")
        assert moved.cache == Path("/spool") / tmp_path.relative_to("/")
        assert set(small.files()) == {small.model, small.data}

    def test_data_and_options_are_in_the_digest(self, small: Subject, tmp_path: Path) -> None:
        other = replace(small, data=tmp_path / "calib.npy")
        np.save(other.data, np.load(small.data) + 1)
        again = replace(small, data=tmp_path / "same.npy")
        again.data.write_bytes(small.data.read_bytes())
        assert again.digest() == small.digest()
        different = [other, replace(small, seed=1), replace(small, target="roofline"), replace(small, quantize=True)]
        assert len({subject.digest() for subject in (small, *different)}) == 5


def test_few_samples_are_spread_evenly(small: Subject) -> None:
    learned, judged = PruneChannels(data=small.data, samples=6).split(small.load())
    whole, held_out = PruneChannels(data=small.data).split(small.load())
    assert learned is not None and whole is not None and judged is not None and held_out is not None
    assert list(learned.places) == [whole.places[at] for at in (0, 9, 18, 27, 36, 45)]
    assert list(judged.places) == list(held_out.places)
    every, _ = PruneChannels(data=small.data, samples=99).split(small.load())
    assert every is not None and len(every) == 54


def test_a_cut_alone_is_the_cut_of_the_pass(small: Subject) -> None:
    alone, whole = load(small.model), load(small.model)
    options = PruneChannels(macs=0.5, round_to=4, importance="l1", scope="all")
    share = options.cut(alone)
    options.run(whole)
    assert alone.digest() == whole.digest()
    assert share <= 0.5
    assert replace(options, macs=1e-9, round_to=24).cut(load(small.model)) == 1.0


def test_channels_cover_what_zeros_cannot(small: Subject, tmp_path: Path) -> None:
    """A tenth of the way by channels leaves more than 6 % of the weights can do; so more channels go."""
    deep = replace(small, budgets=(Budget("nonzero_macs", MACS / 30),))
    alone = run_trial(Trial(deep, Params(channels=0.0), None, tmp_path, keep=False), 0)
    assert alone.fault is not None and "out of reach" in alone.fault
    found = run_trial(Trial(deep, Params(channels=0.1, round_to=4), None, tmp_path, keep=False), 0)
    assert found.fault is None
    assert found.exceeds[0] <= 0
    assert [name for step in found.steps for name in step] == ["prune-channels", "prune"]

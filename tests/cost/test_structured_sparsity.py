"""Targets that gain from the pattern 2:4: only conforming layers do, and the report counts them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Model, ParamError, Prune, Quantize
from onnxsparse.cost.backends.advice import advise
from onnxsparse.cost.backends.hardware import load_hardware
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.cost.report.caveats import structured
from onnxsparse.cost.sparsity_sweep import curves
from tests.cost.test_backends import item
from tests.graphs import chain


def by_node(found: Deployment) -> dict[str, bool | None]:
    return {each.node: each.two_of_four for each in found.load.items if each.weights}


def test_by_hand() -> None:
    """312 GMACs at 312 TMAC/s are 1 ms; 2:4: half. 1000 weights take 1000 bytes; 2:4: 500 of 8 bits, each with 2 bits: 625."""
    backend = make_backend(load_hardware("nvidia-a100"))
    dense = backend.cost(item(macs=312 * 10**9, weights=1000, nonzeros=500, two_of_four=False))
    half = backend.cost(item(macs=312 * 10**9, weights=1000, nonzeros=500, two_of_four=True))
    assert dense is not None
    assert half is not None
    assert dense.compute_ms == pytest.approx(1.0)
    assert half.compute_ms == pytest.approx(0.5)
    assert (dense.coefficient_bytes, half.coefficient_bytes) == (1000, 625)


def test_advice_is_the_pattern_where_it_pays() -> None:
    """By hand, as above: 0.5 ms of 1 are saved, once; the CV22 gains from any zeros, 10 % at a time."""
    backend = make_backend(load_hardware("nvidia-a100"))
    work = item(macs=312 * 10**9, weights=1000, nonzeros=1000, two_of_four=False)
    cost, pruned = backend.cost(work), replace(work, nonzeros=500, two_of_four=True)
    assert cost is not None
    assert str(advise(backend, work, cost)) == "prune to 2:4: 0.500 ms"
    assert str(advise(backend, pruned, cost)) == "cut channels"
    assert str(advise(backend, replace(work, two_of_four=None), cost)) == "cut channels"
    assert str(advise(make_backend(load_hardware("cv22")), work, cost)).startswith("prune on")


def test_a_sweep_prunes_without_a_pattern() -> None:
    """The times of a curve are those of unstructured zeros, also for a file that is 2:4."""
    model = Model.from_proto(chain(3, 8, 8, 8))
    dense = deploy(model, "nvidia-a100")
    Prune(pattern="2:4", protect="none").run(model)
    pruned = deploy(model, "nvidia-a100")
    assert [c.latency_ms for c in curves(pruned.load, pruned.backend)] == [
        c.latency_ms for c in curves(dense.load, dense.backend)
    ]


def test_integers_of_a_pruned_file_keep_the_pattern(tmp_path: Path) -> None:
    model = Model.from_proto(chain(8, 8, 8))
    Prune(pattern="2:4", protect="none").run(model)
    np.save(tmp_path / "c.npy", np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(np.float32))
    Quantize(target="onnxruntime-x86", data=tmp_path / "c.npy").run(model)
    found = deploy(model, "nvidia-a100")
    assert found.load.widths()["weights"] == {8: 2}
    assert set(by_node(found).values()) == {True}


def test_a_target_without_it_gains_nothing() -> None:
    backend = make_backend(load_hardware("roofline"))
    work = item(macs=10**9, weights=1000, nonzeros=500, two_of_four=True)
    assert backend.cost(work) == backend.cost(replace(work, two_of_four=False))


def test_layers_conform_along_their_inputs_alone() -> None:
    """The first layer has 3 inputs. Zeros in the first two inputs of every four conform; the same number elsewhere does not."""
    model = Model.from_proto(chain(3, 8, 8, 8))
    along, across = (model.weights[f"conv{i}.weight"].copy() for i in (1, 2))
    along[:, [0, 1, 4, 5]] = 0
    across[:4] = 0
    model.weights["conv1.weight"], model.weights["conv2.weight"] = along, across
    assert np.count_nonzero(along) == np.count_nonzero(across)
    assert by_node(deploy(model, "nvidia-a100")) == {"conv0": None, "conv1": True, "conv2": False}


def test_the_report_counts_them() -> None:
    model = Model.from_proto(chain(3, 8, 8, 8))
    before = structured(deploy(model, "nvidia-a100"))
    Prune(pattern="2:4", protect="none", only=("conv1",)).run(model)
    after = structured(deploy(model, "nvidia-a100"))
    cannot = "1 cannot: their inputs are unknown, packed or no multiple of 4"
    only = "layers have it, and only they gain from zeros"
    by = "could by 'prune --pattern 2:4 --protect none', which saves"
    assert before is not None
    assert after is not None
    assert re.fullmatch(rf"pattern 2:4: 0 of 3 {only}; 2 {by} \S+ ms; {cannot}", before)
    assert re.fullmatch(rf"pattern 2:4: 1 of 3 {only}; 1 {by} \S+ ms; {cannot}", after)
    assert structured(deploy(model, "cv22")) is None


def test_a_factor_has_to_be_above_zero(tmp_path: Path) -> None:
    numbers = "[numbers]\npeak_gmac_per_s = 1\nbandwidth_gb_per_s = 1\nstructured_sparsity = 0\n"
    text = f'format = 1\nname = "x"\nkind = "roofline"\n{numbers}'
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ParamError, match=r"structured_sparsity: must be above 0"):
        load_hardware(tmp_path / "x.toml")

"""The proof of a cut: it holds in every precision, and it fails where the cut is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model
from onnxsparse.channels.cut import Cutter, apply_cut
from onnxsparse.channels.groups import solve
from onnxsparse.channels.importance import weight_importance
from onnxsparse.channels.proof import prove
from onnxsparse.channels.selection import Choice, choose_channels
from onnxsparse.channels.widening import is_in_float32, widened
from onnxsparse.runtime import session
from tests.channels.cutting import halve, ints, shapes, sound
from tests.commands import Run, files
from tests.graphs import FLOAT, chain, model, node, weight


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_other_sizes_are_proven_in_float32(dtype: type) -> None:
    """Normalised over what is left, halfway in another precision, with a constant that is made in the graph."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    filled = onnx.helper.make_tensor("value", kind, [1], [2.0])
    nodes = [
        node("MatMul", "x w", "a"),
        node("ConstantOfShape", "size", "two", value=filled),
        node("Mul", "a two", "c"),
        node("LayerNormalization", "c s", "n"),
        node("Cast", "n", "f", to=FLOAT),
        node("Softmax", "f", "p"),
        node("Cast", "p", "h", to=kind),
        node("MatMul", "h v", "y"),
    ]
    weights: dict[str, Any] = {
        name: weight(shape, 1).astype(dtype) for name, shape in {"w": "8x12", "s": "12", "v": "12x4"}.items()
    }
    built = model(nodes, {"x": ("2x5x8", kind)}, ["y"], {**weights, "size": ints([12])})
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "s", "v") == {"w": (8, 6), "s": (6,), "v": (6, 4)}
    assert smaller.weights["w"].dtype == dtype
    sound(smaller, proof)


def test_a_large_half_precision_tensor_in_any_attribute_is_widened() -> None:
    table = onnx.numpy_helper.from_array(np.full((32, 32), 0.5, np.float16))
    built = model([node("Mystery", "x", "y", domain="acme", table=table)], {"x": "4"}, domains={"acme": 1})
    held = widened(built).proto.graph.node[0].attribute[0].t
    assert held.data_type == FLOAT
    assert not is_in_float32(built)
    assert is_in_float32(widened(built))


def test_kernels_of_the_callers_own_serve_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that run alone need the library too."""
    registered: list[str] = []
    start = session.start

    def watched(given: Model, options: Any, custom_ops: Any = ()) -> Any:
        registered.extend(path.name for path in custom_ops or (Path("none"),))
        return start(given, options)

    monkeypatch.setattr(session, "start", watched)
    built = Model.from_proto(chain(3, 8, 8, 4))
    solution = solve(built)
    chosen = choose_channels(solution.groups, weight_importance(built, solution, "l1"), Choice(0.5, round_to=1))
    smaller = built.copy()
    apply_cut(smaller, solution, solution.removal(chosen))
    assert prove(built, solution, chosen, smaller, (Path("own.so"),)).nodes
    assert set(registered) == {"own.so"}


class TestTheProof:
    """It has to fail where the cut is wrong."""

    def test_a_wrong_bias_is_found(self) -> None:
        built = Model.from_proto(chain(3, 8, 8, 4))
        solution = solve(built)
        chosen = choose_channels(solution.groups, weight_importance(built, solution, "l1"), Choice(0.5, round_to=1))
        smaller = built.copy()
        apply_cut(smaller, solution, solution.removal(chosen))
        assert prove(built, solution, chosen, smaller).holds
        bias = np.array(smaller.weights["conv0.bias"])
        smaller.weights["conv0.bias"] = bias[::-1].copy()
        broken = prove(built, solution, chosen, smaller)
        assert not broken.holds
        assert broken.worst_node is not None
        assert broken.worst_node.node == "conv0"

    def test_other_channels_than_chosen_are_found(self) -> None:
        built = Model.from_proto(chain(3, 8, 8, 4))
        solution = solve(built)
        first, second = (np.concatenate([g.classes[part] for g in solution.groups]) for part in (slice(4), slice(4, None)))
        smaller = built.copy()
        apply_cut(smaller, solution, solution.removal(first))
        assert not prove(built, solution, second, smaller).holds

    def test_a_model_whose_outputs_say_nothing_is_run_again_with_other_weights(self) -> None:
        """A head of zeros: every selection gives the same outputs."""
        built = Model.from_proto(chain(3, 8, 8, 4))
        built.weights["conv2.weight"] = np.zeros((4, 8, 3, 3), np.float32)
        _, proof = halve(built)
        assert proof.rescaled
        assert proof.holds
        assert proof.sensitive

    def test_a_cut_that_does_not_hold_is_refused(
        self, run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Cutter._write_constants

        def in_disorder(cutter: Cutter) -> tuple[str, ...]:
            taken = {place: cutter._taken(version) for place, version in cutter.versions.items()}
            cutter.versions = {place: array[::-1] if array.ndim == 1 else array for place, array in taken.items()}
            return write(cutter)

        monkeypatch.setattr(Cutter, "_write_constants", in_disorder)
        before = files(tmp_path)
        message = run.fails(1, "prune-channels", source, tmp_path / "out.onnx", "--round-to", "1")
        assert "is not the original without the cut channels" in message
        assert files(tmp_path) == before


def test_tensors_keep_their_names_through_a_cut() -> None:
    built = Model.from_proto(chain(3, 8, 4))
    smaller, _ = halve(built)
    assert set(smaller.weights) == set(built.weights)

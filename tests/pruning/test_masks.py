"""Masks: written by prune, applied by apply-masks."""

from pathlib import Path

import numpy as np
import pytest

from onnxsparse import ApplyMasks, ModelError, ParamError
from onnxsparse.ir.model import Model
from tests.graphs import chain
from tests.pruning.pruned import prune


class TestMasks:
    def test_round_trip(self, tmp_path: Path) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        pruned, report = prune(built, sparsity_op=0.7, masks=tmp_path / "m.npz")
        with (tmp_path / "m.npz").open("wb") as file:
            report.artifacts[tmp_path / "m.npz"](file)
        again = built.copy()
        ApplyMasks(masks=tmp_path / "m.npz").run(again)
        assert again.to_bytes() == pruned.to_bytes()

    def save(self, path: Path, **masks: np.ndarray) -> ApplyMasks:
        np.savez(path, **masks)  # type: ignore[arg-type]  # the stub takes every keyword for its own option
        return ApplyMasks(masks=path)

    def test_a_mask_for_no_weight(self, tmp_path: Path) -> None:
        with pytest.raises(ParamError, match="has a mask for 'w9', and the model has no such weight"):
            self.save(tmp_path / "m.npz", w9=np.ones((8, 8), bool)).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_of_another_shape(self, tmp_path: Path) -> None:
        mask = {"conv0.weight": np.ones((4, 4), bool)}
        with pytest.raises(
            ParamError, match=r"the mask for 'conv0.weight' is \[4, 4\], and the weight in the model is \[4, 3, 3, 3\]"
        ):
            self.save(tmp_path / "m.npz", **mask).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_that_is_no_mask(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="masks are boolean"):
            self.save(tmp_path / "m.npz", **{"conv0.weight": np.ones((4, 3, 3, 3))}).run(Model.from_proto(chain(3, 4)))

    def test_a_file_that_is_no_npz(self, tmp_path: Path) -> None:
        (tmp_path / "m.npz").write_text("no")
        with pytest.raises(ModelError, match="it is not an npz file"):
            ApplyMasks(masks=tmp_path / "m.npz").run(Model.from_proto(chain(3, 4)))

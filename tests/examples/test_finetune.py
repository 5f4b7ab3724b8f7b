"""The loop of examples/iterative_finetune.py on a small network. Needs torch, which is no dependency of the package."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxsparse import load

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")  # sample_models.train_digits imports it

from examples import iterative_finetune as loop  # noqa: E402  # it imports torch

SHAPE = (3, 9, 9)


def network() -> Any:
    """Convolutions with and without normalisation and bias, depthwise too, a Linear over positions, and a head."""
    nn = torch.nn
    torch.manual_seed(0)
    convolutions = [
        nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Conv2d(16, 8, 1, bias=False),
    ]
    module = nn.Sequential(*convolutions, nn.Flatten(2), nn.Linear(25, 12), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))
    module.train()
    for _ in range(5):  # statistics that are not those of an identity
        module(2 * torch.randn(16, *SHAPE) + 1)
    return module.eval()


def steps(module: Any, x: Any, y: Any, optimizer: Any, epochs: int) -> None:
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, *SHAPE, generator=generator), torch.randint(10, (60,), generator=generator)
    monkeypatch.setattr(loop, "digits", SimpleNamespace(load_split=lambda: (x, x, y, y), train=steps))
    monkeypatch.setattr(loop, "dense_network", network)
    monkeypatch.setattr(loop, "TARGETS", (0.2, 0.4))


def test_the_script_is_short() -> None:
    assert len(Path(loop.__file__).read_text().splitlines()) < 130


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export")
@pytest.mark.usefixtures("small")
def test_the_loop_holds_zeros_and_trains_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.main(tmp_path)
    told = capsys.readouterr().out
    assert "at sparsity_op 0.4" in told
    tuned, final, pruned = (load(tmp_path / name).weights for name in ("tuned-0.4.onnx", "final.onnx", "pruned.onnx"))
    with np.load(tmp_path / "masks.npz") as archive:
        masks = dict(archive)
    with np.load(tmp_path / "weights.npz") as archive:
        weights = dict(archive)
    state = network().state_dict()
    assert set(masks) == {name for name in state if state[name].ndim > 1}
    for name, mask in masks.items():
        assert np.array_equal(weights[name], pruned[name])
        assert np.array_equal(mask, pruned[name] != 0)
        assert not final[name][~mask].any()
        assert np.array_equal(final[name], tuned[name])  # the zeros survived the training and the export
        assert (final[name] != pruned[name])[mask].mean() > 0.5
    assert set(weights) - set(masks) == {"0.0.bias", "1.0.bias", "2.bias", "7.bias"}


def test_a_name_that_the_module_lacks_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the module has no 5\.weight, 9\.bias"):
        loop.load_weights(network(), {"5.weight": np.zeros(3, np.float32), "9.bias": np.zeros(3, np.float32)})

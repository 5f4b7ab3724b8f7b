"""Rounds of pruning with masked fine-tuning in PyTorch after each, on the networks of `trained`.

The digits are learned from their labels, which come with scikit-learn. Of ResNet-20's data, pictures without labels are at hand:
it learns the answers of the dense network on them. Neither torch nor scikit-learn is needed for the rest of the page.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.paper.trained import PAPER, Trained
from onnxsparse import Model, Prune, load
from onnxsparse.runtime.session import runner

BATCH, EPOCHS = 16, 5
"""Pictures of a step, and epochs after each round."""

RATE = 0.0005
"""First rate of Adam, which needs no other for networks whose normalisations are folded."""

STAGES = (16, 16, 16, 32, 32, 32, 64, 64, 64)
"""Channels of the residual blocks of ResNet-20; the first of each width halves the resolution."""


@dataclass(frozen=True)
class Tuned:
    """Top-1 in per cent of a network after rounds that took so many minutes."""

    top1: float
    minutes: float


@dataclass(frozen=True)
class Training:
    """A torch module that computes what the file does, and how it learns. `names`: tensor of the file → name of the parameter.

    `loss`: what the module says, numbers of the pictures, and the pictures as it got them → a scalar.
    """

    module: Any
    names: dict[str, str]
    x: Any
    loss: Callable[[Any, Any, Any], Any]
    flip: bool

    def tune(self, model: Model) -> None:
        """Train the weights of a pruned model in place; zeros stay."""
        import torch

        from examples import iterative_finetune as loop

        stored = {parameter: model.weights[name] for name, parameter in self.names.items()}
        loop.load_weights(self.module, stored)
        optimizer = torch.optim.Adam(self.module.parameters(), lr=RATE)
        loop.hold_zeros(optimizer, self.module, {name: values != 0 for name, values in stored.items() if values.ndim > 1})
        steps = EPOCHS * len(self.x) // BATCH
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(self.x), (BATCH,))
            batch = self._augmented(self.x[chosen])
            loss = self.loss(self.module(batch), chosen, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        for name, parameter in self.names.items():
            model.weights[name] = self.module.get_parameter(parameter).detach().numpy().copy()

    def _augmented(self, batch: Any) -> Any:
        """The pictures, moved by up to a pixel, and some of them mirrored."""
        import torch

        moved = torch.roll(batch, tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
        return torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, moved.flip(3), moved) if self.flip else moved


def why_not() -> str | None:
    """What training lacks, as a clause; None if nothing."""
    missing = [name for module, name in (("torch", "torch"), ("sklearn", "scikit-learn")) if find_spec(module) is None]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed" if missing else None


def measured(network: Trained, target: float, shares: Sequence[float]) -> Tuned:
    """Prune to each of `shares` of the target by global L1, and train after each."""
    import torch

    torch.set_num_threads(1)  # so that sums do not depend on the cores
    torch.manual_seed(0)
    start, model = time.perf_counter(), load(network.dense)
    training = trainings()[network.name](network)
    for share in shares:
        Prune(sparsity_op=share * target, **PAPER).run(model)
        training.tune(model)
    return Tuned(network.top1(model), (time.perf_counter() - start) / 60)


def trainings() -> dict[str, Callable[[Trained], Training]]:
    """Network → how it is trained."""
    return {"digits": digits, "ResNet-20": resnet20}


def digits(network: Trained) -> Training:
    """The digits classifier that ships, its normalisations folded, with the labels of scikit-learn."""
    from torch.nn.functional import cross_entropy

    from examples.iterative_finetune import prepared
    from sample_models import train_digits

    x, _, y, _ = train_digits.load_split()
    module = prepared(train_digits.network())
    return Training(module, matched(module, network), x, lambda said, chosen, _: cross_entropy(said, y[chosen]), flip=False)


def resnet20(network: Trained) -> Training:
    """ResNet-20, its normalisations folded, which learns what its dense self says."""
    import torch

    module = resnet20_module()
    names, x = matched(module, network), torch.from_numpy(np.load(network.data))
    teacher = deepcopy(module).eval()

    def loss(said: Any, _: Any, batch: Any) -> Any:
        with torch.no_grad():
            wanted = teacher(batch)
        return torch.nn.functional.mse_loss(said, wanted)

    return Training(module, names, x, loss, flip=True)


def resnet20_module() -> Any:
    """The layers of ResNet-20 for CIFAR-10 without normalisations; shortcuts between widths are zeros (option A of the paper,
    arXiv 1512.03385).
    """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, last = nn.Conv2d(3, STAGES[0], 3, padding=1), nn.ModuleList(), STAGES[0]
            for width in STAGES:
                first = nn.Conv2d(last, width, 3, stride=width // last, padding=1)
                self.blocks.extend([first, nn.Conv2d(width, width, 3, padding=1)])
                last = width
            self.head = nn.Linear(last, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.stem(x))
            for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
                step, more = first.stride[0], (first.out_channels - first.in_channels) // 2
                shortcut = nn.functional.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, more, more))
                x = torch.relu(second(torch.relu(first(x))) + shortcut)
            return self.head(x.mean((2, 3)))

    return Network()


def matched(module: Any, network: Trained) -> dict[str, str]:
    """Tensor → name of the parameter, in the order of the layers; the parameters get the tensors' values.

    Raises AssertionError if the module does not compute what the network does.
    """
    import torch

    from examples import iterative_finetune as loop

    model = load(network.dense)
    nodes = [node for node in model.proto.graph.node if node.op_type in ("Conv", "Gemm")]
    found = dict(zip((n for node in nodes for n in node.input[1:]), (n for n, _ in module.named_parameters()), strict=True))
    loop.load_weights(module, {parameter: model.weights[name] for name, parameter in found.items()})
    with torch.no_grad():
        said = np.asarray(module.eval()(torch.from_numpy(network.x[:8])))
    (wanted,) = runner(model).run({model.proto.graph.input[0].name: network.x[:8]}).values()
    assert np.allclose(said, wanted, atol=1e-3)
    return found

"""Prune, repair and fine-tune in rounds. A template: put your network, data and training in place of the digits classifier's.

python sample_models/train_digits.py --save model.pt
python -m examples.iterative_finetune

Each round prunes further, repairs, loads weights into the PyTorch module by name, and trains under the masks (docs/finetune.md).
"""

import copy
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from onnxsparse import ApplyMasks, Pipeline, Prune, layers, load
from onnxsparse.pipeline.run import write
from sample_models import train_digits as digits

Arrays = Mapping[str, NDArray[Any]]

TARGETS = (0.3, 0.5, 0.6, 0.7)  # sparsity_op after each round

# your network, data and training


def dense_network() -> nn.Module:
    """The trained network."""
    module = digits.network()
    module.load_state_dict(torch.load("model.pt"))
    return module


def train(module: nn.Module, masks: Arrays) -> None:
    """Train the module in place, at a small learning rate: the repaired weights are close to good ones."""
    x, _, y, _ = digits.load_split()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4, nesterov=True)
    hold_zeros(optimizer, module, masks)
    digits.train(module, x, y, optimizer, epochs=5)


def accuracy(model: nn.Module | Path) -> float:
    """Top-1 on held-out digits in points."""
    _, x, _, y = digits.load_split()
    return 100 * float((outputs(model, x).argmax(1) == y.numpy()).mean())


# the rest is the same for every network


def prepared(module: nn.Module) -> nn.Module:
    """A copy with each normalisation folded into the convolution before it, so that the export changes no tensor or name."""
    module = copy.deepcopy(module).eval()
    for (name, conv), (after, norm) in pairwise([*module.named_modules(), ("", None)]):
        if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.set_submodule(name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(after, nn.Identity())
        elif conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels))  # the repair may need it
    return module


def load_weights(module: nn.Module, weights: Arrays) -> None:
    """Load tensors by name. Raises ValueError for a name that the module does not have."""
    unknown = module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()}, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the module has no {', '.join(sorted(unknown))}")


def hold_zeros(optimizer: Any, module: nn.Module, masks: Arrays) -> None:
    """Let every step of the optimizer put the zeros back. Weights without a mask are free."""
    pairs = [(module.get_parameter(name), torch.tensor(mask)) for name, mask in masks.items()]

    def put_back(*_: object) -> None:
        for parameter, mask in pairs:
            parameter.data.mul_(mask)

    optimizer.register_step_post_hook(put_back)


def outputs(model: nn.Module | Path, x: torch.Tensor) -> NDArray[Any]:
    """What a module computes, or an ONNX file in onnxruntime."""
    if isinstance(model, Path):
        return np.asarray(InferenceSession(model).run(None, {"image": x.numpy()})[0])
    with torch.no_grad():
        return np.asarray(model.eval()(x))


def export(module: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Write ONNX. Without constant folding, a weight that the exporter transposes keeps its name."""
    options = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": {0: "batch"}}}
    torch.onnx.export(module.eval(), (x[:1],), path, dynamo=False, do_constant_folding=False, opset_version=17, **options)


def main(folder: Path) -> None:
    """Run all rounds. The models go into `folder`, `final.onnx` last."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    masks_file, weights_file, data = (folder / name for name in ("masks.npz", "weights.npz", "calib.npy"))
    x = digits.load_split()[0][:512]  # inputs alone, without labels
    np.save(data, x.numpy())
    dense, source, pruned = dense_network().eval(), folder / "dense.onnx", folder / "pruned.onnx"
    module = prepared(dense)
    np.testing.assert_allclose(outputs(module, x), outputs(dense, x), rtol=1e-3, atol=1e-4, err_msg="folded normalisation")
    export(module, x, source)
    for target in TARGETS:
        model, step = load(source), Prune(sparsity_op=target, data=data, masks=masks_file, weights=weights_file)
        write(model, pruned, Pipeline([step]).run(model))
        load_weights(module, np.load(weights_file))
        np.testing.assert_allclose(outputs(module, x), outputs(pruned, x), rtol=1e-3, atol=1e-4, err_msg="loaded weights")
        train(module, np.load(masks_file))
        source = folder / f"tuned-{target}.onnx"
        export(module, x, source)
        print(f"{target}: {accuracy(pruned):.2f} repaired, {accuracy(source):.2f} fine-tuned")
    model, final = load(source), folder / "final.onnx"
    write(model, final, Pipeline([ApplyMasks(masks=masks_file)]).run(model))
    print(f"final.onnx: {accuracy(final):.2f} at sparsity_op {layers(model).totals.sparsity_op:.4f}")


if __name__ == "__main__":
    main(Path("rounds"))

"""Train the digits classifier that the demo prunes, and export it with its held-out digits.

    pip install torch scikit-learn
    python sample_models/train_digits.py

The data are the 1797 handwritten digits of 8x8 pixels that scikit-learn ships (Optical Recognition of Handwritten Digits,
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0, doi 10.24432/C50P49). Only this script needs torch.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 100
BATCH = 64
TEST_DIGITS = 400


class Residual(nn.Module):
    """Two convolutions with batch normalisation around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


def network() -> nn.Sequential:
    """Stem, two stages of residual blocks, the second at half the resolution, and a linear head."""
    stem = [nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    down = [nn.Conv2d(24, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)]
    return nn.Sequential(*stem, Residual(24), Residual(24), *down, Residual(48), Residual(48), *head)


def load_split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, x_test, y, y_test: pictures N x 1 x 8 x 8 in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=TEST_DIGITS, random_state=SEED, stratify=labels)
    x, x_test, y, y_test = (torch.from_numpy(np.ascontiguousarray(part)) for part in split)
    return x, x_test, y, y_test


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,))
        shift = tuple(int(s) for s in torch.randint(-1, 2, (2,)))
        batch = torch.roll(x[chosen], shift, (2, 3))  # a pixel in any direction; the digits have a margin
        loss = nn.functional.cross_entropy(model(batch), y[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="also save the network's state_dict here, for fine-tuning")
    save: Path | None = parser.parse_args().save
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    x, x_test, y, y_test = load_split()
    model = network()
    train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=4e-3, nesterov=True), EPOCHS)
    model.eval()
    with torch.no_grad():
        right = float((model(x_test).argmax(1) == y_test).float().mean())
    print(f"{100 * right:.2f} % of {TEST_DIGITS} held-out digits right")
    if save is not None:
        torch.save(model.state_dict(), save)
    np.savez_compressed(HERE / "digits_test.npz", x=x_test.numpy(), y=y_test.numpy())
    torch.onnx.export(
        model,
        (x_test[:1],),
        str(HERE / "digits.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


if __name__ == "__main__":
    main()

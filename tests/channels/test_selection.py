"""How many channels of a group rounding leaves."""

import pytest

from onnxsparse.channels.groups import kept_channels


@pytest.mark.parametrize(
    ("count", "ratio", "round_to", "width", "kept"),
    [
        (64, 0.5, 8, 1, 32),
        (20, 0.5, 8, 1, 16),
        (10, 0.5, 8, 1, 8),
        (6, 0.5, 8, 1, 6),
        (7, 0.5, 1, 1, 4),
        (12, 0.5, 8, 64, 6),
        (3, 0.9, 1, 1, 1),
    ],
)
def test_what_rounding_leaves(count: int, ratio: float, round_to: int, width: int, kept: int) -> None:
    assert kept_channels(count, ratio, round_to, width) == kept

"""Fixtures of the cost tests."""

import pytest

from onnxsparse import Model
from onnxsparse.cost.estimate import Deployment, deploy
from sample_models.build import SMALL, build


@pytest.fixture
def detector() -> Deployment:
    """The small sample model on the default target."""
    return deploy(Model.from_proto(build(SMALL)))

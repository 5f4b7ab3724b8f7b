"""stub"""

from pathlib import Path
from typing import Annotated

from onnxsparse.ir.option_roles import Role

LabelsFile = Annotated[Path, Role(lambda v, o: None)]

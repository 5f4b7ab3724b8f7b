"""Whether what was learned helps: judged on samples that nothing was learned from."""

from onnxsparse.ir.model import Model
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples


def keep_better(dense: Model, model: Model, plain: Model, judged: Samples | None, what: str) -> str:
    """Compare `model` and `plain`, the same without repair, with the dense model, and make `model` the better of both.

    `judged`: samples that nothing was learned from; None: there are none, and `model` stays. `what`: how the repair is called.
    Returns a note.
    """
    if judged is None:
        return f"the {what} was not judged: there is no sample that it did not learn from; give --test"
    levels = [compare(dense, either, judged).worst_sqnr_db for either in (plain, model)]
    told = ["no figure" if level is None else f"{level:.2f} dB" for level in levels]
    if None not in levels and levels[1] < levels[0]:  # type: ignore[operator]  # both are numbers
        model.assign(plain)
        return f"the {what} was left out: the worst output or slice has {told[0]} without it, {told[1]} with it"
    return f"the worst output or slice of held-out samples has {told[1]}; without the {what} {told[0]}"

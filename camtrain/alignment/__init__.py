"""The cure, in any training loop: evidence is penalized off the object, and objects stand before other backgrounds."""

from camtrain.alignment.aligning import Alignment
from camtrain.alignment.batch import Processes
from camtrain.alignment.network import Looking, Network
from camtrain.alignment.outlining import MaskMaker, Sheet
from camtrain.alignment.penalty import Penalty
from camtrain.alignment.step import Scalar, Step, Term
from camtrain.alignment.twins import Twins

__all__ = [
    "Alignment",
    "Looking",
    "MaskMaker",
    "Network",
    "Penalty",
    "Processes",
    "Scalar",
    "Sheet",
    "Step",
    "Term",
    "Twins",
]

"""Training by maximum likelihood. ``run`` takes a snapshot and gives another; nothing here knows ``Flow``."""

from penstock.training.across import Spread, spread
from penstock.training.bootstrap import bootstrapped
from penstock.training.checkpoint import Checkpoint
from penstock.training.data import Data, training_data
from penstock.training.dequantize import lattice_of
from penstock.training.diagnosis import TrainingError
from penstock.training.members import Team, Turn
from penstock.training.options import Options, default_epochs
from penstock.training.ranks import Ranks, check_divides, together
from penstock.training.run import run
from penstock.training.sharded import FirstWrites
from penstock.training.shelf import Shelf
from penstock.training.stacking import mixture_weights

__all__ = [
    "Checkpoint", "Data", "FirstWrites", "Options", "Ranks", "Shelf", "Spread", "Team", "TrainingError", "Turn", "bootstrapped",
    "check_divides",
    "default_epochs", "lattice_of", "mixture_weights", "run", "spread", "together", "training_data",
]  # fmt: skip

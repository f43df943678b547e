"""Training by maximum likelihood. ``run`` takes a snapshot and gives another; nothing here knows ``Flow``."""

from penstock.training.checkpoint import Checkpoint
from penstock.training.data import Data, training_data
from penstock.training.dequantize import lattice_of
from penstock.training.diagnosis import TrainingError
from penstock.training.options import Options
from penstock.training.run import run

__all__ = ["Checkpoint", "Data", "Options", "TrainingError", "lattice_of", "run", "training_data"]

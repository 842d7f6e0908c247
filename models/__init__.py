"""Frozen backbones and what is trained on them: one file per method."""

from .accumulator import AccumulatorModel
from .backbone import BUILTIN, Backbone, Block, ModelError, load_backbone
from .base import SHARED, AdapterModel, ExitHead, State, block_unit
from .evaluation import ExitScores, evaluate_exits
from .exits import ExitsModel
from .registry import METHODS, build_model, parse_exits

__all__ = [
    "BUILTIN",
    "METHODS",
    "SHARED",
    "AccumulatorModel",
    "AdapterModel",
    "Backbone",
    "Block",
    "ExitHead",
    "ExitScores",
    "ExitsModel",
    "ModelError",
    "State",
    "block_unit",
    "build_model",
    "evaluate_exits",
    "load_backbone",
    "parse_exits",
]

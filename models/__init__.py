"""Frozen backbones and what is trained on them: one file per method."""

from .accumulator import AccumulatorModel
from .adapters import ADAPTERS, AdapterSpec
from .anytime import AnytimeClassifier, Prediction
from .backbone import BUILTIN, Backbone, Block, ModelError, load_backbone
from .base import EMBED, SHARED, AdapterModel, ExitHead, FixedFeaturesModel, State, block_unit
from .cost import ExitCost, anytime_profile
from .evaluation import ExitScores, score_exits
from .exits import ExitsModel
from .exported import load_exported, write_exported
from .registry import METHODS, build_model, parse_exits

__all__ = [
    "ADAPTERS",
    "BUILTIN",
    "EMBED",
    "METHODS",
    "SHARED",
    "AccumulatorModel",
    "AdapterModel",
    "AdapterSpec",
    "AnytimeClassifier",
    "Backbone",
    "Block",
    "ExitCost",
    "ExitHead",
    "ExitScores",
    "ExitsModel",
    "FixedFeaturesModel",
    "ModelError",
    "Prediction",
    "State",
    "anytime_profile",
    "block_unit",
    "build_model",
    "load_backbone",
    "load_exported",
    "parse_exits",
    "score_exits",
    "write_exported",
]

"""Frozen backbones and what is trained on them: one file per method."""

from .accumulator import AccumulatorModel
from .adapters import ADAPTERS, RANKED, AdapterSpec, parse_targets
from .anytime import AnytimeClassifier, Prediction
from .backbone import BUILTIN, Backbone, Block, ModelError, load_backbone
from .base import (
    BLOCK,
    EMBED,
    SHARED,
    AdapterModel,
    ExitHead,
    State,
    block_unit,
)
from .cost import ExitCost, anytime_profile
from .depthfl import DepthflModel
from .evaluation import ExitScores, score_exits
from .exits import ExitsModel
from .exported import load_exported, write_exported
from .fixed_features import FixedFeaturesModel
from .gates import PRIVATE_GATES, Mixture
from .hyper_attention import HEAD, PERSONAL, HyperAttentionModel
from .hypernetwork import Hypernetwork, HypernetworkTrainer
from .inclusivefl import InclusiveflModel
from .mofm import GATE, LOCAL, MofmModel
from .reefl import ReeflModel
from .registry import METHODS, build_model, parse_exits
from .scalefl import ScaleflModel

__all__ = [
    "ADAPTERS",
    "BLOCK",
    "BUILTIN",
    "EMBED",
    "GATE",
    "HEAD",
    "LOCAL",
    "METHODS",
    "PERSONAL",
    "PRIVATE_GATES",
    "RANKED",
    "SHARED",
    "AccumulatorModel",
    "AdapterModel",
    "AdapterSpec",
    "AnytimeClassifier",
    "Backbone",
    "Block",
    "DepthflModel",
    "ExitCost",
    "ExitHead",
    "ExitScores",
    "ExitsModel",
    "FixedFeaturesModel",
    "HyperAttentionModel",
    "Hypernetwork",
    "HypernetworkTrainer",
    "InclusiveflModel",
    "Mixture",
    "ModelError",
    "MofmModel",
    "Prediction",
    "ReeflModel",
    "ScaleflModel",
    "State",
    "anytime_profile",
    "block_unit",
    "build_model",
    "load_backbone",
    "load_exported",
    "parse_exits",
    "parse_targets",
    "score_exits",
    "write_exported",
]

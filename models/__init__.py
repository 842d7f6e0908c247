"""Frozen backbones and what is trained on them: one file per method."""

from .accumulator import AccumulatorModel
from .adapters import ADAPTERS, RANKED, AdapterSpec, parse_targets
from .anytime import AnytimeClassifier, Prediction
from .backbone import Backbone, Block, ModelError
from .base import AdapterModel, ExitHead, State
from .cost import ExitCost, anytime_profile, training_flops
from .depthfl import DepthflModel
from .evaluation import ExitScores, score_exits
from .exits import ExitsModel
from .exported import load_exported, write_exported
from .fixed_features import FixedFeaturesModel
from .gates import PRIVATE_GATES, Mixture
from .hyper_attention import HEAD, PERSONAL, HyperAttentionModel
from .hypernetwork import Hypernetwork, HypernetworkTrainer
from .inclusivefl import InclusiveflModel
from .layerwise import LayerwiseModel
from .linear import fit_head
from .memory import StepMemory, count_step, measure_step
from .memory_formula import MemoryEstimate, evaluation_bytes, predict_step
from .mofm import GATE, LOCAL, MofmModel
from .pretrained import BUILTIN, load_backbone
from .reefl import ReeflModel
from .registry import METHODS, build_model, parse_exits
from .scalefl import ScaleflModel
from .simclr import PROJECTION, SimclrModel
from .units import BLOCK, EMBED, SHARED, block_unit

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
    "PROJECTION",
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
    "LayerwiseModel",
    "MemoryEstimate",
    "Mixture",
    "ModelError",
    "MofmModel",
    "Prediction",
    "ReeflModel",
    "ScaleflModel",
    "SimclrModel",
    "State",
    "StepMemory",
    "anytime_profile",
    "block_unit",
    "build_model",
    "count_step",
    "evaluation_bytes",
    "fit_head",
    "load_backbone",
    "load_exported",
    "measure_step",
    "parse_exits",
    "parse_targets",
    "predict_step",
    "score_exits",
    "training_flops",
    "write_exported",
]

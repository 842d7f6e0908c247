"""Federated strategies for adapters, as plug-ins for any Flower ServerApp."""

from .activation import Activation, LinearActivation, PlateauActivation
from .adapter_fedavg import AdapterFedAvg
from .bank import FROZEN, KEPT, SKIPPED, Bank
from .callbacks import Callback, ClientRow, RoundReport
from .codec import BYTES_PER_NUMBER, WIRE_DTYPES
from .codec_grid import CodecGrid
from .codec_mod import wire_codec
from .errors import StrategyError
from .exchange import receive
from .exclusivefl import ExclusivePlanner
from .held_out import HELD_OUT
from .holdings import LASTING
from .hyper_attention import HyperAttention
from .inclusivefl import InclusiveFL, InclusivePlanner
from .layerwise import LayerwiseFedAvg, LayerwiseSchedule
from .mofm import VALIDATION, StagePlanner, TwoStage
from .nodes import PROFILE, Profile
from .optimizers import (
    ServerAdam,
    ServerDyn,
    ServerMomentum,
    ServerOptimizer,
    ServerSgd,
    ServerYogi,
)
from .plans import CutPlanner, DepthPlanner, KeepingPlanner, Plan, Planner
from .privacy import epsilon
from .replies import REPORT
from .rounds import PERSONALISE_PHASE
from .rules import Aggregation
from .tiers import Tier, assign_tiers, parse_tiers
from .wire import Layout, plain_record, read_array, record_bytes

__all__ = [
    "BYTES_PER_NUMBER",
    "FROZEN",
    "HELD_OUT",
    "KEPT",
    "LASTING",
    "PERSONALISE_PHASE",
    "PROFILE",
    "REPORT",
    "SKIPPED",
    "VALIDATION",
    "WIRE_DTYPES",
    "Activation",
    "AdapterFedAvg",
    "Aggregation",
    "Bank",
    "Callback",
    "ClientRow",
    "CodecGrid",
    "CutPlanner",
    "DepthPlanner",
    "ExclusivePlanner",
    "HyperAttention",
    "InclusiveFL",
    "InclusivePlanner",
    "KeepingPlanner",
    "LayerwiseFedAvg",
    "LayerwiseSchedule",
    "Layout",
    "LinearActivation",
    "Plan",
    "Planner",
    "PlateauActivation",
    "Profile",
    "RoundReport",
    "ServerAdam",
    "ServerDyn",
    "ServerMomentum",
    "ServerOptimizer",
    "ServerSgd",
    "ServerYogi",
    "StagePlanner",
    "StrategyError",
    "Tier",
    "TwoStage",
    "assign_tiers",
    "epsilon",
    "parse_tiers",
    "plain_record",
    "read_array",
    "receive",
    "record_bytes",
    "wire_codec",
]

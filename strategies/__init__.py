"""Federated strategies for adapters, as plug-ins for any Flower ServerApp."""

from .adapter_fedavg import AdapterFedAvg
from .bank import FROZEN, Bank
from .callbacks import Callback, ClientRow, RoundReport
from .errors import StrategyError
from .nodes import PROFILE, Profile
from .plans import DepthPlanner, Plan, Planner, Tier, assign_tiers, parse_tiers
from .replies import REPORT
from .wire import WIRE_DTYPES, Layout, plain_record, read_array, record_bytes

__all__ = [
    "FROZEN",
    "PROFILE",
    "REPORT",
    "WIRE_DTYPES",
    "AdapterFedAvg",
    "Bank",
    "Callback",
    "ClientRow",
    "DepthPlanner",
    "Layout",
    "Plan",
    "Planner",
    "Profile",
    "RoundReport",
    "StrategyError",
    "Tier",
    "assign_tiers",
    "parse_tiers",
    "plain_record",
    "read_array",
    "record_bytes",
]

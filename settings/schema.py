"""The settings of the app as one checked object; a file for each group declares them.

The same keys, in kebab-case, stand with the same defaults in ``[tool.flwr.app.config]`` of
pyproject.toml (a test compares the two); docs/settings.md is made from them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .checks import SettingsError, Value, check, convert
from .data import DataSettings
from .model import ModelSettings
from .run import RunSettings
from .server import ServerSettings
from .training import TrainingSettings

# Methods whose models take the same options.
SHARED_PREFIXES = dict.fromkeys(
    ("hyper-attention", "local-attention", "shared-attention"), "attention_"
)

# Methods that train blocks, with no classifier of their own in the way.
LABEL_FREE = ("exits", "layerwise")


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, ServerSettings, TrainingSettings, DataSettings, ModelSettings):
    """The settings of a run, checked; see each field's metadata for its meaning.

    Dataclasses collect the fields of their bases from the last to the first.
    """

    def __post_init__(self) -> None:
        """Check every value, and those that depend on each other."""
        for spec in fields(self):
            check(spec.name.replace("_", "-"), getattr(self, spec.name), spec.metadata)
        if self.clients_per_round > self.num_clients:
            raise SettingsError(
                f"clients-per-round: {self.clients_per_round} is more than the num-clients of "
                f"{self.num_clients}; lower it, or raise num-clients."
            )

        if self.minimum_rate > self.learning_rate:
            raise SettingsError(
                f"minimum-rate: {self.minimum_rate} is above the learning-rate of "
                f"{self.learning_rate}; lower it."
            )
        if self.min_replies > self.clients_per_round:
            raise SettingsError(
                f"min-replies: {self.min_replies} can never come from the clients-per-round of "
                f"{self.clients_per_round}; lower it."
            )
        if self.noise_multiplier and not (self.clip_update and self.aggregation == "mean"):
            raise SettingsError(
                "noise-multiplier: noise needs a clip-update above 0 and aggregation=mean; set "
                "both, or leave noise-multiplier at 0."
            )
        if self.server_optimizer == "dyn" and self.server_learning_rate:
            raise SettingsError(
                "server-learning-rate: server-optimizer=dyn has none; leave it at 0."
            )
        if self.method == "hyper-attention":
            self._check_hypernetwork()
        if self.stored_views and self.augment == "none" and self.objective == "supervised":
            raise SettingsError(
                "stored-views: without random changes all views of an image are the same; set "
                "augment, or leave it at 0."
            )
        if self.rank_aggregation == "product":
            self._check_product()
        if self.objective != "supervised":
            self._check_self_supervised()
        self._check_stages()

    def _check_hypernetwork(self) -> None:
        """Refuse what does not go together with a hypernetwork on the server."""
        if self.noise_multiplier:
            raise SettingsError(
                "noise-multiplier: hyper-attention learns from each client's change by itself, "
                "without noise, so no epsilon would hold; set it to 0, or take local-attention."
            )
        if self.server_optimizer == "dyn":
            raise SettingsError(
                "server-optimizer: dyn holds clients back to one bank, and with hyper-attention "
                "each gets tensors of its own; choose another."
            )
        if self.attention_form == "projections" and self.hyper_attention_zero_start:
            raise SettingsError(
                "hyper-attention-zero-start: whole projections of zero pass nothing on and learn "
                "nothing; set it to false, or attention-form to factors."
            )

    def _check_stages(self) -> None:
        """Refuse stages that `mofm` cannot have."""
        first = self.stage_one_rounds
        if first > self.rounds or (first > 1 and first % 1):
            raise SettingsError(
                f"stage-one-rounds: {first:g} is neither a whole number up to the rounds of "
                f"{self.rounds} nor, below 1, a share of them; correct it."
            )
        if self.activation == "plateau" and not self.gate_share:
            raise SettingsError(
                "activation: plateau needs a gate-share above 0, as the accuracy on this share "
                "decides; raise it, or choose another activation."
            )

    @property
    def stage_one(self) -> int:
        """Rounds of stage 1."""
        first = self.stage_one_rounds
        return int(first) if first >= 1 else round(first * self.rounds)

    def _check_product(self) -> None:
        """Refuse what does not go together with an average of LoRA's products."""
        if self.method in ("inclusivefl", "scalefl"):
            raise SettingsError(
                f"rank-aggregation: method {self.method} averages element by element; set it to "
                "truncate."
            )
        for name, needed in {
            "adapter": ("lora",),
            "aggregation": ("mean",),
            "noise_multiplier": (0,),
            "server_optimizer": ("sgd",),
            "server_learning_rate": (0, 1),  # 0 is the usual one, which is 1
        }.items():
            if (value := getattr(self, name)) not in needed:
                key = name.replace("_", "-")
                raise SettingsError(
                    f"rank-aggregation: product needs {key}={needed[0]}, and it is {value}; change "
                    "it, or set rank-aggregation to truncate."
                )

    def _check_self_supervised(self) -> None:
        """Refuse what has no meaning where clients read no labels."""
        methods = " or ".join(LABEL_FREE)
        for wrong, reason in (
            (
                self.method not in LABEL_FREE,
                f"trains blocks alone, and {self.method} has parts beside them; set method to "
                f"{methods}",
            ),
            (
                self.adapter == "none",
                "leaves nothing behind with adapter=none, as its head is thrown away; choose "
                "another, such as full",
            ),
            (
                self.batch_size < 2,
                "tells the images of a batch apart, so batch-size must be 2 or more; raise it",
            ),
            (
                self.sampling != "shuffled",
                f"reads no labels, which sampling={self.sampling} needs; set it to shuffled",
            ),
            (
                bool(self.personalise_epochs or self.held_out_clients),
                "gives the clients no classifier that could be scored; set personalise-epochs to "
                "0, and hold out no clients",
            ),
        ):
            if wrong:
                raise SettingsError(f"objective: {self.objective} {reason}.")

    @property
    def model(self) -> str:
        """Name of the model that is trained: the method, or an objective without labels."""
        return self.method if self.objective == "supervised" else self.objective

    def method_options(self) -> dict[str, Any]:
        """Return the settings named after the model, as its keyword arguments."""
        return self._options(server=False)

    def server_options(self) -> dict[str, Any]:
        """Return the server's settings named after the method, as its strategy's arguments."""
        return self._options(server=True)

    def _options(self, *, server: bool) -> dict[str, Any]:
        prefix = f"{(self.method if server else self.model).replace('-', '_')}_"
        if not server:
            prefix = SHARED_PREFIXES.get(self.model, prefix)
        servers = {spec.name for spec in fields(ServerSettings)}
        return {
            spec.name.removeprefix(prefix): getattr(self, spec.name)
            for spec in fields(self)
            if spec.name.startswith(prefix) and (spec.name in servers) == server
        }

    def to_dict(self) -> dict[str, Value]:
        """Return all settings by their kebab-case keys."""
        return {spec.name.replace("_", "-"): getattr(self, spec.name) for spec in fields(self)}

    def to_toml(self) -> str:
        """Write all settings as TOML, which `load_toml` reads back."""
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.to_dict().items())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Read kebab-case keys; text is converted to the setting's type.

        Raises
        ------
        SettingsError
            For an unknown key or a bad value.
        """
        types = {spec.name.replace("_", "-"): type(spec.default) for spec in fields(cls)}
        for key in values:
            if key not in types:
                near = difflib.get_close_matches(key, types, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else "see docs/settings.md."
                raise SettingsError(f"'{key}' is no setting; {hint}")
        converted: dict[str, Any] = {
            key.replace("-", "_"): convert(key, value, types[key]) for key, value in values.items()
        }
        return cls(**converted)

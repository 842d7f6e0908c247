"""The ClientApp: answers a profile query, trains the plan's units, scores its own test part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from client_app.dyn import DynTerm
from client_app.node import LocalNode, local_node
from client_app.own import OwnTensors
from client_app.personal import save_personal
from client_app.training import Trainer, get_trainer
from data import DataError
from models import ExitScores, ModelError
from settings import Settings, SettingsError
from strategies import (
    FROZEN,
    KEPT,
    PROFILE,
    REPORT,
    WIRE_DTYPES,
    Profile,
    StrategyError,
    wire_codec,
)
from wiring import get_layout, read_settings

USER_ERRORS = (DataError, ModelError, SettingsError, StrategyError)
Handler = Callable[[Message, Context, Settings], RecordDict]


def answering(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wrap a handler: settings are read, and a user's mistake is answered in one sentence."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            settings = read_settings(context.run_config)
            return Message(handler(message, context, settings), reply_to=message)
        except USER_ERRORS as error:
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
            return Message(reason, reply_to=message)

    return answer


def profile(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Tell who this node is."""
    del message
    node = local_node(context, settings)
    answer = Profile(context.node_id, node.client_key, node.tier, len(node.train), WIRE_DTYPES)
    return RecordDict({PROFILE: answer.to_record()})


def train(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Train the units that came as packs; reply the same ones, in the same order."""
    node = local_node(context, settings)
    trainer, depth = _load(message, context, node, settings)
    units, kept = list(message.content["arrays"]), _kept(message)
    term = None
    if settings.server_optimizer == "dyn":
        term = DynTerm(trainer.model, units, settings.dyn_alpha, context.state)
    server_round = int(_config(message)["server-round"])
    result = trainer.train(
        [*units, *kept],
        depth,
        node.train,
        node.train_transform,
        server_round=server_round,
        client_key=node.client_key,
        epochs=settings.local_epochs,
        term=term,
    )
    if term is not None:
        term.remember(context.state)
    if kept:
        tensors = trainer.model.adapter_arrays(kept)
        _own_tensors(message, context, node, settings).save(server_round, tensors)
    layout = get_layout(trainer.model)
    vectors = layout.flatten(trainer.model.adapter_arrays(units), units)
    arrays = ArrayRecord({unit: layout.to_array(unit, vectors[unit]) for unit in units})
    reply = RecordDict({"arrays": arrays, "metrics": MetricRecord({**result.metrics})})
    if result.unchanged:
        reply[REPORT] = ConfigRecord({"unchanged": result.unchanged})
    return reply


def evaluate(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Score every exit this node's tier reaches on its own test part."""
    node = local_node(context, settings)
    trainer, depth = _load(message, context, node, settings)
    scores = trainer.predictor.score(node.test, node.test_transform, depth)
    metrics = {f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()}
    metrics |= {f"loss-exit-{e}": value for e, value in scores.loss.items()}
    metrics |= {"accuracy": scores.last, "num-examples": scores.examples}
    return RecordDict({"metrics": MetricRecord({**metrics})})


def personalise(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Train what came for this node alone; score it before, and after each epoch.

    Only the scores are sent.
    """
    node = local_node(context, settings)
    trainer, depth = _load(message, context, node, settings)
    units = [*message.content["arrays"], *_kept(message)]
    scores: list[ExitScores] = []

    def score() -> None:
        scores.append(trainer.predictor.score(node.test, node.test_transform, depth))

    score()
    trainer.train(
        units,
        depth,
        node.train,
        node.train_transform,
        server_round=settings.rounds + 1,  # random numbers that no round has drawn
        client_key=node.client_key,
        epochs=settings.personalise_epochs,
        rate=settings.personalise_rate or settings.learning_rate,
        after_epoch=score,
    )
    if node.personal_dir:
        save_personal(node, settings, trainer.model, depth, scores[-1])
    metrics = {
        "accuracy-before": scores[0].last,
        **{f"accuracy-epoch-{n}": found.last for n, found in enumerate(scores[1:], 1)},
        "accuracy": scores[-1].last,
        "num-examples": scores[-1].examples,
    }
    return RecordDict({"metrics": MetricRecord({**metrics})})


def _config(message: Message) -> Any:
    return message.content["config"]


def _load(
    message: Message, context: Context, node: LocalNode, settings: Settings
) -> tuple[Trainer, int]:
    """Put the message's adapters into the process's model; return its trainer and the depth."""
    trainer, config = get_trainer(settings, node.num_classes, node.tier), _config(message)
    layout = get_layout(trainer.model)
    if layout.fingerprint() != config["layout"]:
        raise SettingsError(
            "the server's adapters are others than this node's: both need the same method, tiers, "
            f"backbone and classes (here {node.num_classes}; set classes to name them)."
        )
    if config.get("backbone") not in (None, trainer.model.backbone.fingerprint):
        raise SettingsError(
            f"backbone: the weights of '{settings.backbone}' on this node are others than the "
            "server's; adapters fit one backbone alone, so give both the same files."
        )
    packs = dict(message.content.array_records["arrays"].items())
    frozen = {k.removeprefix(FROZEN): v for k, v in config.items() if k.startswith(FROZEN)}
    vectors = layout.read(packs | frozen, lambda _: np.dtype(np.float32))
    trainer.model.load_adapters(layout.split(vectors))
    if trainer.kept:
        # A training goes on from before its round; all else sees the round's own result.
        number = int(config["server-round"]) + (message.metadata.message_type != MessageType.TRAIN)
        own = _own_tensors(message, context, node, settings).before(number)
        trainer.model.load_adapters(trainer.kept | own)
    return trainer, int(config["depth"])


def _kept(message: Message) -> list[str]:
    """Return the units that the client trains and keeps."""
    return list(_config(message).get(KEPT, []))


def _own_tensors(
    message: Message, context: Context, node: LocalNode, settings: Settings
) -> OwnTensors:
    run_id = str(_config(message).get("run", ""))
    # One round is trained again at most, unless checkpoints are rare.
    rounds = settings.checkpoint_every + 1
    return OwnTensors(context.state, node.state_dir, run_id, node.client_key, rounds)


def create_client_app(mods: Sequence[Any] = (), *, train_mods: Sequence[Any] = ()) -> ClientApp:
    """Build the app.

    Parameters
    ----------
    mods : Sequence
        Flower's client mods around every message, the first one outermost; they see fp32.
    train_mods : Sequence
        Mods around training alone, such as Flower's for clipping and local differential privacy,
        which answer other messages with an error.
    """
    client_app = ClientApp(mods=[wire_codec, *mods])
    client_app.query()(answering(profile))
    client_app.train(mods=list(train_mods))(answering(train))
    client_app.evaluate()(answering(evaluate))
    client_app.evaluate("personalise")(answering(personalise))
    return client_app


app = create_client_app()

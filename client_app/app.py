"""The ClientApp: answers a profile query, trains the plan's units, scores its own test part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from client_app.node import LocalNode, local_node
from client_app.training import batches, train_locally
from data import DataError
from models import AdapterModel, ModelError, evaluate_exits
from settings import Settings, SettingsError
from strategies import FROZEN, PROFILE, REPORT, WIRE_DTYPES, Layout, Profile, StrategyError
from wiring import get_layout, get_model

USER_ERRORS = (DataError, ModelError, SettingsError, StrategyError)
EVALUATION_BATCH = 256
Handler = Callable[[Message, Context, Settings], RecordDict]


def answering(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wrap a handler: settings are read, and a user's mistake is answered in one sentence."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            settings = Settings.from_dict(context.run_config)
            return Message(handler(message, context, settings), reply_to=message)
        except USER_ERRORS as error:
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
            return Message(reason, reply_to=message)

    return answer


def profile(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Tell who this node is."""
    del message
    node = local_node(context, settings)
    answer = Profile(
        context.node_id, node.client_key, node.tier, len(node.train), tuple(WIRE_DTYPES)
    )
    return RecordDict({PROFILE: answer.to_record()})


def train(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Train the units that came as packs; reply the same ones, in the same order."""
    node = local_node(context, settings)
    model, layout, depth = _load(message, node, settings)
    units = list(message.content["arrays"])
    result = train_locally(
        model,
        units,
        depth,
        node.train,
        node.train_transform,
        settings,
        server_round=int(_config(message)["server-round"]),
        client_key=node.client_key,
    )
    vectors = layout.flatten(model.adapter_arrays(), units)
    dtype = WIRE_DTYPES[settings.wire_dtype]
    reply = RecordDict(
        {
            "arrays": ArrayRecord(
                {unit: layout.to_array(unit, vectors[unit], dtype) for unit in units}
            ),
            "metrics": MetricRecord({**result.metrics}),
        }
    )
    if result.unchanged:
        reply[REPORT] = ConfigRecord({"unchanged": result.unchanged})
    return reply


def evaluate(message: Message, context: Context, settings: Settings) -> RecordDict:
    """Score every exit this node's tier reaches on its own test part."""
    node = local_node(context, settings)
    model, _, depth = _load(message, node, settings)
    test = batches(node.test, node.test_transform, EVALUATION_BATCH)
    scores = evaluate_exits(model, test, depth)
    metrics = {f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()}
    metrics |= {f"loss-exit-{e}": value for e, value in scores.loss.items()}
    last = max(scores.accuracy)
    metrics |= {"accuracy": scores.accuracy[last], "num-examples": scores.examples}
    return RecordDict({"metrics": MetricRecord({**metrics})})


def _config(message: Message) -> Any:
    return message.content["config"]


def _load(
    message: Message, node: LocalNode, settings: Settings
) -> tuple[AdapterModel, Layout, int]:
    """Put the message's adapters into the process's model; return it, its layout and the depth."""
    model, config = get_model(settings, node.num_classes), _config(message)
    layout = get_layout(model)
    if layout.fingerprint() != config["layout"]:
        raise SettingsError(
            "the server's adapters are others than this node's: both need the same method, "
            f"backbone and classes (here {node.num_classes}; set classes to name them)."
        )
    dtype = WIRE_DTYPES[settings.wire_dtype]
    packs = dict(message.content.array_records["arrays"].items())
    frozen = {k.removeprefix(FROZEN): v for k, v in config.items() if k.startswith(FROZEN)}
    vectors = layout.read(packs | frozen, lambda _: dtype)
    model.load_adapters(layout.split(vectors))
    return model, layout, int(config["depth"])


def create_client_app(mods: Sequence[Any] = ()) -> ClientApp:
    """Build the app; `mods` are Flower's client mods, the first one outermost."""
    client_app = ClientApp(mods=list(mods))
    client_app.query()(answering(profile))
    client_app.train()(answering(train))
    client_app.evaluate()(answering(evaluate))
    return client_app


app = create_client_app()

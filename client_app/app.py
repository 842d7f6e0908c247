"""The ClientApp: answers a profile query, trains the plan's units, scores its own test part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from client_app.call import Call
from client_app.dyn import DYN, DynTerm
from client_app.personal import save_personal
from data import DataError
from models import ExitScores, ModelError
from settings import SettingsError
from strategies import PROFILE, REPORT, WIRE_DTYPES, Profile, StrategyError, wire_codec
from wiring import read_settings

USER_ERRORS = (DataError, ModelError, SettingsError, StrategyError)
Handler = Callable[[Call], RecordDict]


def answering(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wrap a handler: settings are read, and a user's mistake is answered in one sentence."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            call = Call(message, context, read_settings(context.run_config))
            return Message(handler(call), reply_to=message)
        except USER_ERRORS as error:
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
            return Message(reason, reply_to=message)

    return answer


def profile(call: Call) -> RecordDict:
    """Tell who this node is."""
    node = call.node
    answer = Profile(call.context.node_id, node.client_key, node.tier, len(node.train), WIRE_DTYPES)
    return RecordDict({PROFILE: answer.to_record()})


def train(call: Call) -> RecordDict:
    """Train the units that came as packs; reply the same ones, in the same order."""
    trainer, node, settings = call.load(), call.node, call.settings
    before = trainer.validate(node.train, node.test_transform, call.depth, node.client_key)
    units, kept, term, memory = call.units, call.kept, None, call.own(DYN)
    if settings.server_optimizer == "dyn":
        multipliers = memory.before(call.server_round)
        term = DynTerm(trainer.model, units, settings.dyn_alpha, multipliers)
    result = trainer.train(
        [*units, *kept],
        call.depth,
        node.train,
        node.train_transform,
        server_round=call.server_round,
        client_key=node.client_key,
        epochs=settings.local_epochs,
        term=term,
        skipped=call.skipped,
        lasting=call.lasting,
    )
    if term is not None:
        memory.save(call.server_round, term.moved())
    if kept:
        call.own().save(call.server_round, trainer.model.adapter_arrays(kept))
    layout = trainer.layout
    vectors = layout.flatten(trainer.model.adapter_arrays(units), units)
    arrays = ArrayRecord({unit: layout.to_array(unit, vectors[unit]) for unit in units})
    reply = RecordDict({"arrays": arrays, "metrics": MetricRecord({**result.metrics, **before})})
    if result.unchanged:
        reply[REPORT] = ConfigRecord({"unchanged": result.unchanged})
    return reply


def evaluate(call: Call) -> RecordDict:
    """Score every exit this node's tier reaches on its own test part."""
    node = call.node
    predictor = call.load().predictor
    metrics = predictor.metrics(node.test, node.test_transform, call.depth)
    if node.pooled is not None and call.kept:  # otherwise the server scores the same model
        found = predictor.metrics(node.pooled, node.test_transform, call.depth)
        metrics |= {f"pooled-{key}": v for key, v in found.items() if key.endswith("accuracy")}
    return RecordDict({"metrics": MetricRecord({**metrics})})


def personalise(call: Call) -> RecordDict:
    """Train what came for this node alone; score it before, and after each epoch.

    Only the scores are sent.
    """
    trainer, node, settings = call.load(), call.node, call.settings
    scores: list[ExitScores] = []

    def score() -> None:
        scores.append(trainer.predictor.score(node.test, node.test_transform, call.depth))

    score()
    trainer.train(
        [*call.units, *call.kept],
        call.depth,
        node.train,
        node.train_transform,
        server_round=settings.rounds + 1,  # random numbers that no round has drawn
        client_key=node.client_key,
        epochs=settings.personalise_epochs,
        rate=settings.personalise_rate or settings.learning_rate,
        after_epoch=score,
    )
    if node.personal_dir:
        save_personal(node, settings, trainer.model, call.depth, scores[-1])
    metrics = {
        "accuracy-before": scores[0].last,
        **{f"accuracy-epoch-{n}": found.last for n, found in enumerate(scores[1:], 1)},
        "accuracy": scores[-1].last,
        "num-examples": scores[-1].examples,
    }
    return RecordDict({"metrics": MetricRecord({**metrics})})


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

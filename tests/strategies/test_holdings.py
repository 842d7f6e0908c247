"""Units that never change again: sent to a node once, and again when it may have lost them."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from strategies.bank import FROZEN, Bank
from strategies.holdings import LASTING, Holdings
from strategies.plans import Plan
from strategies.wire import plain_record

TENSORS = {f"block{b}.w": np.full((2, 2), b, np.float32) for b in (1, 2, 3)}
PLAN = Plan(3, ("block3",), ("block1", "block2"), lasting=("block1",))


def content(bank: Bank, held: Holdings, node: int, *, training: bool = True) -> RecordDict:
    return bank.content(
        PLAN,
        ConfigRecord(),
        held=held.of(node),
        training=training,
        array_key="arrays",
        config_key="config",
    )


def units(message: RecordDict) -> tuple[set[str], set[str]]:
    """Return what travels in Arrays, and what in the config."""
    config = message.config_records["config"]
    frozen = {key.removeprefix(FROZEN) for key in config if key.startswith(FROZEN)}
    return set(message.array_records["arrays"]), frozen


def make_bank() -> Bank:
    return Bank(ArrayRecord(dict(plain_record(TENSORS).items())), packed=True)


def test_a_lasting_unit_is_sent_until_the_node_has_answered() -> None:
    bank, held = make_bank(), Holdings()
    first = content(bank, held, 7)
    assert units(first) == ({"block3"}, {"block1", "block2"})
    assert units(content(bank, held, 7)) == units(first)  # no answer yet
    held.note(7, first)
    assert units(content(bank, held, 7)) == ({"block3"}, {"block2"})
    assert units(content(bank, held, 8)) == units(first)  # another node
    later = content(bank, held, 7).config_records["config"]
    assert later[f"{LASTING}block1"] == first.config_records["config"][f"{LASTING}block1"]


def test_an_evaluation_needs_it_but_once_as_well() -> None:
    bank, held = make_bank(), Holdings()
    asked = content(bank, held, 7, training=False)
    assert units(asked) == ({"block2", "block3"}, {"block1"})
    held.note(7, asked)
    assert units(content(bank, held, 7, training=False)) == ({"block2", "block3"}, set())
    assert units(content(bank, held, 7)) == ({"block3"}, {"block2"})


def test_it_is_sent_again_after_an_error_and_when_it_changed() -> None:
    bank, held = make_bank(), Holdings()
    held.note(7, content(bank, held, 7))
    held.forget(7)
    assert "block1" in units(content(bank, held, 7))[1]
    held.note(7, content(bank, held, 7))
    bank.update({"block1": np.zeros(4, np.float32)})  # as after going back to a checkpoint
    assert "block1" in units(content(bank, held, 7))[1]
    held.note(7, content(bank, held, 7))
    bank.update({"block2": np.zeros(4, np.float32)})
    assert "block1" not in units(content(bank, held, 7))[1]

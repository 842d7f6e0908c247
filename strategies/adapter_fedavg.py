"""`AdapterFedAvg`: federated averaging of a bank of adapters among clients of unequal tiers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from .aggregation import Holders
from .bank import Bank
from .callbacks import Callback, RoundReport
from .codec import check_wire_dtype
from .errors import StrategyError
from .exchange import Exchange
from .holdings import Holdings
from .method_steps import MethodSteps
from .nodes import NodeRegistry, Profile, sample, training_nodes
from .optimizers import ServerDyn, ServerOptimizer, ServerSgd
from .plans import Plan, Planner
from .replies import (
    mean_metrics,
    read_metrics,
    read_train_reply,
    read_weight,
    without_arrays,
)
from .rounds import PERSONALISE, PERSONALISE_PHASE, run_rounds
from .rules import Aggregation

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]


class AdapterFedAvg(MethodSteps, FedAvg):
    """FedAvg that owns the whole bank of adapters and averages each tensor over its holders.

    Clients may hold different parts of the bank: a reply updates what it carries, a tensor nobody
    sent stays bit-identical, and the bank never shrinks. A reply with foreign keys, wrong shapes
    or dtypes, non-finite values or a bad weight is refused by name, and the round goes on.
    Sampling is seeded and replies are summed in the order of client keys, so runs repeat.

    The first ten parameters are those of Flower's `FedAvg`.

    Parameters
    ----------
    planner : Planner, optional
        Which units a tier runs, trains and sends. With one, nodes are asked for their profile
        and units travel as packs; without, every node gets every tensor in Flower's own form,
        which other people's ClientApps understand as it is.
    row_keys : Sequence[str]
        Tensors whose rows belong to blocks, averaged row by row over the clients that own them.
        Leave empty for plain averaging, as ReeFL's code does.
    train_nodes : int, optional
        Nodes per round, instead of `fraction_train`.
    min_replies : int
        With fewer valid replies the bank stays unchanged in that round.
    evaluate_every : int
        Clients evaluate every that many rounds, and after the last.
    aggregation : Aggregation, optional
        What is made of the replies; the weighted mean by default.
    server_optimizer : ServerOptimizer, optional
        How the bank moves towards the result; by default it becomes the result. `ServerDyn` needs
        ``Aggregation(weighted=False)``, and clients that do their half of FedDyn.
    wire_dtype : str
        ``fp32``, ``fp16``, ``bf16`` or ``int8``; the bank itself stays fp32. For all but fp32
        clients need the mod `wire_codec`.
    personalise : bool
        After the last round, let every node train the final bank on its own data and score it
        before and after; the result stays on the node.
    held_out : Collection[str]
        Keys of clients that take no part; they are scored after the last round.
    held_out_rounds : Collection[int]
        After how many rounds of learning about them, where a method can (see
        `strategies.held_out`).
    seed : int
        Of the sampling.
    callbacks : Sequence[Callback]
        Hooks around the rounds, called in this order.
    """

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
        *,
        planner: Planner | None = None,
        row_keys: Sequence[str] = (),
        train_nodes: int | None = None,
        min_replies: int = 1,
        evaluate_every: int = 1,
        aggregation: Aggregation | None = None,
        server_optimizer: ServerOptimizer | None = None,
        wire_dtype: str = "fp32",
        personalise: bool = False,
        held_out: Collection[str] = (),
        held_out_rounds: Collection[int] = (0,),
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__(
            fraction_train,
            fraction_evaluate,
            min_train_nodes,
            min_evaluate_nodes,
            min_available_nodes,
            weighted_by_key,
            arrayrecord_key,
            configrecord_key,
            train_metrics_aggr_fn or mean_metrics,
            evaluate_metrics_aggr_fn or mean_metrics,
        )
        self.planner = planner
        self.row_keys = tuple(row_keys)
        self.train_nodes = train_nodes
        self.min_replies = min_replies
        self.evaluate_every = evaluate_every
        self.aggregation = aggregation or Aggregation()
        self.server_optimizer = server_optimizer or ServerSgd()
        if isinstance(server_optimizer, ServerDyn) and not self.aggregation.counts_clients:
            raise StrategyError(
                "server-optimizer: dyn mirrors what clients sent, so it needs the unweighted "
                "aggregation=mean with clip-update and noise-multiplier at 0; set these, or choose "
                "another."
            )
        self.wire_dtype = check_wire_dtype(wire_dtype)
        self.personalise = personalise
        self.held_out = frozenset(held_out)
        self.held_out_rounds = sorted(held_out_rounds)
        self.seed = seed
        self.callbacks = list(callbacks)
        self.registry = NodeRegistry(ask=planner is not None, wire_dtype=wire_dtype)
        self.holdings = Holdings()
        self.completed_rounds = 0
        self.last_round = 0
        self.timeout = 3600.0
        self.report = RoundReport(0)
        self.bank: Bank | None = None
        self.exchange: Exchange | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run rounds ``completed_rounds + 1`` to `num_rounds`; see `flwr`'s Strategy.start.

        `completed_rounds` is 0 unless a checkpoint was loaded.
        """
        self.timeout, self.last_round = timeout, num_rounds
        return run_rounds(
            self,
            grid,
            initial_arrays,
            train_config or ConfigRecord(),
            evaluate_config or ConfigRecord(),
            evaluate_fn,
        )

    def take_bank(self, arrays: ArrayRecord) -> Bank:
        """Return the bank; arrays that are not its own record (a start, a wrapper's) replace it."""
        if self.bank is None or not self.bank.is_record(arrays):
            self.bank = Bank(arrays, packed=self.planner is not None)
        return self.bank

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes and make each its own message: the packs of its plan."""
        self.report, self.exchange = RoundReport(server_round), None
        bank = self.take_bank(arrays)
        if self.fraction_train == 0.0:
            return []
        nodes = self.registry.wait_for(grid, self.min_available_nodes, self.timeout)
        nodes = training_nodes(self.taking_part(nodes), self.planner, server_round)
        count = self.train_nodes or max(int(len(nodes) * self.fraction_train), self.min_train_nodes)
        chosen = sample(nodes, count, self.seed, server_round)
        return self.ask(bank, chosen, config, MessageType.TRAIN, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nodes to score the bank on their own test part, in the rounds that are due."""
        self.exchange = None
        is_due = server_round % self.evaluate_every == 0 or server_round == self.last_round
        if self.fraction_evaluate == 0.0 or not is_due:
            return []
        bank = self.take_bank(arrays)
        nodes = self.registry.wait_for(grid, self.min_available_nodes, self.timeout)
        nodes = self.taking_part(nodes)
        count = max(int(len(nodes) * self.fraction_evaluate), self.min_evaluate_nodes)
        # A seed of its own: a partial evaluation should not ask just those that trained.
        chosen = sample(nodes, count, self.seed + 1, server_round)
        return self.ask(bank, chosen, config, MessageType.EVALUATE, MessageType.EVALUATE)

    def configure_personalise(
        self, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node to train the bank for itself, and to score it before and after."""
        bank = self.take_bank(arrays)
        nodes = self.registry.wait_for(grid, self.min_available_nodes, self.timeout)
        return self.ask(bank, nodes, config, PERSONALISE, PERSONALISE_PHASE)

    def ask(
        self,
        bank: Bank,
        chosen: list[Profile],
        config: ConfigRecord,
        message_type: str,
        phase: str,
    ) -> list[Message]:
        """Make one message per node, each with a content of its own."""
        self.exchange = Exchange(
            self.report, message_type, phase, bank.layout, self.wire_dtype, self.holdings
        )
        personal = self.personal_vectors(chosen)

        def content(profile: Profile, plan: Plan | None) -> RecordDict:
            return bank.content(
                plan,
                ConfigRecord({**config, "server-round": self.report.server_round}),
                personal.get(profile.client_key, {}),
                self.holdings.of(profile.node_id),
                training=message_type != MessageType.EVALUATE,
                array_key=self.arrayrecord_key,
                config_key=self.configrecord_key,
            )

        return self.exchange.ask(chosen, self.planner, content)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average each unit over the valid replies that hold it; the rest of the bank stays.

        Each reply is added as it comes and then let go; only its metrics are kept.
        """
        if self.bank is None or self.exchange is None:
            return None, None
        aggregator = self.begin_aggregation()
        holders = Holders(self.bank.layout, self.row_keys)
        contents: list[RecordDict] = []
        for row, message, plan in self.exchange.answers(replies):
            try:
                with self.report.timed("aggregate"):
                    reply = read_train_reply(row, message, plan, self.bank, self.weighted_by_key)
                    row.metrics |= self.take_reply(aggregator, row, reply)
            except StrategyError as error:
                self.exchange.refuse(row, str(error))
                continue
            self.exchange.note_unchanged(row, reply.unchanged)
            holders.add(reply.vectors, reply.plan)
            contents.append(without_arrays(message.content))
        if len(contents) < self.min_replies:
            log(
                WARNING,
                "Round %d: %d valid replies, %d are needed; the bank stays as it was.",
                server_round,
                len(contents),
                self.min_replies,
            )
            return None, None
        self.report.coverage = holders.coverage()
        with self.report.timed("aggregate"):
            means = aggregator.result(self.bank.vectors)
            self.update_bank(means, holders.shares(self.registry.num_clients))
        return self.bank.record(), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def taking_part(self, profiles: Iterable[Profile]) -> list[Profile]:
        """Return the nodes that are not held out."""
        return [profile for profile in profiles if profile.client_key not in self.held_out]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' metrics over those that report them."""
        if self.exchange is None:
            return None
        used = []
        for row, reply, _ in self.exchange.answers(replies):
            try:
                row.metrics = read_metrics(reply)
                read_weight(row.metrics, self.weighted_by_key)
            except StrategyError as error:
                self.exchange.refuse(row, str(error))
                continue
            used.append(reply.content)
        return self.evaluate_metrics_aggr_fn(used, self.weighted_by_key) if used else None

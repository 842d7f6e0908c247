"""What the tiers of a configuration cost, and which of them this machine can train.

``python -m server_app.doctor [--config FILE] [--budget 2GB] [--count] [key=value ...]``; the keys
are those of a run. Nothing is trained; docs/memory.md explains the columns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client_app.app import USER_ERRORS
from client_app.tier_choice import free_memory, read_budget
from models import AdapterModel, count_step, training_flops
from server_app.strategy import make_strategy
from server_app.tier_costs import TierCost, as_planned, tier_costs, tier_model
from settings import Settings, SettingsError, load_toml
from wiring import class_names, get_device, make_model

WIDTH = 110  # columns, also where the output is no terminal


def diagnose(settings: Settings, num_classes: int, room: int, *, count: bool) -> Table:
    """Return a table with a row per tier.

    Parameters
    ----------
    settings : Settings
    num_classes : int
    room : int
        Bytes that a client may take.
    count : bool
        Whether the steps are also counted on shapes, which takes some seconds a tier.
    """
    model = make_model(settings, num_classes)
    planner = make_strategy(settings, model).planner
    assert planner is not None
    numbers = ["train MB", *(["counted MB"] if count else []), "evaluate MB", "GFLOPs"]
    table = Table(
        title=f"{settings.method} on {settings.backbone}, batches of {settings.batch_size}, "
        f"{num_classes} classes; room for {room / 1e6:,.0f} MB",
        box=SIMPLE,
    )
    table.add_column("tier", no_wrap=True)
    for name in ("blocks", *numbers, "up MB", "down MB", "trained", "fits"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, cost in tier_costs(settings, model, planner).items():
        own = tier_model(settings, model, name)
        plan = cost.longest
        with as_planned(own, plan):
            flops = training_flops(own, [*plan.trained, *plan.kept], plan.depth)
        with as_planned(own, cost.plan):
            counted = [_counted(settings, own, cost)] if count else []
        sizes = [cost.memory.total, *counted, cost.evaluation]
        table.add_row(
            name,
            str(plan.depth),
            *(f"{size / 1e6:,.1f}" for size in sizes),
            f"{flops / 1e9:,.2f}",
            *(f"{size / 1e6:,.3f}" for size in (cost.up, cost.down)),
            f"{cost.trained:,}",
            "yes" if cost.peak <= room else "no",
        )
    return table


def _counted(settings: Settings, model: AdapterModel, cost: TierCost) -> int:
    """Return the total with the peak of the step counted instead of predicted."""
    plan, memory = cost.plan, cost.memory
    step = count_step(
        model,
        [*plan.trained, *plan.kept],
        settings.batch_size,
        plan.depth,
        optimizer=settings.optimizer,
    )
    return memory.total - memory.activations + step.peak


def main(arguments: Sequence[str]) -> int:
    """Print the table; a user's mistake ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m server_app.doctor",
        description="Tell what each tier costs, and which of them this machine can train.",
        epilog="Settings are given as key=value; docs/settings.md lists them.",
    )
    parser.add_argument("--config", action="append", default=[], help="a TOML file of settings")
    parser.add_argument("--budget", help="such as 2GB, instead of the memory that is free here")
    parser.add_argument("--classes", type=int, help="their number, instead of the data set's")
    parser.add_argument("--count", action="store_true", help="count the steps as well")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    try:
        values = {key: value for file in options.config for key, value in load_toml(file).items()}
        for pair in options.settings:
            key, separator, value = pair.partition("=")
            if not separator:
                raise SettingsError(f"'{pair}' should read key=value.")
            values[key] = value
        settings = Settings.from_dict(values)
        device = get_device(settings)
        room = read_budget(options.budget) if options.budget else free_memory(device)
        classes = options.classes or len(class_names(settings))
        table = diagnose(settings, classes, room, count=options.count)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The figures of a report against the rows they draw."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from written_runs import (
    CLIENTS,
    COST,
    HELD,
    METRICS,
    PERSONAL,
    TIERS,
    axes_of,
    bars_of,
    central_row,
    evaluate_row,
    lines_of,
    round_row,
)

from server_app import client_figures, figures, plotting


def test_central_accuracy_has_a_line_per_exit_from_the_start_on() -> None:
    (x3, y3), (x6, y6) = lines_of(figures.central_accuracy(METRICS))
    assert x3 == x6 == [0, 1, 2]
    assert_allclose(y3, [3, 4, 5])
    assert_allclose(y6, [6, 7, 8])


def test_line_ends_are_labelled_and_do_not_touch() -> None:
    rows = [{"round": r, **{f"accuracy-exit-{b}": 0.9 for b in range(12)}} for r in (0, 1)]
    texts = axes_of(figures.central_accuracy(rows)).texts
    assert {text.get_text() for text in texts} == {f"exit {b}: 90.0" for b in range(12)}
    heights = sorted(text.xyann[1] for text in texts)
    assert min(np.diff(heights)) > 0.07


def test_a_single_round_has_a_whole_number_below_it() -> None:
    axes = axes_of(figures.training_loss(METRICS[1:2]))
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_many_exits_are_labelled_in_part_with_the_last() -> None:
    rows = [{"round": 0, **{f"accuracy-exit-{b}": b / 100 for b in range(1, 33)}}]
    labels = [text.get_text() for text in axes_of(figures.central_accuracy(rows)).texts]
    assert len(labels) <= plotting.MOST_LABELS
    assert "exit 32: 32.0" in labels


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.02, 0.9], [0.0, 0.1, 0.9]),
        ([0.2, 0.98, 1.0], [0.2, 0.9, 1.0]),
    ],
)
def test_spread(places: list[float], expected: list[float]) -> None:
    assert_allclose(plotting.spread(places, 0.1), expected)


def test_training_loss_leaves_out_what_is_not_finite() -> None:
    rows = [*METRICS[1:], round_row(4) | {"train-loss": float("nan")}]
    (x, y), (x3, y3), _ = lines_of(figures.training_loss(rows))
    assert (x, y) == ([1, 2], [4, 2])
    assert (x3, y3) == ([1, 2, 4], [3, 1.5, 0.75])


def test_accuracy_by_exit_draws_the_last_scores() -> None:
    rows = [*METRICS, {"round": 3, "client-accuracy-exit-3": 0.5}]
    axes = axes_of(figures.accuracy_by_exit(rows))
    assert_allclose([bar.get_height() for bar in axes.patches], [5, 8])
    circles = np.ma.filled(axes.collections[0].get_offsets(), np.nan)
    assert_allclose(circles, [[0, 50], [np.nan, np.nan]])


def test_client_accuracy_has_a_dot_per_client_of_the_last_evaluation() -> None:
    dots = axes_of(client_figures.client_accuracy(CLIENTS, TIERS)).collections
    assert_allclose(np.asarray(dots[0].get_offsets())[:, 1], [20])
    assert_allclose(np.asarray(dots[1].get_offsets())[:, 1], [40, 60])


def test_tier_accuracy_is_the_mean_of_its_clients() -> None:
    small, large = lines_of(client_figures.tier_accuracy(CLIENTS, TIERS))
    assert_allclose(small, ([1, 2], [10, 20]))
    assert_allclose(large, ([2], [50]))


def test_training_examples_stand_by_tier_largest_first() -> None:
    axes = axes_of(client_figures.training_examples(CLIENTS, TIERS))
    assert bars_of(axes) == [[(0, 30)], [(0, 40), (0, 20)]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "c", "b"]


def test_a_tier_has_one_colour_in_all_figures() -> None:
    line = axes_of(client_figures.tier_accuracy(CLIENTS, TIERS)).lines[1].get_color()
    bars = axes_of(client_figures.training_examples(CLIENTS, TIERS)).collections[1]
    dots = axes_of(client_figures.client_accuracy(CLIENTS, TIERS)).collections[1]
    expected = (0xE6 / 255, 0x9F / 255, 0)
    assert line == "#e69f00"
    assert_allclose(bars.get_facecolor()[0][:3], expected)
    assert_allclose(dots.get_facecolor()[0][:3], expected)


def test_bytes_per_round_stand_beside_the_full_model() -> None:
    # 4 messages at 200 bytes both ways: 2 in each round, so 200 bytes each way.
    lines = lines_of(figures.bytes_per_round(METRICS, CLIENTS, 4 * 200))
    full, evaluation, down, up = lines
    assert full == ([1, 2], [200, 200])
    assert evaluation == ([1, 2], [500, 500])
    assert down == ([1, 2], [2000, 2000])
    assert up == ([1, 2], [1000, 1000])


def test_bytes_survive_a_last_round_without_replies() -> None:
    rows = [round_row(1), round_row(2) | {"bytes-up": 0}]
    axes = axes_of(figures.bytes_per_round(rows, CLIENTS, 800))
    assert 0 < axes.get_ylim()[0] < 200


def test_seconds_are_stacked_in_one_order() -> None:
    noted = [{"aggregate": 0.5, "train": 2.0}, {"train": 1.0, "rest": 4.0, "aggregate": 3.0}]
    rows = [{"round": number, "seconds": phases} for number, phases in enumerate(noted, 1)]
    figure = figures.seconds_per_phase(rows)
    axes = axes_of(figure)
    assert bars_of(axes) == [[(0, 2), (0, 1)], [(2, 2.5), (1, 4)], [(2.5, 2.5), (4, 8)]]
    assert axes.get_ylim()[0] == 0
    assert figure is not None
    assert plotting.describe(figure) == (
        "seconds per round: train: 3.0 s; aggregate: 3.5 s; rest: 4.0 s"
    )


def texts_of(figure: Figure, index: int) -> list[str]:
    return [text.get_text() for text in figure.axes[index].texts]


def test_accuracy_over_bytes_adds_up_both_ways() -> None:
    last, of_exits = lines_of(figures.accuracy_over_bytes(METRICS, CLIENTS))
    # Nothing is sent before round 0, then 1000 up and 2000 down in each round.
    assert last[0] == of_exits[0] == [0, 3000, 6000]
    assert_allclose(last[1], [6, 7, 8])
    assert_allclose(of_exits[1], [4.5, 5.5, 6.5])


def test_accuracy_over_bytes_is_the_clients_without_a_central_test_set() -> None:
    rows = [round_row(1, central=False), round_row(2, central=False)]
    ((x, y),) = lines_of(figures.accuracy_over_bytes(rows, CLIENTS))
    assert x == [3000, 6000]
    assert_allclose(y, [10, 40])  # a alone; then a, b and c, all counting alike
    assert figures.accuracy_over_bytes(rows, []) is None


def test_a_long_axis_of_bytes_is_logarithmic_and_leaves_out_zero() -> None:
    rows = [central_row(0), *(round_row(number) for number in (1, 2, 3))]
    rows[-1]["bytes-up"] = 84_001  # up to 2000 + 84,001 + 6000: over 30 times the first 3000
    figure = figures.accuracy_over_bytes(rows, [])
    (x, y), _ = lines_of(figure)
    assert axes_of(figure).get_xscale() == "log"
    assert (x, len(y)) == ([3000, 6000, 92_001], 3)
    rows[-1]["bytes-up"] = 81_999
    figure = figures.accuracy_over_bytes(rows, [])
    assert axes_of(figure).get_xscale() == "linear"
    assert lines_of(figure)[0][0] == [0, 3000, 6000, 89_999]


def test_anytime_draws_each_exit_over_compute_and_time() -> None:
    figure = figures.anytime(METRICS, COST)
    assert figure is not None
    compute, time = figure.axes
    for axes, at in ((compute, [1.5e7, 3e7]), (time, [2, 5])):
        assert_allclose(axes.collections[0].get_offsets(), list(zip(at, [5, 8], strict=True)))
    assert texts_of(figure, 0) == texts_of(figure, 1) == ["6", "3"]
    assert compute.get_xlabel() == "FLOPs per image"
    assert time.get_xlabel() == "milliseconds per image (cpu, 1 thread)"
    assert plotting.describe(figure) == (
        "central accuracy by compute and time: exit 3: 5.0 % after 15 M FLOPs, 2 ms; "
        "exit 6: 8.0 % after 30 M FLOPs, 5 ms"
    )


def test_anytime_takes_the_clients_accuracy_where_there_is_no_other() -> None:
    rows = [{"round": 1, "client-accuracy-exit-3": 0.5, "client-accuracy-exit-9": 0.7}]
    figure = figures.anytime(rows, COST)  # exit 9 has no cost, exit 6 no accuracy
    assert axes_of(figure).get_title("left") == "clients' accuracy, %, by exit"
    assert_allclose(axes_of(figure).collections[0].get_offsets(), [[1.5e7, 50]])
    assert figures.anytime(METRICS, None) is None
    assert figures.anytime([{"round": 1}], COST) is None


def test_personalisation_joins_before_and_after() -> None:
    axes = axes_of(client_figures.personalisation([*CLIENTS, *PERSONAL], TIERS))
    lines, before, after = axes.collections[3:]  # of the second tier
    assert_allclose(before.get_offsets(), [[1, 40], [2, 60]])
    assert_allclose(after.get_offsets(), [[1, 70], [2, 50]])
    assert_allclose(
        [p.vertices for p in lines.get_paths()], [[[1, 40], [1, 70]], [[2, 60], [2, 50]]]
    )
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]
    described = plotting.describe(axes.get_figure())
    assert "3 clients" in described
    assert "mean gain +10.0 points; higher for 2, lower for 1" in described


def test_personalisation_leaves_out_who_was_refused() -> None:
    refused = [row | {"refused": "not finite"} for row in PERSONAL]
    assert client_figures.personalisation([*CLIENTS, *refused], TIERS) is None


def test_personal_epochs_run_from_before_to_the_last() -> None:
    """Accuracies of everybody, of the worst tenth and of each tier there is."""
    scores = [
        {"mean": mean, "worst-decile": worst, "large": mean}
        for mean, worst in ((0.4, 0.2), (0.5, 0.1), (0.6, 0.3))
    ]
    personal = {"before": scores[0], "by-epoch": {"1": scores[1], "2": scores[2]}}
    figure = client_figures.personal_epochs(personal, TIERS)
    places, everybody = [0, 1, 2], [40, 50, 60]
    for (at, values), expected in zip(
        lines_of(figure), (everybody, [20, 10, 30], everybody), strict=True
    ):
        assert at == places
        assert_allclose(values, expected)
    names = [text.get_text() for text in axes_of(figure).texts]
    assert names == ["worst tenth: 30.0", "all clients: 60.0", "large: 60.0"]
    one = {"before": scores[0], "by-epoch": {"1": scores[1]}}
    assert client_figures.personal_epochs(one, TIERS) is None
    assert client_figures.personal_epochs(None, TIERS) is None


def test_partition_stands_by_tier_and_holds_every_count() -> None:
    figure = client_figures.partition(HELD, CLIENTS, TIERS)
    figure.draw_without_rendering()
    above, below = figure.axes[:2]
    assert bars_of(above) == [[(0, 30)], [(0, 20), (0, 40)], [(0, 3)]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "small (1)",
        "large (2)",
        "never asked (1)",
    ]
    assert [text.get_text() for text in below.get_xticklabels()] == ["a", "b", "c", "d"]
    assert [text.get_text() for text in below.get_yticklabels()] == ["cat", "dog", "owl"]
    cells = np.asarray(below.collections[0].get_array())
    assert cells.tolist() == [[10, 0, 0, 1], [20, 0, 40, 1], [0, 20, 0, 1]]
    assert plotting.describe(figure) == (
        "training examples of 4 clients by class: a client holds 3 to 40 examples of 1 to 3 of "
        "3 classes"
    )


def test_partition_sorts_keys_by_their_number() -> None:
    held = {"classes": ["x"], "clients": {str(i): [i] for i in range(12)}}
    figure = client_figures.partition(held, [], TIERS)
    assert np.asarray(figure.axes[1].collections[0].get_array()).tolist() == [list(range(12))]


def test_a_crowded_partition_names_neither_clients_nor_classes() -> None:
    held = {
        "classes": [f"class {i}" for i in range(100)],
        "clients": {str(i): [i % 7] * 100 for i in range(200)},
    }
    figure = client_figures.partition(held, [], TIERS)
    figure.draw_without_rendering()
    below = figure.axes[1]
    assert not below.get_xticklabels()
    assert not below.get_yticklabels()
    assert (below.get_xlabel(), below.get_ylabel()) == ("200 clients", "100 classes")


def test_box_figures_are_described_by_their_numbers() -> None:
    rows = [evaluate_row(1, str(i), "large", share) for i, share in enumerate((0.5, 0.6, 0.9))]
    figure = client_figures.client_accuracy(rows, TIERS)
    assert figure is not None
    assert plotting.describe(figure).endswith("large (3): median 60.0, from 50.0 to 90.0")

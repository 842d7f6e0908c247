"""Clipping and noise by hand; epsilon against the definition of differential privacy."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from settings import Settings, SettingsError
from strategies import StrategyError, plain_record
from strategies.aggregation import Aggregator, HolderMean
from strategies.bank import Bank
from strategies.plans import Plan
from strategies.privacy import Clipped, HolderNoisyMean, clip_update, epsilon
from strategies.rules import RULES, Aggregation


def bank_of(tensors: dict[str, Any]) -> Bank:
    return Bank(plain_record({k: np.array(v, np.float32) for k, v in tensors.items()}), packed=True)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_an_update_is_clipped_by_its_norm_over_all_units() -> None:
    """The update (3, 4 | 12) is 13 long; half of that allowed, it is halved."""
    bank = {"a": floats(10, 20), "b": floats(30), "c": floats(99)}
    vectors, norm = clip_update({"a": floats(13, 24), "b": floats(42)}, bank, 6.5)
    assert norm == 13
    assert {unit: vector.tolist() for unit, vector in vectors.items()} == {
        "a": [11.5, 22],
        "b": [36],
    }


def test_an_update_within_the_limit_keeps_its_values() -> None:
    bank = {"a": floats(0.1, 0.7, 1e8)}
    new = floats(0.3, 0.2, 1e8)
    vectors, norm = clip_update({"a": new}, bank, 0.6)
    assert norm == pytest.approx(math.sqrt(0.2**2 + 0.5**2))
    assert vectors["a"].astype(np.float32).tobytes() == new.tobytes()


def test_buffers_of_a_reply_are_not_written_to() -> None:
    data = floats(3, 4).tobytes()
    vector = np.frombuffer(data, np.float32)
    clip_update({"a": vector}, {"a": floats(0, 0)}, 1.0)
    assert data == floats(3, 4).tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_large_values_do_not_overflow_the_norm(dtype: Any) -> None:
    """A uint8 update from 200 to 0 is -200; the squares of the others leave their own range."""
    big = {np.float16: 6e4, np.float32: 3e38, np.float64: 1e150, np.uint8: 0}[dtype]
    bank = np.array([200, 0], np.uint8) if dtype == np.uint8 else np.zeros(2, dtype)
    vectors, norm = clip_update({"a": np.array([big, 0], dtype)}, {"a": bank}, 0.5)
    assert norm == pytest.approx(big or 200, rel=1e-3)
    assert np.linalg.norm(vectors["a"] - bank) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_leaves_no_trace(bad: float) -> None:
    bank = bank_of({"a.x": [0], "b.x": [0]})
    clipped = Clipped(HolderMean(bank.layout), bank.vectors, 10.0)
    clipped.add({"a": floats(2), "b": floats(3)}, 1, None)
    with pytest.raises(StrategyError, match="not finite"):
        clipped.add({"a": floats(8), "b": floats(bad)}, 1, None)
    assert [v.tolist() for v in clipped.result(bank.vectors).values()] == [[2], [3]]


def test_clipping_goes_before_any_rule_and_tells_the_norm() -> None:
    """Updates of 3 and 40, at most 4 long: weighted 1 to 3 the mean is 3.75, the median 3.5."""
    bank = bank_of({"a.x": [1]})
    expected = {"mean": 4.75, "median": 4.5, "trimmed-mean": 4.5}
    for rule in RULES:
        aggregator = Aggregation(rule, clip=4.0).begin(bank.layout, (), bank.vectors)
        assert aggregator.add({"a": floats(4)}, 1, None) == {"update-norm": 3}
        assert aggregator.add({"a": floats(41)}, 3, None) == {"update-norm": 40}
        result = aggregator.result(bank.vectors)["a"]
        assert (result.dtype, result.tolist()) == (np.float32, [expected[rule]])


def test_noise_is_added_to_the_sum_and_divided_by_the_holders() -> None:
    """The same draws by hand: `a` has two holders, `b` one; weights do not count."""
    bank = bank_of({"a.x": [10, 10], "b.x": [20], "c.x": [30]})
    rule = Aggregation(clip=5.0, noise_multiplier=2.0, generator=np.random.default_rng(4))
    noisy = rule.begin(bank.layout, (), bank.vectors)
    noisy.add({"a": floats(13, 14)}, 7, None)
    noisy.add({"a": floats(10, 12), "b": floats(21)}, 1, None)
    result = noisy.result(bank.vectors)
    draws = np.random.default_rng(4).normal(0, 10.0, 3)
    np.testing.assert_allclose(result["a"], [11.5 + draws[0] / 2, 13 + draws[1] / 2], rtol=1e-6)
    np.testing.assert_allclose(result["b"], [21 + draws[2]], rtol=1e-6)
    assert "c" not in result


def test_the_noise_has_the_stated_deviation() -> None:
    """20,000 elements with four holders, and as many with one; clip 0.5, multiplier 3."""
    size = 20_000
    bank = bank_of({"a.x": np.ones(size), "b.x": np.ones(size)})
    rule = Aggregation(clip=0.5, noise_multiplier=3.0, generator=np.random.default_rng(5))
    noisy = rule.begin(bank.layout, (), bank.vectors)
    noisy.add(dict(bank.vectors), 1, None)
    for _ in range(3):
        noisy.add({"a": bank.vectors["a"]}, 1, None)
    noise = {unit: vector - 1 for unit, vector in noisy.result(bank.vectors).items()}
    # The deviation of n draws is uncertain by 1 / sqrt(2 n), here 0.5 percent.
    assert noise["a"].std() == pytest.approx(3 * 0.5 / 4, rel=0.02)
    assert noise["b"].std() == pytest.approx(3 * 0.5, rel=0.02)
    assert abs(noise["b"].mean()) < 4 * 1.5 / math.sqrt(size)
    assert abs(np.corrcoef(noise["a"], noise["b"])[0, 1]) < 4 / math.sqrt(size)


def test_rows_that_nobody_owned_get_no_noise() -> None:
    """Rows 0 to 3; a client of depth 1 and one of depth 2."""
    bank = bank_of({"s.rows": [[7.0], [7.0], [7.0], [7.0]], "s.x": [0]})
    noisy = HolderNoisyMean(bank.layout, 1.0, ["s.rows"], np.random.default_rng(6))
    for depth in (1, 2):
        noisy.add({"s": bank.vectors["s"]}, 1, Plan(depth, ()))
    moved = noisy.result(bank.vectors)["s"] - bank.vectors["s"]
    draws = np.random.default_rng(6).normal(0, 1.0, 5)
    np.testing.assert_allclose(moved, draws * [0.5, 0.5, 1, 0, 0.5], atol=1e-6)
    assert moved[3] == 0


def test_noise_does_not_follow_any_seed() -> None:
    bank = bank_of({"a.x": [0, 0]})
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        noisy = Aggregation(clip=1.0, noise_multiplier=1.0).begin(bank.layout, (), bank.vectors)
        noisy.add({"a": floats(0, 0)}, 1, None)
        drawn.append(noisy.result(bank.vectors)["a"].tolist())
    assert drawn[0] != drawn[1]


def test_a_client_moves_the_sums_of_all_units_by_at_most_the_limit() -> None:
    """What the noise is scaled to: one client's data against its doing nothing, noise alike."""
    bank = bank_of({"a.x": np.zeros(30), "s.rows": np.zeros((4, 5))})
    others = np.random.default_rng(7).normal(size=(3, 50)).astype(np.float32)

    def sums(last: np.ndarray) -> np.ndarray:
        rule = Aggregation(clip=2.0, noise_multiplier=1.0, generator=np.random.default_rng(8))
        noisy = rule.begin(bank.layout, ["s.rows"], bank.vectors)
        for depth, vector in enumerate([*others[:2], last], 1):
            noisy.add({"a": vector[:30], "s": vector[30:]}, 1, Plan(depth, ()))
        noisy.add({"a": others[2][:30]}, 1, Plan(3, ()))
        result = noisy.result(bank.vectors)
        # Four hold `a`; rows 0 and 1 have three owners, row 2 two and row 3 one.
        return np.concatenate([result["a"] * 4, result["s"] * np.repeat([3, 3, 2, 1], 5)])

    moved = np.linalg.norm(sums(1e6 * others[2]) - sums(np.zeros(50, np.float32)))
    assert moved == pytest.approx(2.0, rel=1e-5)


def hockey_stick(sigma: float, eps: float) -> float:
    """Delta by its definition: the integral of max(0, p - e^eps q), N(1, s) against N(0, s)."""
    p, q = scipy.stats.norm(1, sigma), scipy.stats.norm(0, sigma)
    cross = sigma**2 * eps + 0.5  # above it p is the larger
    return float(
        scipy.integrate.quad(
            lambda x: p.pdf(x) - math.exp(eps) * q.pdf(x), cross, cross + 12 * sigma, epsabs=1e-13
        )[0]
    )


@pytest.mark.parametrize(
    ("multiplier", "rounds", "delta"),
    [(1.0, 1, 1e-5), (1.0, 30, 1e-5), (4.0, 100, 1e-6), (0.5, 1, 1e-3), (8.0, 30, 1e-5)],
)
def test_epsilon_is_that_of_the_definition(multiplier: float, rounds: int, delta: float) -> None:
    """T rounds are one look at N(1 or 0, z / sqrt(T)): the mean of T looks says as much as all."""
    pytest.importorskip("dp_accounting", reason="epsilon needs the extra fedgraft[privacy]")
    eps = epsilon(multiplier, rounds, delta)
    assert hockey_stick(multiplier / math.sqrt(rounds), eps) == pytest.approx(delta, rel=1e-3)


def test_epsilon_at_its_ends() -> None:
    pytest.importorskip("dp_accounting", reason="epsilon needs the extra fedgraft[privacy]")
    assert epsilon(1.0, 0, 1e-5) == 0
    assert epsilon(0.0, 1, 1e-5) == math.inf
    assert 1e6 < epsilon(1e-3, 1000, 1e-5) < 1e9
    assert epsilon(2.0, 4, 1e-5) == pytest.approx(epsilon(1.0, 1, 1e-5))


@pytest.mark.parametrize(
    ("z", "rounds", "delta"), [(-1, 1, 0.1), (1, -1, 0.1), (1, 1, 0), (1, 1, 1)]
)
def test_epsilon_of_senseless_values_is_refused(z: float, rounds: int, delta: float) -> None:
    with pytest.raises(StrategyError, match="must be 0 or more"):
        epsilon(z, rounds, delta)


def test_a_missing_accountant_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(StrategyError, match=r"pip install 'fedgraft\[privacy\]'"):
        epsilon(1.0, 1, 1e-5)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rule": "krum"}, "'krum' is unknown; choose one of mean, median, trimmed-mean"),
        ({"noise_multiplier": 1.0}, "needs a clip-update above 0"),
        ({"noise_multiplier": 1.0, "clip": 1.0, "rule": "median"}, "and aggregation=mean"),
        ({"clip": -1.0}, "must be 0 or more"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StrategyError, match=sentence):
        Aggregation(**values)


@pytest.mark.parametrize("given", [{}, {"clip-update": 1.0, "aggregation": "median"}])
def test_settings_of_noise_without_clip_or_mean_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="noise needs a clip-update above 0 and aggregation"):
        Settings.from_dict({"noise-multiplier": 1.0, **given})


def test_the_settings_and_the_rules_name_the_same() -> None:
    spec = Settings.__dataclass_fields__["aggregation"]
    assert spec.metadata["choices"] == RULES


def test_the_default_is_the_weighted_mean() -> None:
    bank = bank_of({"a.x": [0]})
    aggregator: Aggregator = Aggregation().begin(bank.layout, (), bank.vectors)
    assert type(aggregator) is HolderMean

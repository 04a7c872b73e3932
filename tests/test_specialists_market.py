"""Walking forward over prices: an edge that is there is shown, one that is not is not, and nothing looks ahead."""

from typing import Any

import numpy as np
import pytest

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.market import Plan, forecast_returns
from soldiom_ray.specialists.rules import RULES


def prices_of(seed: int, *, memory: float, count: int = 2000, drift: float = 0.0003) -> list[float]:
    """Prices whose returns follow the one before by `memory`: none of it is a random walk."""
    rng = np.random.default_rng(seed)
    returns = np.zeros(count)
    for place in range(1, count):
        returns[place] = drift + memory * (returns[place - 1] - drift) + 0.01 * rng.standard_normal()
    return (100 * np.exp(np.cumsum(returns))).tolist()


def test_an_edge_is_found_where_returns_have_memory() -> None:
    result = RULES["walk_forward"]({"prices": prices_of(1, memory=0.3)})
    assert result["verdict"] == "edge" and result["statement"].startswith("An edge on 1744 periods")
    assert result["excess"]["buy_and_hold"]["low"] > 0 and result["forecast"]["r2"] > 0.04
    assert result["strategies"]["ridge"]["trades"] > 100 and result["strategies"]["random_walk"]["trades"] == 0


def test_no_edge_is_found_in_random_walks() -> None:
    verdicts = [RULES["walk_forward"]({"prices": prices_of(seed, memory=0.0)})["verdict"] for seed in range(12)]
    assert verdicts == ["no edge"] * 12


def test_costs_take_the_edge_away() -> None:
    result = RULES["walk_forward"]({"prices": prices_of(1, memory=0.3), "cost_bps": 200})
    assert result["verdict"] == "no edge" and "buy-and-hold" in result["statement"]


def test_a_forecast_uses_nothing_of_its_period_or_after() -> None:
    returns = np.diff(np.log(prices_of(3, memory=0.3, count=600)))
    before = forecast_returns(returns, Plan())[0]
    changed = returns.copy()
    changed[400:] = 9.0
    after = forecast_returns(changed, Plan())[0]
    first_changed = 400 - Plan().train - Plan().lags
    assert np.array_equal(before[: first_changed + 1], after[: first_changed + 1])
    assert not np.array_equal(before, after)


def test_a_csv_gives_what_its_prices_give() -> None:
    prices = prices_of(2, memory=0.0, count=400)
    text = "Date,Open,Close\n" + "".join(f"2020-{n:05},1,{price!r}\n" for n, price in enumerate(prices))
    assert RULES["walk_forward"]({"csv": text}) == RULES["walk_forward"]({"prices": prices})


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        ([], "too few"),
        ([100.0] * 500, "the same"),
        ([*([1.0, 2.0] * 200), 0.0], "above zero"),
        ([*([1.0, 2.0] * 200), float("nan")], "above zero"),
        ([{"date": f"2020-{500 - n:05}", "price": 1.0 + n} for n in range(400)], "do not rise"),
    ],
)
def test_what_cannot_be_tested_is_not_and_says_why(prices: list[Any], problem: str) -> None:
    result = RULES["walk_forward"]({"prices": prices})
    assert result["verdict"] == "not tested" and problem in result["problem"] and result["strategies"] is None


def test_a_split_is_warned_of() -> None:
    prices = prices_of(2, memory=0.0, count=400)
    result = RULES["walk_forward"](
        {"prices": [price / 2 if place > 300 else price for place, price in enumerate(prices)]}
    )
    assert "the first at price 302" in result["warnings"][0]


@pytest.mark.parametrize(
    "document",
    [{}, {"prices": "1,2"}, {"prices": ["x"]}, {"prices": [True]}, {"csv": "a,b\n1,2"}, {"csv": "close\nx"},
     {"prices": [1.0], "lags": 0}, {"prices": [1.0], "train": 1e9}, {"prices": [1.0] * 20_001}],
)  # fmt: skip
def test_input_of_another_shape_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RULES["walk_forward"](document)

"""Whether a price series can be predicted: a simple model walked forward against buy-and-hold and a random walk, after
costs, with an interval, and "no edge" where there is none.

The model is a ridge regression on lagged log returns. Nothing of a period or after it is used for its forecast. An edge
needs three intervals above zero: of the forecast error against the random walk's, of the net return against
buy-and-hold's, and of the net return itself. They come from a circular block bootstrap (Politis and Romano 1992), since
returns of neighbouring periods are not independent.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_PRICES = 20_000
MIN_TESTED = 100
RESAMPLES = 2000
RIDGE = 10.0
"""Penalty on standardised lags; on 250 periods it shrinks a coefficient of noise by a twenty-fifth."""
LARGE_MOVE = 0.4
PRICE_COLUMNS = ("adj close", "adj_close", "adjusted close", "close", "price", "last", "value")
DATE_COLUMNS = ("date", "datetime", "time", "timestamp", "day")
NOTICE = "A test of the past, no advice: one model on one series, costs as given, no slippage, taxes or borrowing."


@dataclass(frozen=True, slots=True)
class Plan:
    """How to test: periods of training before each forecast, lags, cost of a trade in basis points of its size,
    periods between fits, periods of a year, the intervals' confidence, the seed of their draws."""

    train: int = 250
    lags: int = 5
    cost_bps: float = 5.0
    refit_every: int = 20
    periods_per_year: int = 252
    confidence: float = 0.95
    seed: int = 0


LIMITS: dict[str, tuple[float, float]] = {
    "train": (50, 5000),
    "lags": (1, 20),
    "cost_bps": (0, 1000),
    "refit_every": (1, 1000),
    "periods_per_year": (1, 100_000),
    "confidence": (0.5, 0.999),
    "seed": (0, 2**31),
}


def walk_forward(document: dict[str, Any]) -> dict[str, Any]:
    """`{"prices": [number or {"date", "price"}]}` or `{"csv": text with a header}`, and of `Plan` what differs ->
    `{"found", "verdict", "statement", "periods", "tested", "forecast", "strategies", "excess", "plan", "warnings",
    "problem", "notice"}`.

    `verdict` is `edge`, `no edge`, or `not tested` (`problem` says why). `forecast` has `r2` against the random walk
    and the interval of the gain; `strategies` the net return a year, volatility, Sharpe ratio, deepest loss and
    trades of `ridge`, `buy_and_hold` and `random_walk` (which forecasts nothing, and so holds nothing); `excess` the
    interval of the model's net return a year over buy-and-hold's and over nothing."""
    plan = _plan(document)
    prices, dates = _prices(document)
    problem = _problem(prices, dates, plan)
    if problem:
        return _untested(problem, len(prices), plan)
    import numpy as np

    returns = np.diff(np.log(np.asarray(prices)))
    forecasts, walks = forecast_returns(returns, plan)
    actual = returns[-len(forecasts) :]
    cost = plan.cost_bps / 10_000
    positions = np.where(np.abs(forecasts) > cost, np.sign(forecasts), 0.0)
    simple = np.expm1(actual)
    net = {
        "ridge": _net(positions, simple, cost),
        "buy_and_hold": _net(np.ones(len(simple)), simple, cost),
        "random_walk": np.zeros(len(simple)),
    }
    gain = (actual - walks) ** 2 - (actual - forecasts) ** 2
    intervals = {
        "forecast": _interval(gain, plan),
        "buy_and_hold": _interval(net["ridge"] - net["buy_and_hold"], plan),
        "nothing": _interval(net["ridge"], plan),
    }
    has_edge = all(low > 0 for _, low, _ in intervals.values())
    return {
        "found": True,
        "verdict": "edge" if has_edge else "no edge",
        "statement": _statement(intervals, plan, len(actual)),
        "periods": len(prices),
        "tested": len(actual),
        "forecast": {
            "r2": _number(1 - float(((actual - forecasts) ** 2).sum() / ((actual - walks) ** 2).sum())),
            "gain": _named(intervals["forecast"], 1.0),
        },
        "strategies": {
            name: _strategy(series, positions if name == "ridge" else None, plan) for name, series in net.items()
        },
        "excess": {name: _named(intervals[name], float(plan.periods_per_year)) for name in ("buy_and_hold", "nothing")},
        "plan": _described(plan),
        "warnings": _warnings(returns, plan),
        "problem": "",
        "notice": NOTICE,
    }


def forecast_returns(returns: "Numbers", plan: Plan) -> "tuple[Numbers, Numbers]":
    """(the model's forecasts, the random walk's) of the log returns after the first `train + lags`; that of the random
    walk is the mean of its training periods."""
    import numpy as np

    first = plan.train + plan.lags
    count = len(returns) - first
    lagged = np.lib.stride_tricks.sliding_window_view(returns, plan.lags)[:-1]
    targets = returns[plan.lags :]
    forecasts, walks = np.empty(count), np.empty(count)
    for start in range(0, count, plan.refit_every):
        stop = min(start + plan.refit_every, count)
        x, y = lagged[start : start + plan.train], targets[start : start + plan.train]
        centre, spread, level = x.mean(0), x.std(0) + 1e-12, y.mean()
        scaled = (x - centre) / spread
        weights = np.linalg.solve(scaled.T @ scaled + RIDGE * np.eye(plan.lags), scaled.T @ (y - level))
        ahead = (lagged[start + plan.train : stop + plan.train] - centre) / spread
        forecasts[start:stop] = level + ahead @ weights
        walks[start:stop] = level
    return forecasts, walks


def _net(positions: "Numbers", simple: "Numbers", cost: float) -> "Numbers":
    import numpy as np

    trades = np.abs(np.diff(positions, prepend=0.0))
    return positions * simple - cost * trades


def _interval(values: "Numbers", plan: Plan) -> tuple[float, float, float]:
    """Mean, low and high of a mean over time, by blocks of the cube root of its length, drawn on a circle."""
    import numpy as np

    count = len(values)
    block = max(1, round(count ** (1 / 3)))
    summed = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: block - 1]]))])
    sums = summed[block:] - summed[:-block]
    blocks = math.ceil(count / block)
    draws = np.random.default_rng(plan.seed).integers(0, count, (RESAMPLES, blocks))
    means = sums[draws].sum(1) / (blocks * block)
    low, high = np.quantile(means, [(1 - plan.confidence) / 2, (1 + plan.confidence) / 2])
    return float(values.mean()), float(low), float(high)


def _strategy(net: "Numbers", positions: "Numbers | None", plan: Plan) -> dict[str, float | int]:
    import numpy as np

    mean, spread = float(net.mean()), float(net.std())
    wealth = np.cumprod(1 + np.maximum(net, -0.999999))
    deepest = float((wealth / np.maximum.accumulate(np.concatenate([[1.0], wealth]))[1:] - 1).min())
    trades = 1 if net.any() else 0
    if positions is not None:
        trades = int(np.count_nonzero(np.diff(positions, prepend=0.0)))
    return {
        "return_per_year": _number(mean * plan.periods_per_year),
        "volatility_per_year": _number(spread * math.sqrt(plan.periods_per_year)),
        "sharpe": _number(mean / spread * math.sqrt(plan.periods_per_year)) if spread > 0 else 0.0,
        "deepest_loss": _number(min(0.0, deepest)),
        "trades": trades,
    }


def _statement(intervals: dict[str, tuple[float, float, float]], plan: Plan, tested: int) -> str:
    """The verdict in words, with what it rests on."""
    confidence = f"{plan.confidence:.0%}"
    texts = {
        "forecast": "its forecasts are not shown to be better than a random walk's",
        "buy_and_hold": "its net return is not shown to be above buy-and-hold's",
        "nothing": "its net return is not shown to be above zero",
    }
    lacking = [texts[name] for name, (_, low, _) in intervals.items() if low <= 0]
    if lacking:
        return f"No edge: on {tested} periods after training, at {confidence} confidence, {'; '.join(lacking)}."
    mean, low, high = (value * plan.periods_per_year for value in intervals["buy_and_hold"])
    return (
        f"An edge on {tested} periods after training: {mean:+.1%} a year over buy-and-hold after costs, {confidence} "
        f"interval {low:+.1%} to {high:+.1%}. It is of this series' past."
    )


def _plan(document: dict[str, Any]) -> Plan:
    values: dict[str, Any] = {}
    for name, (least, most) in LIMITS.items():
        value = document.get(name)
        if value is None:
            continue
        whole = name not in ("cost_bps", "confidence")
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else int | float)
            or not least <= value <= most
        ):
            raise InputError(f'"{name}" is {value!r}; it takes {least:g} to {most:g}')
        values[name] = value
    return Plan(**values)


def _prices(document: dict[str, Any]) -> tuple[list[float], list[str]]:
    if isinstance(text := document.get("csv"), str):
        rows: Iterable[Any] = _csv_rows(text)
    elif isinstance(given := document.get("prices"), list):
        rows = given
    else:
        raise InputError('there is neither "prices", a list, nor "csv", a text')
    prices: list[float] = []
    dates: list[str] = []
    for number, row in enumerate(rows, 1):
        if len(prices) == MAX_PRICES:
            raise InputError(f"there are more than {MAX_PRICES} prices", remedy="Give fewer, or a longer period each.")
        price = row.get("price") if isinstance(row, dict) else row
        if isinstance(price, bool) or not isinstance(price, int | float):
            raise InputError(f"price {number} is {type(price).__name__}, not a number")
        prices.append(float(price))
        if isinstance(row, dict) and row.get("date") is not None:
            dates.append(str(row["date"]))
    return prices, dates


def _csv_rows(text: str) -> Iterable[dict[str, Any]]:
    lines = text[: MAX_PRICES * 400].splitlines()
    try:
        table = [row for row in csv.reader(lines[: MAX_PRICES + 2]) if any(row)]
    except csv.Error as error:
        raise InputError(f"the CSV cannot be read: {error}") from None
    header = [name.strip().lower() for name in table[0]] if table else []
    price = next((header.index(name) for name in PRICE_COLUMNS if name in header), None)
    date = next((header.index(name) for name in DATE_COLUMNS if name in header), None)
    if price is None:
        raise InputError(f"the CSV has no column of prices; known: {', '.join(PRICE_COLUMNS)}")
    for number, row in enumerate(table[1:], 2):
        written = row[price].strip().replace(",", "") if price < len(row) else ""
        try:
            value = float(written)
        except ValueError:
            raise InputError(f'row {number} of the CSV has the price "{written[:40]}"') from None
        yield {"price": value, "date": row[date] if date is not None and date < len(row) else None}


def _problem(prices: list[float], dates: list[str], plan: Plan) -> str:
    """Why this cannot be tested, or nothing."""
    needed = plan.train + plan.lags + MIN_TESTED + 1
    if len(prices) < needed:
        return f"{len(prices)} prices are too few: {plan.train} to train on and {MIN_TESTED} to test on need {needed}"
    wrong = next((number for number, price in enumerate(prices, 1) if not (math.isfinite(price) and price > 0)), 0)
    if wrong:
        return f"price {wrong} is {prices[wrong - 1]:g}; prices must be above zero"
    if len(set(prices)) == 1:
        return "all prices are the same"
    if len(dates) == len(prices) and all(len(date) == len(dates[0]) and date[:4].isdigit() for date in dates):
        backwards = next((place for place in range(1, len(dates)) if dates[place] <= dates[place - 1]), 0)
        if backwards:
            return f"the dates do not rise: {dates[backwards - 1]} is followed by {dates[backwards]}"
    return ""


def _warnings(returns: "Numbers", plan: Plan) -> list[str]:
    import numpy as np

    large = np.flatnonzero(np.abs(np.expm1(returns)) > LARGE_MOVE)
    warnings = (
        [f"{len(large)} moves above {LARGE_MOVE:.0%}, the first at price {large[0] + 2}: a split?"]
        if len(large)
        else []
    )
    still = float((returns == 0).mean())
    return warnings + ([f"{still:.0%} of the prices repeat the one before"] if still > 0.2 else [])


def _untested(problem: str, periods: int, plan: Plan) -> dict[str, Any]:
    return {
        "found": False,
        "verdict": "not tested",
        "statement": f"Not tested: {problem}.",
        "periods": periods,
        "tested": 0,
        "forecast": None,
        "strategies": None,
        "excess": None,
        "plan": _described(plan),
        "warnings": [],
        "problem": problem,
        "notice": NOTICE,
    }


def _described(plan: Plan) -> dict[str, float | int]:
    return {name: getattr(plan, name) for name in LIMITS}


def _named(interval: tuple[float, float, float], scale: float) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), (_number(value * scale) for value in interval), strict=True))


def _number(value: float) -> float:
    """Nine significant digits: enough to compare, and the same on every machine."""
    return float(f"{value:.9g}") if math.isfinite(value) else 0.0

"""Quantities as tables and reports write them: signs, parentheses for negatives, separators, currency, percent,
scale."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

SCALES = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALE_WORDS = {
    "k": "thousand", "thousand": "thousand", "thousands": "thousand", "m": "million", "mn": "million", "mm": "million",
    "mio": "million", "million": "million", "millions": "million", "b": "billion", "bn": "billion",
    "billion": "billion", "billions": "billion", "trillion": "trillion", "trillions": "trillion",
}  # fmt: skip
CURRENCIES = {
    "$": "USD", "us$": "USD", "usd": "USD", "\u20ac": "EUR", "eur": "EUR", "\u00a3": "GBP", "gbp": "GBP",
    "\u00a5": "JPY", "rmb": "CNY", "hk$": "HKD", "a$": "AUD", "c$": "CAD", "chf": "CHF", "\u20b9": "INR",
}  # fmt: skip
_CURRENCY = "|".join(re.escape(mark) for mark in sorted(CURRENCIES, key=len, reverse=True))
_FIGURE = (
    r"[0-9]{1,3}(?:[,\u00a0\u202f' ][0-9]{3})+(?:\.[0-9]{1,12})?|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]{1,12}"
    r"|[0-9]{1,20}(?:\.[0-9]{1,12})?|\.[0-9]{1,12}"
)
_SCALE = "|".join(sorted(SCALE_WORDS, key=len, reverse=True))
QUANTITY = re.compile(
    rf"(?i)(?P<lead>[+\u2212\u2013-]?) ?(?P<currency>{_CURRENCY})? ?(?P<open>\(?) ?(?P<inner>{_CURRENCY})?"
    rf" ?(?P<sign>[+\u2212\u2013-]?) ?(?P<figure>{_FIGURE}) ?(?P<mark>%|\u2030)? ?(?P<close>\)?)"
    rf" ?(?P<late>%)? ?(?P<scale>(?:{_SCALE})(?![\w]))? ?(?P<after>(?:{_CURRENCY})(?![\w]))?"
    r" ?(?P<footnote>\((?:[0-9]|[a-z]|[ivx]{2,4})\)|\*{1,3})? ?"
)
DASH = re.compile(r"[$\u20ac\u00a3]?\s{0,3}(?:[\u2012-\u2015\u2212-]\s{0,3}){1,3}%?")
TABLE_SCALE = re.compile(
    r"(?i)\b(?:in|amounts? in)\s{1,3}(?:[a-z$\u20ac\u00a3.]{1,12}\s{1,3}){0,3}?"
    r"(?P<word>thousands?|millions?|billions?|trillions?)"
    r"|(?P<zeros>[$\u20ac\u00a3]?\s?['\u2019]?000(?:s|\b))"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit (percent, a currency's code, or nothing) and the scale that it is written in."""

    value: float
    unit: str = ""
    scale: str = ""

    def plain(self) -> float:
        """The number without its scale: 1.2 million is 1200000."""
        return self.value * SCALES[self.scale]


@lru_cache(maxsize=1 << 14)
def read_quantity(written: str) -> Quantity | None:
    """The quantity that a whole cell is: `$ (1,234.5)`, `12.3%`, `1.2 million`; a dash is zero; None for others."""
    text = " ".join(written.split()) if len(written) <= 200 else ""
    if not text or len(text) > 80:
        return None
    if DASH.fullmatch(text):
        return Quantity(0.0)
    match = QUANTITY.fullmatch(text)
    if not match or bool(match["open"]) != bool(match["close"]):
        return None
    value = _number(match["figure"])
    signs = sum(bool(match[group]) and match[group] != "+" for group in ("lead", "sign", "open"))
    currency = (match["currency"] or match["inner"] or match["after"] or "").lower()
    unit = "percent" if match["mark"] or match["late"] else CURRENCIES.get(currency, "")
    value = value / 10 if match["mark"] == "\u2030" else value
    return Quantity(-value if signs % 2 else value, unit, SCALE_WORDS.get((match["scale"] or "").lower(), ""))


def scale_in(text: str) -> str:
    """The scale that a table's heading or caption states: (in millions), $000."""
    match = TABLE_SCALE.search(text)
    if not match:
        return ""
    return SCALE_WORDS[match["word"].lower()] if match["word"] else "thousand"


def write_quantity(value: float, unit: str, scale: str, decimals: int = 2) -> str:
    """`-12.60 million USD`, `5.25 %`, without needless zeros."""
    if not math.isfinite(value):
        return "not a number"
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    parts = ["0" if text == "-0" else text, scale, "%" if unit == "percent" else unit]
    return " ".join(part for part in parts if part)


def _number(figure: str) -> float:
    if re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]{1,12}", figure):
        return float(figure.replace(".", "").replace(",", "."))
    return float(re.sub(r"[,\u00a0\u202f' ]", "", figure))

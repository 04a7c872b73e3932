"""Number formats of spreadsheets (ECMA-376 part 1, 18.8.30) where they say more than the number: leading zeros,
percent, units and other literals. Digits are never rounded away."""

import re
from dataclasses import dataclass
from functools import lru_cache

BUILT_IN = {9: "0%", 10: "0.00%"}
"""Number -> format, of the built-in ones that say more; those of currencies depend on the reader's country."""
_TOKEN = re.compile(r'"([^"]*)"|\\(.)|_.|\*.|\[\$([^\]-]*)[^\]]*\]|(\[[^\]]*\])|(General)|(.)', re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")
_COLOR = re.compile(r"\[[A-Za-z]+\]")
_COLORS = ("[black]", "[blue]", "[cyan]", "[green]", "[magenta]", "[red]", "[white]", "[yellow]")
_MAX_FORMAT = 255


@dataclass(frozen=True)
class NumberFormat:
    """`pattern` has a placeholder "0" or "#" per digit before the point, with literals in between. `signed`: negative
    numbers look the same, after a minus."""

    prefix: str
    pattern: str
    suffix: str
    percent: bool
    signed: bool = True

    def text(self, number: float) -> str:
        """The number as text, "01231", "12.5%", "2000.5 EUR". The leftmost placeholder takes all digits left."""
        size = abs(number) * 100 if self.percent else abs(number)
        whole, point, fraction = f"{size:.15g}".partition(".")
        if not whole.isdigit() or "e" in fraction or (number < 0 and not self.signed):
            return str(number)
        places = sum(sign in "0#" for sign in self.pattern)
        digits = list(whole.zfill(self.pattern.count("0")))
        filled = ""
        for sign in reversed(self.pattern):
            if sign not in "0#":
                filled = sign + filled if digits else filled
            elif digits:
                places -= 1
                filled = (digits.pop() if places else "".join(digits)) + filled
        return f"{'-' if number < 0 else ''}{self.prefix}{filled}{point}{fraction}{self.suffix}"


@lru_cache(maxsize=1024)
def number_format(code: str) -> NumberFormat | None:
    """The format of a code's section for positive numbers; None where the bare number says as much, and for dates."""
    prefix = pattern = between = ""
    percent = is_fraction = scaled = False
    signed = True
    for match in _TOKEN.finditer(code[:_MAX_FORMAT]):
        quoted, escaped, currency, bracketed, general, sign = match.groups()
        literal = quoted or escaped or currency or ""
        if general or (bracketed and bracketed.lower() not in _COLORS):
            return None
        if sign == ";":
            words = _WORD.findall(_COLOR.sub("", code[: match.start()]))
            signed = words == _WORD.findall(_COLOR.sub("", code[match.end() :].split(";")[0]))
            break
        if sign == "%":
            percent, literal = True, "%"
        elif sign and sign in "0#?":
            scaled = False
            if not is_fraction:
                pattern += (between if pattern else "") + ("0" if sign == "0" else "#")
                between = ""
            continue
        elif sign == ".":
            is_fraction = True
            continue
        elif sign == ",":
            scaled = bool(pattern)  # a comma after the last digit divides by a thousand
            continue
        elif sign and ((sign.isalpha() and sign.isascii()) or sign in "/@"):
            return None
        elif sign:
            literal = sign
        if pattern:
            between += literal
        else:
            prefix += literal
    has_literals = any(sign not in "0#" for sign in pattern) or prefix.strip(" -+()") or between.strip(" -+()")
    has_digits = any(sign.isdigit() for sign in f"{prefix}{pattern.replace('0', '')}")
    if not pattern or scaled or has_digits or not (has_literals or pattern.count("0") > 1):
        return None
    return NumberFormat(prefix.lstrip(), pattern, between.rstrip(), percent, signed)

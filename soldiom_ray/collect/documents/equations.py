"""Equations of office files (OMML, ECMA-376 part 1, chapter 22.1) as one line of text."""

from typing import Any

_ARGUMENTS = {
    "f": {"num", "den", "fPr"},
    "sSup": {"e", "sup", "sSupPr"},
    "sSub": {"e", "sub", "sSubPr"},
    "sSubSup": {"e", "sub", "sup", "sSubSupPr"},
    "rad": {"deg", "e", "radPr"},
    "nary": {"e", "sub", "sup", "naryPr"},
    "d": {"e", "dPr"},
}
"""What is written by its structure -> its parts."""


def equation_text(element: Any) -> str:
    """An equation, or a part of one: fractions as (a)/(b), powers as a^b, indices as a_b, roots as √(a)."""
    return "".join(_piece(child) for child in element)


def _piece(element: Any) -> str:
    name = local_name(element)
    if name in ("t", "delText"):
        return element.text or ""
    arguments: dict[str, str] = {}
    for child in element:
        arguments[local_name(child)] = arguments.get(local_name(child), "") + equation_text(child)
    if not arguments.keys() <= _ARGUMENTS.get(name, set()):
        return equation_text(element)  # not as the standard has it: nothing of it may be lost
    base, below, above = arguments.get("e", ""), arguments.get("sub", ""), arguments.get("sup", "")
    if name == "f":
        return f"{_grouped(arguments.get('num', ''))}/{_grouped(arguments.get('den', ''))}"
    if name in ("sSup", "sSub", "sSubSup"):
        return base + _raised("_", below) + _raised("^", above)
    if name == "rad":
        return f"√{_grouped(arguments.get('deg', ''), '[]') if arguments.get('deg') else ''}({base})"
    if name == "nary":
        return f"{_property(element, 'chr', '∫')}{_raised('_', below)}{_raised('^', above)} {base}"
    if name == "d":
        terms = _property(element, "sepChr", "|").join(equation_text(e) for e in element if local_name(e) == "e")
        return f"{_property(element, 'begChr', '(')}{terms}{_property(element, 'endChr', ')')}"
    return equation_text(element)


def local_name(element: Any) -> str:
    """An element's name without its namespace; "" for comments and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _grouped(text: str, brackets: str = "()") -> str:
    return text if len(text) <= 1 else f"{brackets[0]}{text}{brackets[1]}"


def _raised(sign: str, text: str) -> str:
    return f"{sign}{_grouped(text)}" if text else ""


def _property(element: Any, name: str, default: str) -> str:
    """The sign that an element's properties set: its operator, or one of its brackets."""
    for properties in element:
        if local_name(properties).endswith("Pr"):
            for child in properties:
                if local_name(child) == name:
                    return next((value for key, value in child.items() if key.endswith("}val")), "")
    return default

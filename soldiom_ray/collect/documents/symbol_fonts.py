"""Signs of the fonts Symbol and Wingdings, whose letters are others than those of their places."""

from typing import Any

_SYMBOL = (
    dict(zip(range(0x41, 0x5B), "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", strict=False))
    | dict(zip(range(0x61, 0x7B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True))
    | {
        0xA3: "≤",
        0xA5: "∞",
        0xAB: "↔",
        0xAC: "←",
        0xAD: "↑",
        0xAE: "→",
        0xAF: "↓",
        0xB0: "°",
        0xB1: "±",
        0xB3: "≥",
        0xB4: "×",
        0xB6: "∂",
        0xB7: "•",
        0xB8: "÷",
        0xB9: "≠",
        0xBA: "≡",
        0xBB: "≈",
        0xC6: "∅",
        0xC7: "∩",
        0xC8: "∪",
        0xCC: "⊂",
        0xCE: "∈",
        0xD1: "∇",
        0xD5: "∏",
        0xD6: "√",
        0xD9: "∧",
        0xDA: "∨",
        0xDB: "⇔",
        0xDC: "⇐",
        0xDE: "⇒",
        0xE5: "∑",
        0xF2: "∫",
    }
)
_WINGDINGS = {
    0x4A: "☺",
    0x4C: "☹",
    0x6C: "●",
    0x6E: "■",
    0x6F: "☐",
    0x71: "❑",
    0x76: "❖",
    0x9F: "•",
    0xA7: "▪",
    0xA8: "☐",
    0xD8: "➢",
    0xDF: "←",
    0xE0: "→",
    0xE8: "➔",
    0xF0: "⇨",
    0xFB: "✗",
    0xFC: "✓",
    0xFD: "☒",
    0xFE: "☑",
}
_FONTS = {"symbol": _SYMBOL, "wingdings": _WINGDINGS}


def symbol(element: Any) -> str:
    """The sign of a `w:sym`, "" for one that is not known."""
    settings = {key.rpartition("}")[2]: value for key, value in element.items()}
    try:
        place = int(settings.get("char", ""), 16) & 0xFF  # fonts of signs lie from F000 on
    except ValueError:
        return ""
    return _FONTS.get(settings.get("font", "").lower(), {}).get(place, "")

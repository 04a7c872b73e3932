"""A text as its reader understands it: disguises are taken off before rules and classifiers look.

Views of one text: `plain` (NFKC, without characters that do not show), `folded` (lower case, look-alikes of Latin
letters as Latin, letters that are spaced out joined), and what is encoded in it (base64, percent signs, escapes,
entities, Unicode's invisible tags), decoded. A rule that matches any view matches the text.
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

MAX_DEPTH = 2
"""Encodings within encodings that are taken off. Each makes a text no longer, so all views together have at most six
times its length."""

_LOOKALIKES = str.maketrans(
    "абвгеёзіїјкмнорсԁһтухѕԛԝҽԍոսցαβγεζηικμνορτυχωϲϳıłøđħŧɑɡɩƒß",
    "a6breeeiijkmhopcdhtyxsqweGnug".lower() + "abyeznikmvoptuxwcj" + "ilodhtagifb",
)
"""Letters of other scripts and Latin ones with marks that look like Latin ones (after Unicode's confusables.txt, the
lower case letters that a keyboard or a generator of disguised text offers)."""
_DIGITS = str.maketrans("013457@$!", "oieastasi")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:[ \t]?\r?\n[ \t]?[A-Za-z0-9+/_-]{16,})*={0,2}")
_ESCAPES = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|&#x([0-9a-fA-F]{2,6});")
_ESCAPED = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|%[0-9a-fA-F]{2}|&#?\w{2,8};")
_SPACED = re.compile(r"(?<!\w)(?:\w[ .\-_*·|]{1,2}){3,40}\w(?!\w)")
_DISGUISED_WORD = re.compile(r"(?<![\w@$!])(?=[\w@$!]*[a-z])[\w@$!]*[013457@$!][\w@$!]*")
_TAGS = {code: code - 0xE0000 for code in range(0xE0020, 0xE007F)}
_PRINTABLE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Views:
    """`plain` keeps case and letters; `folded` are lower case texts, the decoded ones among them; `decoded` what was
    encoded, as it was written."""

    plain: str
    folded: tuple[str, ...]
    decoded: tuple[str, ...]


def views(text: str) -> Views:
    """The views of a text."""
    plain, hidden = shown(text)
    decoded: list[str] = [hidden] if hidden else []
    _decode(plain, decoded, MAX_DEPTH)
    folded: dict[str, None] = {}
    for each in (plain, *decoded):
        for view in _folded(each):
            folded[view] = None
    return Views(plain, tuple(folded), tuple(decoded))


def shown(text: str) -> tuple[str, str]:
    """The text in NFKC without characters that do not show and without stacked marks, and what its invisible tags
    say."""
    if text.isascii():
        return text, ""
    hidden = ""
    if any(0xE0020 <= ord(character) < 0xE007F for character in text):
        hidden = "".join(chr(_TAGS[ord(character)]) for character in text if ord(character) in _TAGS)
    normal = unicodedata.normalize("NFKC", text)
    kept = [character for character in normal if not _is_invisible(character)]
    return "".join(kept), hidden


def _is_invisible(character: str) -> bool:
    if character < "\u00ad":
        return False
    # Fillers of Hangul, Khmer's inherent vowels and the braille blank are letters or symbols that show nothing.
    return (
        unicodedata.category(character) in ("Cf", "Mn", "Me")
        or character in "\u115f\u1160\u3164\uffa0\u17b4\u17b5\u2800"
    )


def _folded(text: str) -> Iterator[str]:
    lower = text.casefold()
    if not lower.isascii():
        yield lower
        # Marks on letters come off with their decomposition: é is e, as in a text that is written without accents.
        marked = unicodedata.normalize("NFKD", lower)
        lower = "".join(each for each in marked if unicodedata.category(each) != "Mn").translate(_LOOKALIKES)
    yield lower
    if _SPACED.search(lower):
        yield _SPACED.sub(lambda match: re.sub(r"[^\w]|_", "", match[0]), lower)
    if _DISGUISED_WORD.search(lower):
        yield _DISGUISED_WORD.sub(lambda match: match[0].translate(_DIGITS), lower)


def _decode(text: str, decoded: list[str], depth: int) -> None:
    """Append what is encoded in the text."""
    if not depth:
        return
    parts = [_ESCAPES.sub(_escaped, html.unescape(unquote(text)))] if _ESCAPED.search(text) else []
    parts = [part for part in parts if part != text]
    parts += [part for match in _ENCODED.finditer(text) if (part := _from_base64(match[0]))]
    for part in parts:
        visible, hidden = shown(part)
        decoded += [visible, hidden] if hidden else [visible]
        _decode(visible, decoded, depth - 1)


def _escaped(match: re.Match[str]) -> str:
    code = int(next(group for group in match.groups() if group), 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def _from_base64(run: str) -> str:
    """The text that a run of base64 stands for; "" for one that stands for none: words, hashes, keys, pictures."""
    letters = re.sub(r"\s+", "", run).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        text = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    printable = sum(character.isprintable() or character in "\n\r\t" for character in text)
    return text if printable >= _PRINTABLE_SHARE * len(text) else ""

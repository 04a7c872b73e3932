"""Sentences, content words and numbers of a text, for comparing what is claimed with what is written elsewhere."""

import re
from collections.abc import Iterator

SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])[\"'\u201d\u2019)]{0,3}(?:[ \t]{0,2}\[[0-9E, \u2013-]{1,40}\]){0,8}[ \t]{1,8}(?=[^\s.,;:])"
    r"|[\u3002\uff01\uff1f]|\n)"
)
QUOTE = re.compile('"')
MAX_QUOTE = 1000
"""Characters after which a quote that is still open is taken for a stray mark."""
IDEOGRAPHIC_STOPS = "\u3002\uff01\uff1f"
ABBREVIATION = re.compile(
    r"(?i)(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|no|nos|fig|sec|art|mr|mrs|ms|dr|prof|st|inc|ltd|co|corp|u\.s|u\.k|v|p|pp|al"
    r"|z\.b|bzw|ca|nr|abs)|(?<![\w])[A-Z])\.\Z"
)
WORD = re.compile(r"[^\W\d_]{1,60}+(?:['\u2019][^\W\d_]{1,3})?")
NUMBER = re.compile(r"(?<![\w.])[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,18}+)(?:\.[0-9]{1,12})?(?![\w])")
IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
NEGATION = re.compile(
    r"(?i)\b(?:not|no|never|none|neither|nor|without|cannot|nobody|nothing|\w{2,10}n['\u2019]t|nicht|kein\w{0,2}|nie|ne"
    r"|pas|jamais|nunca)\b"
)
STOP_WORDS = frozenset(
    word
    for words in (
        "a an the this that these those it its they their them he his she her we our you your i and or but if then",
        "than as at by for from in into of on onto to with within without about over under between through during",
        "before after above below is are was were be been being has have had do does did can could may might must",
        "shall should will would not no nor so such there here which who whom whose what when where why how all",
        "any both each few more most other some only own same too very also just one der die das ein eine und oder",
        "ist sind war von mit zu im den dem des auf le la les un une et ou est de du en que qui dans pour el los",
        "las y o es por con",
    )
    for word in words.split()
)
RISES = re.compile(r"(?i)\b(?:increas\w*|r[io]se\w*|rising|gr[eo]w\w*|higher|up|gain\w*|climb\w*|improv\w*|more)\b")
FALLS = re.compile(
    r"(?i)\b(?:decreas\w*|f[ae]ll\w*|declin\w*|lower\w*|down|loss\w*|drop\w*|reduc\w*|shr[iau]nk\w*|less|fewer)\b"
)
SUFFIXES = ("ations", "ation", "ings", "edly", "ing", "ies", "ied", "ers", "ed", "es", "ly", "er", "s", "e")


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences, citations after the stop included; what stands in double quotes is not divided, lines
    are."""
    start = counted = opened = 0
    is_quoted = False
    for match in SENTENCE_END.finditer(text):
        for quote in QUOTE.finditer(text, counted, match.end()):
            is_quoted, opened = not is_quoted, quote.start()
        counted = match.end()
        if match[0] != "\n" and match[0] not in IDEOGRAPHIC_STOPS:
            in_quote = is_quoted and match.end() - opened < MAX_QUOTE
            if in_quote or ABBREVIATION.search(text, max(start, match.start() - 12), match.start()):
                continue
        if text[start : match.end()].strip():
            yield _trimmed(text, start, match.end())
        start, is_quoted = match.end(), False
    if text[start:].strip():
        yield _trimmed(text, start, len(text))


def content_words(text: str) -> list[str]:
    """Words without those that carry no meaning, in lower case and without common English endings; of scripts that
    write no spaces each pair of characters."""
    words = [stem(word) for word in (match[0].lower() for match in WORD.finditer(text)) if word not in STOP_WORDS]
    runs = [word for word in words if IDEOGRAPHS.search(word)]
    if not runs:
        return words
    pairs = [run[at : at + 2] for run in runs for at in range(max(1, len(run) - 1))]
    return [word for word in words if not IDEOGRAPHS.search(word)] + pairs


def written_words(text: str) -> dict[str, str]:
    """Content words as they are written, by what `content_words` has of them."""
    return {stem(match[0].lower()): match[0] for match in WORD.finditer(text)}


def numbers(text: str) -> list[str]:
    """Numbers without separators of thousands, plus signs and trailing zeros of decimals."""
    found = []
    for match in NUMBER.finditer(text):
        written = match[0].replace(",", "").lstrip("+")
        found.append(written.rstrip("0").rstrip(".") if "." in written else written)
    return found


def has_negation(text: str) -> bool:
    """Whether a word denies something."""
    return NEGATION.search(text) is not None


def directions(text: str) -> set[str]:
    """`rise`, `fall`: which way the words of a text say that something went."""
    return {name for name, pattern in (("rise", RISES), ("fall", FALLS)) if pattern.search(text)}


def stem(word: str) -> str:
    """A word without a common English ending, at least four letters of it left."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end

"""The content filter's rules: which categories a text falls into, and where what can be masked stands.

Keywords are phrases of `rules.yaml`, matched against every view of a text (`normalize.py`). Secrets and personal data
are those that `redaction` finds. Time is in proportion to the text: a phrase is only searched where all of its words
occur, and every repetition in it is bounded.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import yaml

from soldiom_ray.redaction import named_spans
from soldiom_ray.safety.normalize import Views, views

FINDERS: Mapping[str, tuple[str, ...]] = {
    "secret": ("secret",),
    "personal_data": ("email", "phone", "card", "iban", "national_number"),
}
"""Those of `redaction` by category. Addresses of machines are personal data in a log, and noise in a conversation."""
NEAR = 30
"""Characters around a match in which an `unless` takes it back."""
_GAP = r"[\W_]{1,12}(?:\w{1,40}[\W_]{1,12}){0,5}?"


@dataclass(frozen=True, slots=True)
class Match:
    """Where a category that can be masked stands in the text: of which finder, from where, up to where."""

    category: str
    finder: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """The categories of a text; `matches` are those with a place, in order. A category in `disguised` was found only
    once a disguise was off, so it has no place in the text as it stands."""

    categories: frozenset[str] = frozenset()
    matches: tuple[Match, ...] = ()
    disguised: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Phrase:
    """`slots`: for each place the words of which one must occur in a text; the pattern is only searched then."""

    pattern: re.Pattern[str]
    slots: tuple[frozenset[str], ...]

    def search(self, text: str, words: Collection[str]) -> re.Match[str] | None:
        """Where it stands, if it does."""
        if any(slot.isdisjoint(words) for slot in self.slots):
            return None
        return self.pattern.search(text)


@dataclass(frozen=True, slots=True)
class Rule:
    """The phrases of one category, and those that take a match near them back."""

    phrases: tuple[_Phrase, ...]
    unless: tuple[_Phrase, ...]
    anywhere: tuple[str, ...]

    def matches(self, text: str, words: Collection[str]) -> bool:
        """Whether a text in lower case, whose words these are, falls into the category."""
        if any(each in text for each in self.anywhere):
            return True
        for phrase in self.phrases:
            if match := phrase.search(text, words):
                around = text[max(0, match.start() - NEAR) : match.end() + NEAR]
                near = set(re.findall(r"\w+", around))
                if not any(each.search(around, near) for each in self.unless):
                    return True
        return False


def find(text: str, categories: Iterable[str], seen: Views | None = None) -> Found:
    """Which of these categories a text falls into. `seen` are its views, where they are known."""
    wanted = set(categories)
    seen = seen or views(text)
    keyword = _keywords(seen.folded, wanted - FINDERS.keys())
    matches: list[Match] = []
    disguised: set[str] = set()
    for category in FINDERS.keys() & wanted:
        names = FINDERS[category]
        matches += [Match(category, name, start, end) for start, end, name in named_spans(text, names)]
        others = (*((seen.plain,) if seen.plain != text else ()), *seen.decoded)
        if any(_count(each, names) for each in others) and not any(each.category == category for each in matches):
            disguised.add(category)
    by_place = tuple(sorted(matches, key=lambda each: (each.start, -each.end)))
    return Found(frozenset(keyword | disguised | {each.category for each in matches}), by_place, frozenset(disguised))


def _count(text: str, names: tuple[str, ...]) -> int:
    return len(named_spans(text, names))


def _keywords(folded: Iterable[str], wanted: Collection[str]) -> set[str]:
    found: set[str] = set()
    for text in folded:
        words = set(re.findall(r"\w+", text))
        found |= {name for name in wanted if name not in found and rules()[name].matches(text, words)}
    return found


@lru_cache
def rules() -> dict[str, Rule]:
    """The categories of `rules.yaml`."""
    text = resources.files("soldiom_ray.safety").joinpath("rules.yaml").read_text("utf-8")
    loaded: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(text)
    return {
        name: Rule(
            tuple(_phrase(each) for each in rule.get("phrases", ())),
            tuple(_phrase(each) for each in rule.get("unless", ())),
            tuple(each.casefold() for each in rule.get("anywhere", ())),
        )
        for name, rule in loaded.items()
    }


def _phrase(written: str) -> _Phrase:
    written = written.casefold()
    parts = [_pattern(part) for part in re.split(r"\s+\.\.\.\s+", written)]
    return _Phrase(re.compile(rf"(?<!\w){_GAP.join(parts)}(?!\w)"), tuple(_slots(written)))


def _pattern(part: str) -> str:
    """A part without gaps as a regular expression."""
    part = re.sub(r"[^\w\s()|*']", lambda match: re.escape(match[0]), part)
    part = part.replace("*", r"\w{0,20}").replace("(", "(?:").replace("'", "['’]?")
    return re.sub(r"\s+", r"[\\W_]{1,12}", part)


def _slots(written: str) -> list[frozenset[str]]:
    """Words of which a text with the phrase has one: those of each group at the top, and each word that stands alone.
    Groups with open endings or groups within them say nothing."""
    slots = []
    for group, word in re.findall(r"\(((?:[^()]|\([^()]*\))*)\)|([^\s()]+)", written):
        if "*" in group + word or "(" in group or word == "..." or "'" in word:
            continue
        alternatives = group.split("|") if group else [word]
        firsts = [re.findall(r"\w+", each)[:1] for each in alternatives]
        if all(firsts):
            slots.append(frozenset(first[0] for first in firsts))
    return slots

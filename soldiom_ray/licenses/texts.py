"""Which licences a text is or holds, found by comparing its word runs with those of every licence of the SPDX list.

A licence is found where a stretch of the text holds most of its runs; Dice's coefficient of the two is the confidence.
Stretches are taken one after the other, the best first, so a file that bundles several licences names each. What
remains is searched for notices ("licensed under the Apache License, Version 2.0", "either version 2 of the License, or
(at your option) any later version").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soldiom_ray.licenses.fingerprints import RUN_WORDS, Known, load, runs_of, words_of
from soldiom_ray.licenses.names import combine, from_name, normalize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CHARACTERS = 2_000_000
HEADER_LINES = 50
MAX_NAME = 80
FULLEST = 6
PREFER_COMMON = 1.2
MIN_COVERAGE = 0.7
MIN_DICE = 0.75
RARE_DICE = 0.85
COMMON = frozenset(
    (
        *(
            "0BSD",
            "AGPL-3.0-only",
            "Apache-1.1",
            "Apache-2.0",
            "Artistic-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "BSD-4-Clause",
        ),
        *(
            "BSL-1.0",
            "CC-BY-4.0",
            "CC-BY-SA-4.0",
            "CC0-1.0",
            "EPL-2.0",
            "FTL",
            "GPL-2.0-only",
            "GPL-3.0-only",
            "HPND",
            "ICU",
        ),
        *("IJG", "ISC", "LGPL-2.1-only", "LGPL-3.0-only", "Libpng", "MIT", "MPL-1.1", "MPL-2.0", "NCSA", "OFL-1.1"),
        *("OpenSSL", "PSF-2.0", "Python-2.0", "Python-2.0.1", "Unlicense", "Zlib"),
    )
)
"""Licences that are many thousand times as common as the rest, which has to fit better to be believed: of the 667 texts
most are one of these with a sentence changed."""

MAX_LICENSES = 12
BUNDLED = "LicenseRef-Bundled-Notices"
"""Stands for what a file holds beyond MAX_LICENSES licences; a person has to read it."""

IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n*#\"'<>]{1,300})")
COVERED = re.compile(r"\|(?: \|)+")
LICENSE_LINE = re.compile(r"^[^\w\n]*licen[sc]e(?:-expression)?[ \t]*[:=][ \t]*([^\n]{2,80})$", re.I | re.M)
NOTICES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (spdx, re.compile(pattern))
    for spdx, pattern in (
        (
            "Apache-2.0 OR BSD-3-Clause",
            r"under the terms of either of the licenses found in license apache or license bsd",
        ),
        ("Apache-2.0", r"licensed under (?:the )?(?:terms of the )?apache(?: software)? license,? (?:version|v) ?2"),
        ("Apache-2.0", r"apache license version 2 0"),
        (
            "AGPL-3.0-or-later",
            r"gnu affero general public license .{0,80}version 3 of the license or (?:at your option )?any later",
        ),
        ("AGPL-3.0-only", r"gnu affero general public license (?:v|version )3"),
        (
            "LGPL-3.0-or-later",
            r"gnu lesser general public license .{0,90}version 3 of the license or (?:at your option )?any later",
        ),
        (
            "LGPL-2.1-or-later",
            r"gnu lesser general public license .{0,90}version 2 1 of the license or (?:at your option )?any later",
        ),
        (
            "LGPL-2.0-or-later",
            r"gnu library general public license .{0,90}version 2 of the license or (?:at your option )?any later",
        ),
        (
            "GPL-3.0-or-later",
            r"gnu general public license .{0,80}version 3 of the license or (?:at your option )?any later",
        ),
        (
            "GPL-2.0-or-later",
            r"gnu general public license .{0,80}version 2 of the license or (?:at your option )?any later",
        ),
        ("GPL-3.0-only", r"under the terms of the gnu general public license (?:v|version )3(?! of the license or)"),
        ("GPL-2.0-only", r"under the terms of the gnu general public license (?:v|version )2(?! of the license or)"),
        ("MPL-2.0", r"subject to the terms of the mozilla public license v ?2 0"),
        ("MPL-2.0", r"mozilla public license version 2 0 full text"),
        ("CC-BY-4.0", r"licensed under (?:a |the )?creative commons attribution 4 0"),
        ("CC0-1.0", r"creative commons (?:zero|cc0)|cc0 1 0 universal"),
        ("MIT", r"(?:licensed|released|distributed|available) under (?:the )?(?:terms of the )?mit license"),
        (
            "BSD-3-Clause",
            r"(?:licensed|released|distributed) under (?:the )?(?:terms of the )?"
            r"(?:3 clause|new|modified|revised) bsd license",
        ),
        (
            "BSD-2-Clause",
            r"(?:licensed|released|distributed) under (?:the )?(?:terms of the )?(?:2 clause|simplified) bsd license",
        ),
    )
)
"""Phrases in normalised words; of those that overlap the first wins."""

EXCEPTIONS = (
    ("LLVM-exception", ("Apache-2.0",), "llvm exceptions to the apache 2 0 license"),
    ("GCC-exception-3.1", ("GPL-3.0-only", "GPL-3.0-or-later"), "gcc runtime library exception"),
    ("Classpath-exception-2.0", ("GPL-2.0-only", "GPL-2.0-or-later"), "classpath exception"),
)
"""(exception, the licences it belongs to, a phrase of its text)."""

MENTIONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (spdx, re.compile(rf"\b(?:{pattern})\b"))
    for spdx, pattern in (
        ("Apache-2.0", r"apache (?:software )?(?:license )?(?:version )?v?2(?: 0)?"),
        ("MPL-2.0", r"(?:mozilla public license|mpl) (?:version )?v?2 0"),
        ("BSD-3-Clause", r"bsd 3 clause|(?:3|three) clause bsd|(?:new|modified|revised) bsd"),
        ("BSD-2-Clause", r"bsd 2 clause|(?:2|two) clause bsd|simplified bsd"),
        ("MIT", r"mit license(?:d|s)?|license mit|mit x11 license|expat license"),
        ("ISC", r"isc license(?:d)?"),
        ("0BSD", r"(?:zero|0) clause bsd"),
        ("CNRI-Python", r"cnris python 1 6 license"),
        ("Zlib", r"zlib license"),
        ("NCSA", r"ncsa open source license"),
        ("CC0-1.0", r"creativecommons org publicdomain zero 1 0"),
    )
)
"""Names in normalised words. In a licence file they say what parts of the work are under."""

SHORT: tuple[tuple[str, str], ...] = (
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.* neither the name"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.* may not be used to endorse or promote"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms.* this software is provided"),
    ("MIT", r"permission is hereby granted free of charge.* the above copyright notice and this permission notice"),
    ("MIT-0", r"permission is hereby granted free of charge.* without restriction"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
)
"""Phrases by which a shortened or strongly changed text is still told, with less confidence."""


@dataclass(frozen=True, slots=True)
class Found:
    """A licence in a text: which, how sure (Dice's coefficient, or 0.5 for a phrase), and the words it
    covers (of a notice only how many, from 0)."""

    license: str
    confidence: float
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The expression of a whole text ("" when no licence is found), how sure its least sure licence is, the parts."""

    expression: str
    confidence: float
    parts: tuple[Found, ...] = ()


def from_text(text: str) -> str:
    """The SPDX expression of a licence file or of a source file's header, or ""."""
    return read_text(text).expression


def read_text(text: str) -> Reading:
    """Every licence in a text, with its confidence. An `SPDX-License-Identifier:` in the first lines counts as
    one; what a text without any says elsewhere counts less."""
    text = text[:MAX_CHARACTERS]
    words = words_of(text)
    parts = list(_whole(words))
    if declared := _declared("\n".join(text[:20_000].split("\n", HEADER_LINES)[:HEADER_LINES])):
        parts += declared
    else:
        parts = parts or _shortened(text, words)
        parts += _notices(words, parts) + _lines(text)
        parts = parts or _declared(text)
    if not parts:
        return Reading("", 0.0)
    names = list(dict.fromkeys(part.license for part in sorted(parts, key=lambda one: one.start - one.stop)))
    names = _with_exceptions(names, words)
    if len(names) > MAX_LICENSES:
        names = [*names[:MAX_LICENSES], BUNDLED]
    expression = combine(names) if len(names) > 1 else names[0]
    surest: dict[str, float] = {}
    for part in parts:
        surest[part.license] = max(part.confidence, surest.get(part.license, 0.0))
    return Reading(expression, min(surest.values()), tuple(sorted(parts, key=lambda one: one.start)))


def _whole(words: list[str]) -> Iterator[Found]:
    """Licences whose text stands in the words, the best match first, each word used once."""
    import numpy as np

    known = load()
    runs = runs_of(words)
    places, owners = _matches(known, runs)
    if not len(places):
        return
    order = np.argsort(owners, kind="stable")
    places, owners = places[order], owners[order]
    pairs = np.sort((owners.astype(np.uint64) << np.uint64(32)) | runs[places])
    distinct = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))] >> np.uint64(32)
    counts = np.bincount(distinct.astype(np.intp), minlength=len(known.names))
    hits = {
        int(owner): places[slice(*np.searchsorted(owners, (owner, owner + 1)))]
        for owner in np.flatnonzero(counts >= MIN_COVERAGE * known.sizes)
    }
    free = np.ones(len(runs), np.bool_)
    bounds = {owner: PREFER_COMMON * (int(counts[owner]) << int(known.steps[owner])) for owner in hits}
    best: dict[int, tuple[float, float, int, int]] = {}  # of those whose bound has come to the top
    while bounds:
        owner = max(bounds, key=lambda one: (bounds[one], -one))
        if owner not in best:
            best[owner] = _best_stretch(known, owner, runs, hits[owner][free[hits[owner]]])
            bounds[owner] = best[owner][0]
            continue
        score, dice, start, stop = best[owner]
        if not score:
            return
        yield Found(known.names[owner], round(dice, 3), start, stop + RUN_WORDS - 1)
        free[start:stop] = False
        for other, (_, _, first, last) in list(best.items()):
            if first < stop and start < last:
                del best[other]


def _matches(known: Known, runs: "NDArray[np.uint32]") -> "tuple[NDArray[np.intp], NDArray[np.uint16]]":
    """(place, licence) of every run of the text that a licence has."""
    import numpy as np

    first = np.searchsorted(known.hashes, runs, "left")
    counts = np.searchsorted(known.hashes, runs, "right") - first
    places = np.repeat(np.arange(len(runs)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, known.owners[np.repeat(first, counts) + within]


def _best_stretch(
    known: Known, owner: int, runs: "NDArray[np.uint32]", places: "NDArray[np.intp]"
) -> tuple[float, float, int, int]:
    """(score, Dice, start, stop) of the stretch that is most like the licence; score 0 when none is like it. Of a
    licence and one that it contains the longer wins when both fit."""
    import numpy as np

    size, step = int(known.sizes[owner]), int(known.steps[owner])
    is_common = known.names[owner] in COMMON
    least = MIN_DICE if is_common else RARE_DICE
    nothing = (0.0, 0.0, 0, 0)
    if len(places) < MIN_COVERAGE * size:
        return nothing
    length = size << step
    breaks = np.flatnonzero(np.diff(places) > max(40, length // 6)) + 1
    best = nothing
    for piece in np.split(places, breaks):
        if len(piece) < MIN_COVERAGE * size:
            continue
        for part in _windows(piece, length):
            if len(part) < MIN_COVERAGE * size:
                continue
            found = np.sort(runs[part])
            matched = 1 + int(np.count_nonzero(found[1:] != found[:-1]))
            start, stop = int(part[0]), int(part[-1]) + 1
            dice = 2 * matched / (size + max(matched, (stop - start) >> step))
            score = (matched << step) * dice**2 * (PREFER_COMMON if is_common else 1)
            if matched >= MIN_COVERAGE * size and dice >= least and score > best[0]:
                best = (score, dice, start, stop)
    return best


def _windows(piece: "NDArray[np.intp]", length: int) -> "Iterator[NDArray[np.intp]]":
    """A piece whole, and when it may hold the licence several times over, its fullest stretches of that length."""
    import numpy as np

    if piece[-1] - piece[0] <= 2 * length:
        yield piece
    if piece[-1] - piece[0] <= 1.3 * length:
        return
    begins = np.arange(int(piece[0]), int(piece[-1]) - length // 2, max(8, length // 8))
    first, last = np.searchsorted(piece, begins), np.searchsorted(piece, begins + int(1.15 * length))
    for at in np.argsort(first - last, kind="stable")[:FULLEST].tolist():
        if last[at] > first[at]:
            yield piece[first[at] : last[at]]


def _notices(words: list[str], parts: list[Found]) -> list[Found]:
    """Notices in the words that no licence text covers."""
    covered = bytearray(len(words))
    for part in parts:
        covered[part.start : part.stop] = b"\1" * (part.stop - part.start)
    rest = " ".join("|" if used else word for word, used in zip(words, covered, strict=True))
    rest = COVERED.sub("|", rest)
    found: list[Found] = []
    taken: list[tuple[int, int]] = []
    for spdx, pattern in (*NOTICES, *MENTIONS):
        for match in pattern.finditer(rest):
            if not any(start < match.end() and match.start() < stop for start, stop in taken):
                taken.append(match.span())
                found.append(Found(spdx, 0.5 if (spdx, pattern) in MENTIONS else 0.9, 0, match[0].count(" ") + 1))
    return found


def _declared(text: str) -> list[Found]:
    """What `SPDX-License-Identifier:` lines say."""
    names = [normalize(match[1].strip().rstrip("*/-> ")) for match in IDENTIFIER.finditer(text)]
    return [Found(name, 1.0, 0, 0) for name in dict.fromkeys(names) if name]


def _lines(text: str) -> list[Found]:
    """What lines such as `License: LGPL-2.1-or-later` name."""
    names = [from_name(match[1].strip(" \t\"',.;*")) for match in LICENSE_LINE.finditer(text)]
    return [Found(name, 0.8, 0, 0) for name in dict.fromkeys(names) if name and not name.startswith("LicenseRef-")]


def _shortened(text: str, words: list[str]) -> list[Found]:
    """A name alone, or a shortened text."""
    if len(text) <= MAX_NAME and (name := from_name(text.strip())):
        return [Found(name, 0.9, 0, len(words))]
    plain = " ".join(words)
    return next(([Found(spdx, 0.5, 0, len(words))] for spdx, pattern in SHORT if re.search(pattern, plain)), [])


def _with_exceptions(names: list[str], words: list[str]) -> list[str]:
    """The names with the exceptions whose phrase the text has."""
    plain = " ".join(words)
    for exception, licenses, phrase in EXCEPTIONS:
        if phrase in plain:
            names = [f"{name} WITH {exception}" if name in licenses else name for name in names]
    return names

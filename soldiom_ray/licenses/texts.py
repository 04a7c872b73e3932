"""Recognises the licences in a text by comparing its word runs with those of every licence on the SPDX list.

A licence matches where a stretch of the text contains most of its runs; Dice's coefficient of the two is the
confidence. Stretches are taken one after the other, the best first, so every licence of a bundle is found. The rest is
searched for notices ("licensed under the Apache License, Version 2.0", "either version 2 of the License, or (at your
option) any later version").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soldiom_ray.licenses.fingerprints import RUN_WORDS, Fingerprints, load, runs_of, words_of
from soldiom_ray.licenses.names import combine, from_name, normalize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CHARACTERS = 2_000_000
HEADER_LINES = 50
MAX_NAME_CHARACTERS = 80
MAX_WINDOWS = 6
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
"""Licences that are thousands of times as common as the rest. Others need a better match (RARE_DICE), because most of
the 667 texts are one of these with a sentence changed."""

MAX_LICENSES = 12
BUNDLED = "LicenseRef-Bundled-Notices"
"""Stands for the licences of a file beyond MAX_LICENSES; a person has to read them."""

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
"""Phrases in normalised words; of overlapping matches the first wins."""

EXCEPTIONS = (
    ("LLVM-exception", ("Apache-2.0",), "llvm exceptions to the apache 2 0 license"),
    ("GCC-exception-3.1", ("GPL-3.0-only", "GPL-3.0-or-later"), "gcc runtime library exception"),
    ("Classpath-exception-2.0", ("GPL-2.0-only", "GPL-2.0-or-later"), "classpath exception"),
)
"""(exception, licences that it amends, a phrase of its text)."""

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
"""Licence names in normalised words. In a licence file they name the licences of parts of the work."""

SHORTENED: tuple[tuple[str, str], ...] = (
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.* neither the name"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.* may not be used to endorse or promote"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms.* this software is provided"),
    ("MIT", r"permission is hereby granted free of charge.* the above copyright notice and this permission notice"),
    ("MIT-0", r"permission is hereby granted free of charge.* without restriction"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
)
"""Phrases by which a shortened or heavily edited text is still recognised, with less confidence."""


@dataclass(frozen=True, slots=True)
class LicenseMatch:
    """A licence in a text, with its confidence (Dice's coefficient, or 0.5 for a phrase) and the range of words that it
    covers (for a notice, 0 to the number of its words)."""

    license: str
    confidence: float
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LicenseReading:
    """The licences of a whole text: the expression ("" for none), the lowest confidence of its licences, the
    matches."""

    expression: str
    confidence: float
    parts: tuple[LicenseMatch, ...] = ()


def from_text(text: str) -> str:
    """The SPDX expression of a licence file or of a source file's header, or ""."""
    return read_text(text).expression


def read_text(text: str) -> LicenseReading:
    """Every licence in a text, with its confidence. An `SPDX-License-Identifier:` in the first lines has confidence 1;
    notices, `License:` lines and identifiers elsewhere are consulted only without it."""
    text = text[:MAX_CHARACTERS]
    words = words_of(text)
    parts = list(_full_texts(words))
    if declared := _declared("\n".join(text[:20_000].split("\n", HEADER_LINES)[:HEADER_LINES])):
        parts += declared
    else:
        parts = parts or _shortened(text, words)
        parts += _notices(words, parts) + _license_lines(text)
        parts = parts or _declared(text)
    if not parts:
        return LicenseReading("", 0.0)
    names = list(dict.fromkeys(part.license for part in sorted(parts, key=lambda part: part.start - part.stop)))
    names = _with_exceptions(names, words)
    if len(names) > MAX_LICENSES:
        names = [*names[:MAX_LICENSES], BUNDLED]
    expression = combine(names) if len(names) > 1 else names[0]
    confidences: dict[str, float] = {}
    for part in parts:
        confidences[part.license] = max(part.confidence, confidences.get(part.license, 0.0))
    return LicenseReading(expression, min(confidences.values()), tuple(sorted(parts, key=lambda part: part.start)))


def _full_texts(words: list[str]) -> Iterator[LicenseMatch]:
    """Licences whose full text occurs in the words, the best match first; no word is used twice."""
    import numpy as np

    fingerprints = load()
    runs = runs_of(words)
    positions, owners = _matching_runs(fingerprints, runs)
    if not len(positions):
        return
    order = np.argsort(owners, kind="stable")
    positions, owners = positions[order], owners[order]
    pairs = np.sort((owners.astype(np.uint64) << np.uint64(32)) | runs[positions])
    distinct = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))] >> np.uint64(32)
    counts = np.bincount(distinct.astype(np.intp), minlength=len(fingerprints.names))
    candidate_positions = {
        int(owner): positions[slice(*np.searchsorted(owners, (owner, owner + 1)))]
        for owner in np.flatnonzero(counts >= MIN_COVERAGE * fingerprints.sizes)
    }
    is_free = np.ones(len(runs), np.bool_)
    upper_bounds = {
        owner: PREFER_COMMON * (int(counts[owner]) << int(fingerprints.steps[owner])) for owner in candidate_positions
    }
    best: dict[int, tuple[float, float, int, int]] = {}  # computed lazily, for candidates with the highest upper bound
    while upper_bounds:
        owner = max(upper_bounds, key=lambda candidate: (upper_bounds[candidate], -candidate))
        if owner not in best:
            best[owner] = _best_stretch(
                fingerprints, owner, runs, candidate_positions[owner][is_free[candidate_positions[owner]]]
            )
            upper_bounds[owner] = best[owner][0]
            continue
        score, dice, start, stop = best[owner]
        if not score:
            return
        yield LicenseMatch(fingerprints.names[owner], round(dice, 3), start, stop + RUN_WORDS - 1)
        is_free[start:stop] = False
        for other, (_, _, first, last) in list(best.items()):
            if first < stop and start < last:
                del best[other]


def _matching_runs(
    fingerprints: Fingerprints, runs: "NDArray[np.uint32]"
) -> "tuple[NDArray[np.intp], NDArray[np.uint16]]":
    """(positions [matches], licence numbers [matches]) of the runs of the text that also occur in licences."""
    import numpy as np

    first = np.searchsorted(fingerprints.hashes, runs, "left")
    counts = np.searchsorted(fingerprints.hashes, runs, "right") - first
    positions = np.repeat(np.arange(len(runs)), counts)
    within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions, fingerprints.owners[np.repeat(first, counts) + within]


def _best_stretch(
    fingerprints: Fingerprints, owner: int, runs: "NDArray[np.uint32]", positions: "NDArray[np.intp]"
) -> tuple[float, float, int, int]:
    """(score, Dice, start, stop) of the stretch that is most like the licence; score 0 when none is. The score favours
    the longer of two licences of which one contains the other."""
    import numpy as np

    size, step = int(fingerprints.sizes[owner]), int(fingerprints.steps[owner])
    is_common = fingerprints.names[owner] in COMMON
    min_dice = MIN_DICE if is_common else RARE_DICE
    no_match = (0.0, 0.0, 0, 0)
    if len(positions) < MIN_COVERAGE * size:
        return no_match
    length = size << step
    breaks = np.flatnonzero(np.diff(positions) > max(40, length // 6)) + 1
    best = no_match
    for cluster in np.split(positions, breaks):
        if len(cluster) < MIN_COVERAGE * size:
            continue
        for part in _densest_windows(cluster, length):
            if len(part) < MIN_COVERAGE * size:
                continue
            matched_runs = np.sort(runs[part])
            matched = 1 + int(np.count_nonzero(matched_runs[1:] != matched_runs[:-1]))
            start, stop = int(part[0]), int(part[-1]) + 1
            dice = 2 * matched / (size + max(matched, (stop - start) >> step))
            score = (matched << step) * dice**2 * (PREFER_COMMON if is_common else 1)
            if matched >= MIN_COVERAGE * size and dice >= min_dice and score > best[0]:
                best = (score, dice, start, stop)
    return best


def _densest_windows(cluster: "NDArray[np.intp]", length: int) -> "Iterator[NDArray[np.intp]]":
    """The cluster itself, and where it may contain the licence several times, its densest windows of that length."""
    import numpy as np

    if cluster[-1] - cluster[0] <= 2 * length:
        yield cluster
    if cluster[-1] - cluster[0] <= 1.3 * length:
        return
    starts = np.arange(int(cluster[0]), int(cluster[-1]) - length // 2, max(8, length // 8))
    first, last = np.searchsorted(cluster, starts), np.searchsorted(cluster, starts + int(1.15 * length))
    for index in np.argsort(first - last, kind="stable")[:MAX_WINDOWS].tolist():
        if last[index] > first[index]:
            yield cluster[first[index] : last[index]]


def _notices(words: list[str], parts: list[LicenseMatch]) -> list[LicenseMatch]:
    """Notices in the words that no full licence text covers."""
    covered = bytearray(len(words))
    for part in parts:
        covered[part.start : part.stop] = b"\1" * (part.stop - part.start)
    uncovered = " ".join("|" if is_covered else word for word, is_covered in zip(words, covered, strict=True))
    uncovered = COVERED.sub("|", uncovered)
    matches: list[LicenseMatch] = []
    spans: list[tuple[int, int]] = []
    for spdx, pattern in (*NOTICES, *MENTIONS):
        for match in pattern.finditer(uncovered):
            if not any(start < match.end() and match.start() < stop for start, stop in spans):
                spans.append(match.span())
                matches.append(
                    LicenseMatch(spdx, 0.5 if (spdx, pattern) in MENTIONS else 0.9, 0, match[0].count(" ") + 1)
                )
    return matches


def _declared(text: str) -> list[LicenseMatch]:
    """Licences of `SPDX-License-Identifier:` lines."""
    names = [normalize(match[1].strip().rstrip("*/-> ")) for match in IDENTIFIER.finditer(text)]
    return [LicenseMatch(name, 1.0, 0, 0) for name in dict.fromkeys(names) if name]


def _license_lines(text: str) -> list[LicenseMatch]:
    """Licences of lines such as `License: LGPL-2.1-or-later`."""
    names = [from_name(match[1].strip(" \t\"',.;*")) for match in LICENSE_LINE.finditer(text)]
    return [
        LicenseMatch(name, 0.8, 0, 0) for name in dict.fromkeys(names) if name and not name.startswith("LicenseRef-")
    ]


def _shortened(text: str, words: list[str]) -> list[LicenseMatch]:
    """The licence of a text that is only a name, or a shortened licence text."""
    if len(text) <= MAX_NAME_CHARACTERS and (name := from_name(text.strip())):
        return [LicenseMatch(name, 0.9, 0, len(words))]
    plain = " ".join(words)
    return next(
        ([LicenseMatch(spdx, 0.5, 0, len(words))] for spdx, pattern in SHORTENED if re.search(pattern, plain)), []
    )


def _with_exceptions(names: list[str], words: list[str]) -> list[str]:
    """The names, with exceptions (`WITH ...`) whose phrase occurs in the text."""
    plain = " ".join(words)
    for exception, licenses, phrase in EXCEPTIONS:
        if phrase in plain:
            names = [f"{name} WITH {exception}" if name in licenses else name for name in names]
    return names

"""What a licence permits for a use, what it asks for, and the verdict of a declared policy."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, Protocol

from soldiom_ray.licenses.names import ALIASES

Verdict = Literal["allowed", "denied", "unknown", "ask"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PERMISSIVE = _names(
    "0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause"
    " BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0"
    " CDLA-Permissive-1.0 CDLA-Permissive-2.0 CNRI-Python ECL-2.0 FTL HPND HPND-Markus-Kuhn ICU ISC JSON Libpng"
    " LicenseRef-BSD LicenseRef-Public-Domain MIT MIT-0 MIT-CMU MIT-Modern-Variant MS-PL MulanPSL-2.0 NCSA"
    " ODC-By-1.0 OpenSSL PDDL-1.0 PSF-2.0 PostgreSQL Python-2.0 Python-2.0.1 TCL Unicode-3.0 Unicode-DFS-2016"
    " Unlicense UPL-1.0 W3C WTFPL X11 ZPL-2.1 Zlib bzip2-1.0.6 curl AFL-2.1 Apache-1.0 Artistic-1.0 Beerware"
    " Bitstream-Vera BSD-3-Clause-Open-MPI BSD-4-Clause-UC BSD-Source-Code CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CECILL-B"
    " HPND-sell-variant IJG ImageMagick Info-ZIP MIT-open-group MulanPSL-1.0 NAIST-2003 NTP OpenSSL-standalone PHP-3.01"
    " Qhull Ruby SSLeay-standalone Spencer-94 SunPro TCP-wrappers Vim X11-distribute-modifications-variant Xnet"
    " blessing libpng-1.6.35 libpng-2.0 libtiff zlib-acknowledgement"
)
WEAK_COPYLEFT = _names(
    "CC-BY-SA-3.0 CC-BY-SA-4.0 CDDL-1.0 CDDL-1.1 CPL-1.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 LGPL-2.0-only"
    " LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MPL-1.1 MPL-2.0"
    " MS-RL ODbL-1.0 OFL-1.1 OSL-3.0 APSL-2.0 CC-BY-SA-1.0 CC-BY-SA-2.0 CC-BY-SA-2.5 CECILL-C CPAL-1.0 IPL-1.0 MPL-1.0"
    " OFL-1.0"
)
STRONG_COPYLEFT = _names(
    "AGPL-3.0-only AGPL-3.0-or-later GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later"
    " SSPL-1.0 AGPL-1.0-only CECILL-2.1 GFDL-1.2-only GFDL-1.3-only GPL-1.0-only OSL-2.1 RPL-1.5 Sleepycat"
)
NON_COMMERCIAL = _names(
    "BUSL-1.1 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0"
    " CC-BY-NC-1.0 CC-BY-NC-2.5 CC-BY-NC-SA-1.0 CC-BY-NC-SA-2.5 CC-BY-NC-SA-4.0 Elastic-2.0"
    "  LicenseRef-NonCommercial LicenseRef-Proprietary PolyForm-Noncommercial-1.0.0"
)
NO_DERIVATIVES = _names(
    "CC-BY-ND-1.0 CC-BY-ND-2.0 CC-BY-ND-2.5 CC-BY-ND-3.0 CC-BY-ND-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0"
)
CUSTOM_MODEL = _names(
    "LicenseRef-Gemma LicenseRef-Llama-2 LicenseRef-Llama-3 LicenseRef-Llama-3.1 LicenseRef-Llama-3.2"
    " LicenseRef-Llama-3.3 LicenseRef-OpenRAIL LicenseRef-Other"
)
"""Allowed for commerce under conditions that a person has to read, so no rule decides them."""

CLASSES: tuple[tuple[str, frozenset[str]], ...] = (
    ("no changed copies", NO_DERIVATIVES),
    ("permissive", PERMISSIVE),
    ("weak copyleft", WEAK_COPYLEFT),
    ("strong copyleft", STRONG_COPYLEFT),
    ("no commercial use", NON_COMMERCIAL),
    ("conditions of its own", CUSTOM_MODEL),
)
RANK: dict[Verdict, int] = {"denied": 0, "ask": 1, "unknown": 2, "allowed": 3}
"""From the worst to the best: a person's question weighs more than a missing rule, which a policy may let pass."""

UNKNOWN = "unknown"
"""Stands in a policy's lists for "no licence was found"."""

Ruling = tuple[Verdict, str]


class Policy(Protocol):
    """What a declared policy says; ids are SPDX ids, with `WITH ...` where one exception is meant."""

    @property
    def use(self) -> str: ...
    @property
    def allow(self) -> Iterable[str]: ...
    @property
    def deny(self) -> Iterable[str]: ...
    @property
    def ask(self) -> Iterable[str]: ...


def policy(license: str, use: str) -> Verdict:  # noqa: A002
    """Whether data under this licence may be used: `any` (nothing that forbids copies or changes), `permissive` (no
    copyleft, no restriction) or `commercial` (a product may be sold; copyleft allowed when it is weak). Of alternatives
    (OR) the best counts, of joint terms (AND) the worst."""
    return _rule(license, use, ())[0]


def verdict(license: str, declared: Policy) -> Ruling:  # noqa: A002
    """What a policy says of a licence, and why. Its lists come before the rule of its use: deny, then ask, then allow.
    `ask` means that a person decides, so the thing stays out until one has put the id into `allow`."""
    named: dict[str, Verdict] = dict.fromkeys(declared.allow, "allowed")
    named |= dict.fromkeys(declared.ask, "ask")
    named |= dict.fromkeys(declared.deny, "denied")
    return _rule(license, declared.use, tuple(sorted(named.items())))


@lru_cache(4096)
def _rule(license: str, use: str, named: tuple[tuple[str, Verdict], ...]) -> Ruling:  # noqa: A002
    lists = dict(named)
    if not license:
        return (found, f"no licence found: listed as {found}") if (found := lists.get(UNKNOWN)) else _NOTHING
    import license_expression

    try:
        parsed = license_expression.Licensing().parse(license)
    except license_expression.ExpressionError:
        return "unknown", "the licence is no SPDX expression"
    return _judge(parsed, use, lists)


_NOTHING: Ruling = ("unknown", "no licence found")


def obligations(license: str) -> str:  # noqa: A002
    """What a licence asks of whoever passes its material on, in one sentence."""
    names = set(re.findall(r"[A-Za-z0-9.+-]+", license)) - {"AND", "OR", "WITH"}
    if not names:
        return "No licence was found: by default all rights are reserved."
    said = []
    if names & NON_COMMERCIAL:
        said.append("not for commercial use")
    if names & NO_DERIVATIVES:
        said.append("no changed copies")
    if names & STRONG_COPYLEFT:
        said.append("pass on derived works under the same licence, with source")
    if names & WEAK_COPYLEFT:
        said.append("pass on changes to the covered files under the same licence")
    if names & (CUSTOM_MODEL | NON_COMMERCIAL) and not said:
        said.append("read its conditions of use")
    if "Apache-2.0" in names:
        said.append("keep the NOTICE file and say what was changed")
    free = {"0BSD", "CC0-1.0", "MIT-0", "PDDL-1.0", "Unlicense", "WTFPL", "LicenseRef-Public-Domain"}
    if names - free:
        said.append("keep copyright notice and licence text")
    text = "; ".join(said) or "nothing is asked"
    return f"{text[0].upper()}{text[1:]}."


def _judge(node: Any, use: str, lists: Mapping[str, Verdict]) -> Ruling:
    arguments = getattr(node, "args", ())
    if arguments:
        rulings = [_judge(part, use, lists) for part in arguments]
        choose = max if str(getattr(node, "operator", "")).strip().upper() in ("OR", "|") else min
        return choose(rulings, key=lambda ruling: RANK[ruling[0]])
    whole = str(node).strip()
    bare = whole.partition(" WITH ")[0].strip()
    name = ALIASES.get(bare, bare)
    for listed in (whole, name):
        if found := lists.get(listed):
            return found, f"{listed}: listed as {found}"
    return _judge_one(name, use)


def _judge_one(name: str, use: str) -> Ruling:
    kind = next((kind for kind, names in CLASSES if name in names), "")
    if not kind:
        return "unknown", f"{name}: no rule knows it"
    if name in NO_DERIVATIVES or name == "LicenseRef-Proprietary":
        found: Verdict = "denied"
    elif kind == "permissive" or use == "any":
        found = "allowed"
    elif kind == "weak copyleft":
        found = "allowed" if use == "commercial" else "denied"
    elif kind == "conditions of its own":
        found = "denied" if use == "permissive" else "unknown"
    else:
        found = "denied"
    return found, f"{name}: {kind}, {found} for use {use}"

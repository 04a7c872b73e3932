"""What a licence permits for a use and what it requires; the verdict of a declared policy on it."""

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
    " LicenseRef-Llama-3.3 LicenseRef-Llama-4 LicenseRef-OpenRAIL LicenseRef-Other"
)
"""Commercial use is allowed under conditions that a person has to read, so no rule decides."""

CLASSES: tuple[tuple[str, frozenset[str]], ...] = (
    ("no changed copies", NO_DERIVATIVES),
    ("permissive", PERMISSIVE),
    ("weak copyleft", WEAK_COPYLEFT),
    ("strong copyleft", STRONG_COPYLEFT),
    ("no commercial use", NON_COMMERCIAL),
    ("conditions of its own", CUSTOM_MODEL),
)
RANK: dict[Verdict, int] = {"denied": 0, "ask": 1, "unknown": 2, "allowed": 3}
"""From worst to best: a decision reserved to a person ranks below a missing rule, which a policy may let pass."""

UNKNOWN = "unknown"
"""In a policy's lists: documents without a licence."""

Ruling = tuple[Verdict, str]


class Policy(Protocol):
    """A declared licence policy; ids are SPDX ids, with `WITH ...` for one exception only."""

    @property
    def use(self) -> str: ...
    @property
    def allow(self) -> Iterable[str]: ...
    @property
    def deny(self) -> Iterable[str]: ...
    @property
    def ask(self) -> Iterable[str]: ...


def creative_commons(spdx: str) -> str:
    """The id of version 4.0 with the same parts (BY, NC, ND, SA) for any version and port of a Creative Commons
    licence, which is what it permits; every other id as it is."""
    match = re.fullmatch(r"CC(?:-BY)?((?:-NC|-ND|-SA)*)-\d\.\d(?:-[A-Za-z]+)*", spdx)
    if not match:
        return spdx
    return "".join(["CC-BY", *(part for part in ("-NC", "-ND", "-SA") if part in match[1]), "-4.0"])


def policy(license: str, use: str) -> Verdict:  # noqa: A002
    """Whether data under this licence may be used: `any` (unless it forbids copies or changes), `permissive` (no
    copyleft, no restriction) or `commercial` (a product may be sold; weak copyleft is allowed). Of alternatives (OR)
    the best verdict counts, of joint terms (AND) the worst."""
    return _rule(license, use, ())[0]


def verdict(license: str, declared: Policy) -> Ruling:  # noqa: A002
    """A policy's verdict on a licence, with its reason. Its lists (deny, then ask, then allow) take precedence over the
    rule of its use. `ask` means that a person decides: the document stays out until the id is in `allow`."""
    listed: dict[str, Verdict] = dict.fromkeys(declared.allow, "allowed")
    listed |= dict.fromkeys(declared.ask, "ask")
    listed |= dict.fromkeys(declared.deny, "denied")
    return _rule(license, declared.use, tuple(sorted(listed.items())))


@lru_cache(4096)
def _rule(license: str, use: str, listed: tuple[tuple[str, Verdict], ...]) -> Ruling:  # noqa: A002
    lists = dict(listed)
    if not license:
        return (decision, f"no licence found: listed as {decision}") if (decision := lists.get(UNKNOWN)) else _NOTHING
    import license_expression

    try:
        parsed = license_expression.Licensing().parse(license)
    except license_expression.ExpressionError:
        return "unknown", "the licence is no SPDX expression"
    return _rule_on_expression(parsed, use, lists)


_NOTHING: Ruling = ("unknown", "no licence found")


def obligations(license: str) -> str:  # noqa: A002
    """What a licence requires of those who redistribute its material, in one sentence."""
    names = set(re.findall(r"[A-Za-z0-9.+-]+", license)) - {"AND", "OR", "WITH"}
    if not names:
        return "No licence was found: by default all rights are reserved."
    duties = []
    if names & NON_COMMERCIAL:
        duties.append("not for commercial use")
    if names & NO_DERIVATIVES:
        duties.append("no changed copies")
    if names & STRONG_COPYLEFT:
        duties.append("pass on derived works under the same licence, with source")
    if names & WEAK_COPYLEFT:
        duties.append("pass on changes to the covered files under the same licence")
    if names & (CUSTOM_MODEL | NON_COMMERCIAL) and not duties:
        duties.append("read its conditions of use")
    if "Apache-2.0" in names:
        duties.append("keep the NOTICE file and say what was changed")
    without_duties = {"0BSD", "CC0-1.0", "MIT-0", "PDDL-1.0", "Unlicense", "WTFPL", "LicenseRef-Public-Domain"}
    if names - without_duties:
        duties.append("keep copyright notice and licence text")
    text = "; ".join(duties) or "nothing is asked"
    return f"{text[0].upper()}{text[1:]}."


def _rule_on_expression(node: Any, use: str, lists: Mapping[str, Verdict]) -> Ruling:
    arguments = getattr(node, "args", ())
    if arguments:
        rulings = [_rule_on_expression(part, use, lists) for part in arguments]
        choose = max if str(getattr(node, "operator", "")).strip().upper() in ("OR", "|") else min
        return choose(rulings, key=lambda ruling: RANK[ruling[0]])
    full_name = str(node).strip()
    bare = full_name.partition(" WITH ")[0].strip()
    name = ALIASES.get(bare, bare)
    for spelling in (full_name, name):
        if listed_verdict := lists.get(spelling):
            return listed_verdict, f"{spelling}: listed as {listed_verdict}"
    return _rule_on_license(name, use)


def _rule_on_license(name: str, use: str) -> Ruling:
    class_name = next((class_name for class_name, names in CLASSES if name in names), "")
    if not class_name:
        return "unknown", f"{name}: no rule knows it"
    if name in NO_DERIVATIVES or name == "LicenseRef-Proprietary":
        decision: Verdict = "denied"
    elif class_name == "permissive" or use == "any":
        decision = "allowed"
    elif class_name == "weak copyleft":
        decision = "allowed" if use == "commercial" else "denied"
    elif class_name == "conditions of its own":
        decision = "denied" if use == "permissive" else "unknown"
    else:
        decision = "denied"
    return decision, f"{name}: {class_name}, {decision} for use {use}"

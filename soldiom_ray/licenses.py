"""Licences as SPDX expressions: which one a thing has, what a use of it may be, and what it asks for.

What stands here is a reading of published licences for sorting data, not legal advice. Licences that no rule knows are
"unknown", never "allowed".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

Verdict = Literal["allowed", "denied", "unknown"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PERMISSIVE = _names(
    "0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause"
    " BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0"
    " CDLA-Permissive-1.0 CDLA-Permissive-2.0 CNRI-Python ECL-2.0 FTL HPND HPND-Markus-Kuhn ICU ISC JSON Libpng"
    " LicenseRef-BSD LicenseRef-Public-Domain MIT MIT-0 MIT-CMU MIT-Modern-Variant MS-PL MulanPSL-2.0 NCSA"
    " ODC-By-1.0 OpenSSL PDDL-1.0 PSF-2.0 PostgreSQL Python-2.0 Python-2.0.1 TCL Unicode-3.0 Unicode-DFS-2016"
    " Unlicense UPL-1.0 W3C WTFPL X11 ZPL-2.1 Zlib bzip2-1.0.6 curl"
)
WEAK_COPYLEFT = _names(
    "CC-BY-SA-3.0 CC-BY-SA-4.0 CDDL-1.0 CDDL-1.1 CPL-1.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 LGPL-2.0-only"
    " LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MPL-1.1 MPL-2.0"
    " MS-RL ODbL-1.0 OFL-1.1 OSL-3.0"
)
STRONG_COPYLEFT = _names(
    "AGPL-3.0-only AGPL-3.0-or-later GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later"
    " SSPL-1.0"
)
NON_COMMERCIAL = _names(
    "BUSL-1.1 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0"
    " CC-BY-NC-SA-4.0 Elastic-2.0 LicenseRef-NonCommercial LicenseRef-Proprietary PolyForm-Noncommercial-1.0.0"
)
NO_DERIVATIVES = _names("CC-BY-ND-3.0 CC-BY-ND-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0")
CUSTOM_MODEL = _names(
    "LicenseRef-Gemma LicenseRef-Llama-2 LicenseRef-Llama-3 LicenseRef-Llama-3.1 LicenseRef-Llama-3.2"
    " LicenseRef-Llama-3.3 LicenseRef-OpenRAIL LicenseRef-Other"
)
"""Allowed for commerce under conditions that a person has to read, so no rule decides them."""

_RANK: dict[Verdict, int] = {"denied": 0, "unknown": 1, "allowed": 2}

_CLASSIFIERS = {
    "academic free license (afl)": "AFL-3.0",
    "apache software license": "Apache-2.0",
    "boost software license 1.0 (bsl-1.0)": "BSL-1.0",
    "bsd license": "LicenseRef-BSD",
    "cc0 1.0 universal (cc0 1.0) public domain dedication": "CC0-1.0",
    "eclipse public license 2.0 (epl-2.0)": "EPL-2.0",
    "gnu affero general public license v3": "AGPL-3.0-only",
    "gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
    "gnu general public license (gpl)": "GPL-1.0-or-later",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v2 (lgplv2)": "LGPL-2.0-only",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "gnu library or lesser general public license (lgpl)": "LGPL-2.0-or-later",
    "historical permission notice and disclaimer (hpnd)": "HPND",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mit no attribution license (mit-0)": "MIT-0",
    "mozilla public license 1.1 (mpl 1.1)": "MPL-1.1",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "sil open font license 1.1 (ofl-1.1)": "OFL-1.1",
    "the unlicense (unlicense)": "Unlicense",
    "universal permissive license (upl)": "UPL-1.0",
    "zero-clause bsd (0bsd)": "0BSD",
    "zope public license": "ZPL-2.1",
    "zlib/libpng license": "Zlib",
    "public domain": "LicenseRef-Public-Domain",
    "other/proprietary license": "LicenseRef-Proprietary",
}

_NAMES: tuple[tuple[str, str], ...] = (
    (r"(gnu )?(agpl|affero).*?3.*(or later|\+)|agpl-?3\.0-or-later", "AGPL-3.0-or-later"),
    (r"(gnu )?(agpl|affero).*3.*", "AGPL-3.0-only"),
    (r"(gnu )?(lgpl|lesser).*2\.1.*(or later|\+)", "LGPL-2.1-or-later"),
    (r"(gnu )?(lgpl|lesser).*2\.1.*", "LGPL-2.1-only"),
    (r"(gnu )?(lgpl|lesser).*3.*(or later|\+)", "LGPL-3.0-or-later"),
    (r"(gnu )?(lgpl|lesser).*3.*", "LGPL-3.0-only"),
    (r"(gnu )?lgpl.*", "LGPL-2.0-or-later"),
    (r"(gnu )?(gpl|general public).*3.*(or later|\+)", "GPL-3.0-or-later"),
    (r"(gnu )?(gpl|general public).*3.*", "GPL-3.0-only"),
    (r"(gnu )?(gpl|general public).*2.*(or later|\+)", "GPL-2.0-or-later"),
    (r"(gnu )?(gpl|general public).*2.*", "GPL-2.0-only"),
    (r"(gnu )?gpl", "GPL-1.0-or-later"),
    (r"(the )?apache( software)?( license)?[ ,-]*(v|version)?[ -]*(2(\.0)?)?( license)?", "Apache-2.0"),
    (r"asl[ -]?2(\.0)?", "Apache-2.0"),
    (r"(the )?mit([ -]license)?|expat", "MIT"),
    (r"(new|modified|revised|3[- ]clause)[ -]bsd( license)?|(the )?bsd[ -]3([ -]clause.*)?", "BSD-3-Clause"),
    (r"(simplified|2[- ]clause)[ -]bsd( license)?|(the )?bsd[ -]2([ -]clause.*)?", "BSD-2-Clause"),
    (r"(the )?bsd([ -](style|like))?( license)?", "LicenseRef-BSD"),
    (r"mpl[ -]?(v|version)?[ ]?2(\.0)?|mozilla public license.*2(\.0)?.*", "MPL-2.0"),
    (r"(psf|python software foundation)( license)?.*|psfl", "PSF-2.0"),
    (r"isc( license)?( \(iscl\))?", "ISC"),
    (r"(the )?unlicen[sc]e", "Unlicense"),
    (r"public domain", "LicenseRef-Public-Domain"),
    (r"zlib.*", "Zlib"),
    (r"boost.*1\.0|bsl-1\.0", "BSL-1.0"),
    (r"openrail(\+\+)?|(creativeml-|bigscience-|bigcode-)?openrail-?m?", "LicenseRef-OpenRAIL"),
    (r"gemma", "LicenseRef-Gemma"),
    (r"odc-by", "ODC-By-1.0"),
    (r"llama-?([23](\.[123])?)", "LicenseRef-Llama-{1}"),
    (r"other", "LicenseRef-Other"),
    (r"(all rights reserved|proprietary|commercial).*", "LicenseRef-Proprietary"),
)

_TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license version 3",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",)),
    ("GPL-3.0-only", ("gnu general public license version 3",)),
    ("GPL-2.0-only", ("gnu general public license version 2",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("EPL-2.0", ("eclipse public license - v 2.0",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-NC-SA-4.0", ("attribution-noncommercial-sharealike 4.0 international",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0 international",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "may not be used to endorse or promote")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "this software is provided")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose", "copyright notice")),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("MIT", ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice")),
    ("MIT-0", ("permission is hereby granted, free of charge", "without restriction")),
    ("Zlib", ("this software is provided 'as-is'", "altered source versions must be plainly marked")),
)

_ALIASES = {
    "AGPL-3.0": "AGPL-3.0-only", "GPL-2.0": "GPL-2.0-only", "GPL-2.0+": "GPL-2.0-or-later", "GPL-3.0": "GPL-3.0-only",
    "GPL-3.0+": "GPL-3.0-or-later", "LGPL-2.0": "LGPL-2.0-only", "LGPL-2.1": "LGPL-2.1-only",
    "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3.0": "LGPL-3.0-only", "LGPL-3.0+": "LGPL-3.0-or-later",
    "GPL-1.0+": "GPL-1.0-or-later", "GFDL-1.3": "GFDL-1.3-only",
}  # fmt: skip


class PackageMetadata(Protocol):
    """What importlib.metadata gives for a distribution."""

    def __getitem__(self, key: str) -> str: ...
    def get_all(self, name: str) -> list[Any] | None: ...


def from_metadata(metadata: PackageMetadata, texts: Sequence[str] = ()) -> str:
    """The SPDX expression of a Python distribution: its License-Expression, else its License field, classifiers and
    licence files (`texts`), or "" when none of them says."""
    declared = normalize(_field(metadata, "License-Expression"))
    if declared:
        return declared
    field = _field(metadata, "License").strip()
    named = from_name(field) if len(field) <= 60 else from_text(field)
    classifiers = [
        str(line).rpartition("::")[2].strip().lower()
        for line in metadata.get_all("Classifier") or ()
        if "License ::" in line
    ]
    classified = combine(_CLASSIFIERS[name] for name in classifiers if name in _CLASSIFIERS)
    read = next((found for text in texts if (found := from_text(text))), "")
    for found in (named, classified):
        if found and not (found.startswith("LicenseRef-") and read):
            return found
    return read


def from_name(name: str) -> str:
    """The SPDX expression that a name, id or tag means ("Apache 2.0 License", "bsd-3-clause", "openrail"), or ""."""
    text = re.sub(r"\s+", " ", name).strip().strip(".\"'")
    if not text or text.lower() in ("unknown", "none", "noassertion", "dual", "see license"):
        return ""
    exact = normalize(text)
    if exact:
        return exact
    for pattern, spdx in _NAMES:
        found = re.fullmatch(pattern, text.lower())
        if found:
            return spdx.format("", *found.groups())
    parts = re.split(r"\s*(?:/|,| or | and )\s*", text)
    if len(parts) > 1 and all(known := [from_name(part) for part in parts]):
        return (" OR " if " or " in text.lower() or "/" in text else " AND ").join(known)
    return ""


def from_text(text: str) -> str:
    """The licence that a licence file's text is, or "". A header line `SPDX-License-Identifier:` decides at once."""
    header = re.search(r"SPDX-License-Identifier:\s*([^\n*#]+)", text[:4000])
    if header and (declared := normalize(header.group(1))):
        return declared
    plain = re.sub(r"[\s,*#>`\"“”]+", " ", text.lower().replace("’", "'")[:20_000]).replace("( ", "(")
    best: tuple[int, str] | None = None
    for spdx, phrases in _TEXTS:
        places = [plain.find(re.sub(r"[\s,]+", " ", phrase)) for phrase in phrases]
        if min(places) >= 0 and (best is None or places[0] < best[0]):
            best = (places[0], spdx)
    return best[1] if best else ""


def normalize(expression: str) -> str:
    """A valid SPDX expression in its usual spelling, or "" when it is none."""
    import license_expression

    text = (expression or "").strip()
    if not text or len(text) > 500:
        return ""
    licensing = _licensing()
    try:
        parsed = licensing.parse(text)
        unknown = licensing.unknown_license_keys(parsed)
    except license_expression.ExpressionError:
        return ""
    if parsed is None or any(not key.startswith("LicenseRef-") for key in unknown):
        return ""
    return _ALIASES.get(str(parsed), str(parsed))


@lru_cache
def _licensing() -> Any:
    import license_expression

    return license_expression.get_spdx_licensing()


def combine(licenses: Iterable[str]) -> str:
    """The expression that holds for all of these together; "" when there is none. Unknown ones ("") are left out."""
    names = {name for name in licenses if name}
    parts = sorted(
        {part for name in names for part in ([name] if "(" in name or " OR " in name else name.split(" AND "))}
    )
    if len(parts) == 1:
        return parts[0]
    return " AND ".join(f"({part})" if " OR " in part else part for part in parts)


def policy(license: str, use: str) -> Verdict:  # noqa: A002
    """Whether data under this licence may be used: `any` (nothing that forbids copies or changes), `permissive` (no
    copyleft, no restriction) or `commercial` (a product may be sold; copyleft allowed when it is weak). Of alternatives
    (OR) the best counts, of joint terms (AND) the worst."""
    if not license:
        return "unknown"
    import license_expression

    try:
        parsed = license_expression.Licensing().parse(license)
    except license_expression.ExpressionError:
        return "unknown"
    return _judge(parsed, use)


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


def _judge(node: Any, use: str) -> Verdict:
    arguments = getattr(node, "args", ())
    if arguments:
        verdicts = [_judge(part, use) for part in arguments]
        choose = max if str(getattr(node, "operator", "")).strip().upper() in ("OR", "|") else min
        return choose(verdicts, key=_RANK.__getitem__)
    name = str(node).partition(" WITH ")[0].strip()
    return _judge_one(_ALIASES.get(name, name), use)


def _judge_one(name: str, use: str) -> Verdict:
    if name in NO_DERIVATIVES or name == "LicenseRef-Proprietary":
        return "denied"
    if name in PERMISSIVE:
        return "allowed"
    if use == "any" and name in WEAK_COPYLEFT | STRONG_COPYLEFT | NON_COMMERCIAL | CUSTOM_MODEL:
        return "allowed"
    if name in WEAK_COPYLEFT:
        return "allowed" if use == "commercial" else "denied"
    if name in STRONG_COPYLEFT | NON_COMMERCIAL:
        return "denied"
    return "denied" if use == "permissive" and name in CUSTOM_MODEL else "unknown"


def _field(metadata: PackageMetadata | Mapping[str, str], name: str) -> str:
    try:
        return str(metadata[name] or "")
    except KeyError:
        return ""

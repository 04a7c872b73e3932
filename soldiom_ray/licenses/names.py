"""Licences by name: SPDX expressions, classifiers, and the names people write."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

CLASSIFIERS = {
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
    (r"llama-?([23](\.[123])?|4)", "LicenseRef-Llama-{1}"),
    (r"other|bigscience-bloom-rail-1\.0|deepfloyd-if-license", "LicenseRef-Other"),
    (r"(qwen|tongyi-qianwen)(-research)?", "LicenseRef-Other"),
    (r"(all rights reserved|proprietary|commercial).*", "LicenseRef-Proprietary"),
)

ALIASES = {
    "AGPL-3.0": "AGPL-3.0-only", "GPL-2.0": "GPL-2.0-only", "GPL-2.0+": "GPL-2.0-or-later", "GPL-3.0": "GPL-3.0-only",
    "GPL-3.0+": "GPL-3.0-or-later", "LGPL-2.0": "LGPL-2.0-only", "LGPL-2.1": "LGPL-2.1-only",
    "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3.0": "LGPL-3.0-only", "LGPL-3.0+": "LGPL-3.0-or-later",
    "GPL-1.0+": "GPL-1.0-or-later", "GFDL-1.3": "GFDL-1.3-only",
}  # fmt: skip


def from_name(name: str) -> str:
    """The SPDX expression that a name, id or tag means ("Apache 2.0 License", "bsd-3-clause", "openrail"), or ""."""
    text = re.sub(r"\s+", " ", name).strip().strip(".\"'")
    if not text or text.lower() in ("unknown", "none", "noassertion", "dual", "see license"):
        return ""
    exact = normalize(text)
    if exact:
        return exact
    for pattern, spdx in _NAMES:
        match = re.fullmatch(pattern, text.lower())
        if match:
            return spdx.format("", *match.groups())
    parts = re.split(r"\s*(?:/|,| or | and )\s*", text)
    if len(parts) > 1 and all(part_names := [from_name(part) for part in parts]):
        return (" OR " if " or " in text.lower() or "/" in text else " AND ").join(part_names)
    return ""


def normalize(expression: str) -> str:
    """An SPDX expression in its canonical spelling, or "" when it is not valid."""
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
    return ALIASES.get(str(parsed), str(parsed))


@lru_cache
def _licensing() -> Any:
    import license_expression

    return license_expression.get_spdx_licensing()


def combine(licenses: Iterable[str]) -> str:
    """The conjunction (AND) of expressions, without unknown ones (""); "" when there is none."""
    names = {name for name in licenses if name}
    parts = sorted(
        {part for name in names for part in ([name] if "(" in name or " OR " in name else name.split(" AND "))}
    )
    if len(parts) == 1:
        return parts[0]
    return " AND ".join(f"({part})" if " OR " in part else part for part in parts)

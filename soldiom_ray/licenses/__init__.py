"""Licences as SPDX expressions: recognising them in texts, names and metadata, and what they permit and require.

This is a reading of published licences for sorting data, not legal advice. Licences that no rule knows are "unknown",
never "allowed".
"""

from soldiom_ray.licenses.compliance import (
    Compliance,
    Ingredient,
    ModelUse,
    check_compliance,
    compliance_of,
    judge,
)
from soldiom_ray.licenses.metadata import PackageMetadata, from_metadata
from soldiom_ray.licenses.names import combine, from_name, normalize
from soldiom_ray.licenses.texts import LicenseMatch, LicenseReading, from_text, read_text
from soldiom_ray.licenses.uses import (
    NO_DERIVATIVES,
    NON_COMMERCIAL,
    PERMISSIVE,
    STRONG_COPYLEFT,
    UNKNOWN,
    WEAK_COPYLEFT,
    Policy,
    Ruling,
    Verdict,
    obligations,
    policy,
    verdict,
)

__all__ = [
    "NON_COMMERCIAL",
    "NO_DERIVATIVES",
    "PERMISSIVE",
    "STRONG_COPYLEFT",
    "UNKNOWN",
    "WEAK_COPYLEFT",
    "Compliance",
    "Ingredient",
    "LicenseMatch",
    "LicenseReading",
    "ModelUse",
    "PackageMetadata",
    "Policy",
    "Ruling",
    "Verdict",
    "check_compliance",
    "combine",
    "compliance_of",
    "from_metadata",
    "from_name",
    "from_text",
    "judge",
    "normalize",
    "obligations",
    "policy",
    "read_text",
    "verdict",
]

"""Licences: names, classifiers and texts become SPDX; uses are allowed, denied or unknown."""

import importlib.metadata
from email.message import Message

import pytest

from soldiom_ray import licenses
from soldiom_ray.licenses import combine, from_metadata, from_name, from_text, normalize, obligations, policy

MIT_TEXT = (
    "MIT License\n\nPermission is hereby granted, free of charge, to any person ...\n\nThe above copyright notice and"
    " this permission notice shall be included in all copies."
)
BSD_TEXT = "Redistribution and use in source and binary forms, with or without ... * Neither the name of X nor ..."


def metadata(**fields: str) -> Message:
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("MIT", "MIT"),
        ("Apache 2.0 License", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("BSD 3-Clause", "BSD-3-Clause"),
        ("new BSD", "BSD-3-Clause"),
        ("BSD", "LicenseRef-BSD"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("gpl-3.0", "GPL-3.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("llama3.1", "LicenseRef-Llama-3.1"),
        ("bigscience-openrail-m", "LicenseRef-OpenRAIL"),
        ("NOASSERTION", ""),
        ("see the file", ""),
    ],
)
def test_names_people_write_become_spdx(name: str, spdx: str) -> None:
    assert from_name(name) == spdx


def test_metadata_decides_by_expression_then_name_then_classifier_then_text() -> None:
    classifier = "License :: OSI Approved :: BSD License"
    assert from_metadata(metadata(License_Expression="MIT AND Apache-2.0", License="GPL")) == "MIT AND Apache-2.0"
    assert from_metadata(metadata(License="Apache")) == "Apache-2.0"
    assert from_metadata(metadata(Classifier=classifier), [BSD_TEXT]) == "BSD-3-Clause"
    assert from_metadata(metadata(Classifier=classifier)) == "LicenseRef-BSD"
    assert from_metadata(metadata(License=MIT_TEXT)) == "MIT"
    assert from_metadata(metadata(), ["no licence at all"]) == ""


def test_texts_and_headers_are_recognised() -> None:
    assert from_text(MIT_TEXT) == "MIT" and from_text(BSD_TEXT) == "BSD-3-Clause"
    assert from_text("# SPDX-License-Identifier: Apache-2.0 OR MIT\nimport x") == "Apache-2.0 OR MIT"
    assert from_text("Copyright me. All rights reserved.") == ""


def test_installed_packages_have_a_known_licence() -> None:
    found = {d.metadata["Name"]: from_metadata(d.metadata) for d in importlib.metadata.distributions()}
    assert sum(bool(spdx) for spdx in found.values()) / len(found) > 0.9
    assert all(spdx == normalize(spdx) for spdx in found.values() if spdx)


@pytest.mark.parametrize(
    ("license_", "any_use", "permissive", "commercial"),
    [
        ("MIT", "allowed", "allowed", "allowed"),
        ("GPL-3.0-only", "allowed", "denied", "denied"),
        ("MIT OR GPL-3.0-only", "allowed", "allowed", "allowed"),
        ("MIT AND GPL-3.0-only", "allowed", "denied", "denied"),
        ("MPL-2.0", "allowed", "denied", "allowed"),
        ("CC-BY-NC-4.0", "allowed", "denied", "denied"),
        ("CC-BY-ND-4.0", "denied", "denied", "denied"),
        ("Apache-2.0 WITH LLVM-exception", "allowed", "allowed", "allowed"),
        ("LicenseRef-Llama-3", "allowed", "denied", "unknown"),
        ("LicenseRef-Proprietary", "denied", "denied", "denied"),
        ("", "unknown", "unknown", "unknown"),
        ("Nobody-Knows-1.0", "unknown", "unknown", "unknown"),
    ],
)
def test_uses_are_judged(license_: str, any_use: str, permissive: str, commercial: str) -> None:
    assert [policy(license_, use) for use in ("any", "permissive", "commercial")] == [any_use, permissive, commercial]


def test_several_licences_hold_together() -> None:
    assert combine(["MIT", "", "Apache-2.0", "MIT"]) == "Apache-2.0 AND MIT"
    assert combine(["MIT OR GPL-3.0-only", "ISC"]) == "ISC AND (MIT OR GPL-3.0-only)" and combine([]) == ""
    assert "NOTICE" in obligations("Apache-2.0") and "commercial" in obligations("CC-BY-NC-4.0")
    assert obligations("CC0-1.0") == "Nothing is asked." and "reserved" in obligations("")


def test_every_licence_the_rules_know_is_a_real_one() -> None:
    known = licenses.PERMISSIVE | licenses.WEAK_COPYLEFT | licenses.STRONG_COPYLEFT | licenses.NON_COMMERCIAL
    assert {name for name in known | licenses.NO_DERIVATIVES if normalize(name) != name} == set()


def test_terms_that_hold_together_are_named_once() -> None:
    assert licenses.combine(["Apache-2.0 AND MIT", "Apache-2.0", "MIT"]) == "Apache-2.0 AND MIT"
    assert licenses.combine(["MIT OR Apache-2.0", "MIT"]) == "MIT AND (MIT OR Apache-2.0)"

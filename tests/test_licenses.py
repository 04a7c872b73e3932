"""Licences: names, classifiers and texts become SPDX; uses are allowed, denied or unknown."""

import importlib.metadata
import re
from email.message import Message
from pathlib import Path

import pytest
from cpu_time import cpu_seconds
from pydantic import ValidationError

from soldiom_ray import licenses
from soldiom_ray.domains.schema import LicensePolicy
from soldiom_ray.licenses import (
    combine,
    fingerprints,
    from_metadata,
    from_name,
    from_text,
    normalize,
    obligations,
    policy,
    verdict,
)

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
    by_package = {d.metadata["Name"]: from_metadata(d.metadata) for d in importlib.metadata.distributions()}
    assert sum(bool(spdx) for spdx in by_package.values()) / len(by_package) > 0.9
    assert all(spdx == normalize(spdx) for spdx in by_package.values() if spdx)


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
    spdx_ids = licenses.PERMISSIVE | licenses.WEAK_COPYLEFT | licenses.STRONG_COPYLEFT | licenses.NON_COMMERCIAL
    assert {name for name in spdx_ids | licenses.NO_DERIVATIVES if normalize(name) != name} == set()


def test_terms_that_hold_together_are_named_once() -> None:
    assert licenses.combine(["Apache-2.0 AND MIT", "Apache-2.0", "MIT"]) == "Apache-2.0 AND MIT"
    assert licenses.combine(["MIT OR Apache-2.0", "MIT"]) == "MIT AND (MIT OR Apache-2.0)"


APACHE_HEADER = """# Copyright 2024 The Authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
import os
"""
GPL_HEADER = """/* This program is free software: you can redistribute it and/or modify
 * it under the terms of the GNU General Public License as published by
 * the Free Software Foundation, either version 3 of the License, or
 * (at your option) any later version. */
"""
DEBIAN = Path("/usr/share/common-licenses")


def of_package(name: str, file: str) -> str:
    """The text of a licence file that an installed distribution carries."""
    paths = [path for path in importlib.metadata.files(name) or () if str(path).endswith(file)]
    return paths[0].read_text(encoding="utf-8")


def test_whole_texts_are_told_with_high_confidence() -> None:
    for package, file, spdx in (
        ("httpx", "LICENSE.md", "BSD-3-Clause"),
        ("typer", "LICENSE", "MIT"),
        ("huggingface_hub", "LICENSE", "Apache-2.0"),
        ("certifi", "LICENSE", "MPL-2.0"),
    ):
        reading = licenses.read_text(of_package(package, file))
        assert reading.expression == spdx, package
        assert reading.confidence > 0.8, package


def test_a_text_is_told_in_comments_capitals_other_line_breaks_and_spelling() -> None:
    text = of_package("httpx", "LICENSE.md")
    commented = "\n".join(f" * {line}" for line in text.splitlines())
    spelled = of_package("typer", "LICENSE").replace("sublicense", "sublicence").replace("\u201c", '"')
    for changed, spdx in (
        (commented, "BSD-3-Clause"),
        (text.upper(), "BSD-3-Clause"),
        (" ".join(text.split()), "BSD-3-Clause"),
        (text.replace("\n", "\r\n"), "BSD-3-Clause"),
        (spelled, "MIT"),
    ):
        assert from_text(changed) == spdx


def test_licences_bundled_in_one_file_are_all_named() -> None:
    bundle = "\n\n----\n\n".join(
        of_package(*package_file)
        for package_file in (("huggingface_hub", "LICENSE"), ("httpx", "LICENSE.md"), ("typer", "LICENSE"))
    )
    reading = licenses.read_text(bundle)
    assert reading.expression == "Apache-2.0 AND BSD-3-Clause AND MIT"
    starts = [part.start for part in reading.parts if part.stop - part.start > 100]
    assert starts == sorted(starts) and len(starts) == 3


def test_headers_notices_and_lines_are_read() -> None:
    assert from_text(APACHE_HEADER) == "Apache-2.0"
    assert from_text(GPL_HEADER) == "GPL-3.0-or-later"
    assert from_text("Name: libquadmath\nLicense: LGPL-2.1-or-later\n") == "LGPL-2.1-or-later"
    assert from_text("Apache 2.0") == "Apache-2.0"
    assert from_text("Released under the MIT license.") == "MIT"
    assert from_text("We do not like licences, and you should read a book instead.") == ""


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"{DEBIAN} is no folder of this system")
def test_the_texts_that_a_system_carries_are_told() -> None:
    for name, spdx in (
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("Apache-2.0", "Apache-2.0"),
        ("MPL-1.1", "MPL-1.1"),
        ("CC0-1.0", "CC0-1.0"),
    ):
        if (DEBIAN / name).is_file():
            assert from_text((DEBIAN / name).read_text()) == spdx


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00" * 1000,
        "license " * 100_000,
        "copyright (c) " * 50_000,
        "Licensed under " * 50_000,
        "SPDX-License-Identifier: " * 20_000,
        "gnu lesser general public license " * 20_000,
        MIT_TEXT * 500,
        "License: " + "(" * 5000,
    ],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    assert cpu_seconds(lambda: from_text(text)) < 3


def test_a_verdict_has_a_reason_and_lists_come_before_the_rule() -> None:
    declared = LicensePolicy(use="commercial", allow=("GPL-3.0-only",), deny=("MIT",), ask=("MPL-2.0", "unknown"))
    assert verdict("Apache-2.0", declared) == ("allowed", "Apache-2.0: permissive, allowed for use commercial")
    assert verdict("GPL-3.0-only", declared) == ("allowed", "GPL-3.0-only: listed as allowed")
    assert verdict("MIT", declared)[0] == "denied"
    assert verdict("MPL-2.0", declared)[0] == verdict("", declared)[0] == "ask"
    assert verdict("MPL-2.0 AND GPL-2.0-only", declared) == (
        "denied",
        "GPL-2.0-only: strong copyleft, denied for use commercial",
    )
    assert verdict("MPL-2.0 OR Apache-2.0", declared)[0] == "allowed"
    assert verdict("Nobody-Knows-1.0", declared) == ("unknown", "Nobody-Knows-1.0: no rule knows it")
    assert verdict("", LicensePolicy()) == ("unknown", "no licence found")


def test_an_exception_can_be_listed_apart_from_its_licence() -> None:
    declared = LicensePolicy(use="commercial", allow=("GPL-2.0-only WITH Classpath-exception-2.0",))
    assert verdict("GPL-2.0-only WITH Classpath-exception-2.0", declared)[0] == "allowed"
    assert verdict("GPL-2.0-only", declared)[0] == "denied"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"allow": ("GPL-3.0",)}, 'did you mean "GPL-3.0-only"'),
        ({"deny": ("the usual",)}, "no SPDX id"),
        ({"ask": ("MIT OR Apache-2.0",)}, "single ids"),
        ({"allow": ("MIT",), "deny": ("MIT",)}, "stands in `allow` and in `deny`"),
    ],
)
def test_lists_that_make_no_sense_are_refused(lists: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        LicensePolicy(**lists)


def test_fingerprints_are_made_from_a_folder_of_texts(tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    (tmp_path / "MIT.txt").write_text(words)
    (tmp_path / "x.LICENSE").write_text(
        f"---\nkey: x\nspdx_license_key: ISC\n---\n{words} end of terms and conditions more"
    )
    made = fingerprints.make_fingerprints(fingerprints.read_texts(tmp_path))
    assert made.names == ("ISC", "ISC", "MIT")
    assert made.sizes.tolist() == [57, 63, 57]
    assert len(fingerprints.load().names) > 600

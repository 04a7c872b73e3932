"""What the licences of a base model and of training data mean for a model that is made of them: one table.

`docs/registry.md` shows the same table to users; a test holds the two together.
"""

from dataclasses import dataclass

from soldiom_ray.licenses.uses import NO_DERIVATIVES, NON_COMMERCIAL, PERMISSIVE, STRONG_COPYLEFT, WEAK_COPYLEFT

ANY = ("any", "commercial")
COMMERCIAL = ("commercial",)


@dataclass(frozen=True, slots=True)
class ModelRule:
    """One row: which licences it is about, which uses of the model it blocks, what it asks for."""

    key: str
    about: str
    licenses: frozenset[str]
    """SPDX ids; "" stands for a missing licence."""
    blocks: tuple[str, ...] = ()
    """Uses of the model that are blocked until a person lists the licence in the dataset's policy (`allow`)."""
    name_starts_with: str = ""
    """What the name of a model that is made from such a base has to begin with."""
    notice: str = ""
    """What the card, `GET /api/models/{id}` and answers say."""
    duty: str = ""
    """What a person who passes the model on has to do; in the card."""


def _share_alike() -> frozenset[str]:
    versions = ("1.0", "2.0", "2.5", "3.0", "4.0")
    return frozenset(f"CC-BY-{kind}SA-{version}" for kind in ("", "NC-") for version in versions)


LLAMA_VERSIONS = ("3", "3.1", "3.2", "3.3", "4")
LLAMA_DUTY = (
    "Pass on a copy of the licence and a file `NOTICE` with its attribution line, keep to the acceptable use policy,"
    " and ask Meta for a licence above 700 million monthly users."
)


def _llama(version: str) -> ModelRule:
    return ModelRule(
        f"llama-{version}",
        f"Llama {version}: the model's name and a notice",
        frozenset({f"LicenseRef-Llama-{version}"}),
        name_starts_with="llama",
        notice=f"Built with {'Meta Llama 3' if version == '3' else 'Llama'}. Llama {version} is licensed under the"
        f" Llama {version} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
        duty=LLAMA_DUTY,
    )


RULES: tuple[ModelRule, ...] = (
    ModelRule(
        "missing",
        "no licence found",
        frozenset({""}),
        blocks=COMMERCIAL,
        duty="Find out who holds the rights before you pass the model on; without a licence all rights are reserved.",
    ),
    ModelRule(
        "other",
        "`other`: terms that no rule knows",
        frozenset({"LicenseRef-Other"}),
        blocks=COMMERCIAL,
        duty="Read the terms: they bind those who use the model.",
    ),
    ModelRule(
        "non-commercial",
        "NonCommercial, and licences that limit use in products",
        NON_COMMERCIAL - {"LicenseRef-Proprietary"},
        blocks=COMMERCIAL,
        duty="Not for commercial use; name the authors.",
    ),
    ModelRule(
        "no-derivatives",
        "NoDerivatives: a trained model may count as a changed copy",
        NO_DERIVATIVES | {"LicenseRef-Proprietary"},
        blocks=ANY,
        duty="Do not pass the model on.",
    ),
    ModelRule(
        "share-alike",
        "ShareAlike",
        _share_alike(),
        duty="Pass on adapted material under the same licence; name the authors.",
    ),
    ModelRule(
        "llama-2",
        "Llama 2: a notice",
        frozenset({"LicenseRef-Llama-2"}),
        notice="Llama 2 is licensed under the LLAMA 2 Community License, Copyright © Meta Platforms, Inc. All Rights"
        " Reserved.",
        duty=LLAMA_DUTY,
    ),
    *map(_llama, LLAMA_VERSIONS),
    ModelRule(
        "gemma",
        "Gemma's terms",
        frozenset({"LicenseRef-Gemma"}),
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.",
        duty="Pass on the terms with their limits of use, say that files were changed, and keep to Google's prohibited"
        " use policy.",
    ),
    ModelRule(
        "copyleft",
        "copyleft code (GPL, AGPL and alike)",
        STRONG_COPYLEFT,
        blocks=COMMERCIAL,
        duty="What repeats the code falls under its licence: pass it on with source; under the AGPL to users of a"
        " service too.",
    ),
    ModelRule(
        "openrail",
        "OpenRAIL: limits of use",
        frozenset({"LicenseRef-OpenRAIL"}),
        notice="This model may be used only within the use restrictions of the OpenRAIL licence of its base or data.",
        duty="Pass on the use restrictions (the licence's attachment) to everyone who gets the model or its answers.",
    ),
    ModelRule(
        "weak-copyleft",
        "copyleft for files or libraries (MPL, LGPL, EPL and alike)",
        WEAK_COPYLEFT - _share_alike(),
        duty="What repeats the code stays under its licence: keep its notices and pass on its source.",
    ),
    ModelRule(
        "attribution",
        "CC-BY and BSD: attribution",
        frozenset(name for name in PERMISSIVE if name.startswith(("CC-BY-", "BSD-", "LicenseRef-BSD"))),
        duty="Name the authors with their copyright and licence notices, and say what was changed.",
    ),
    ModelRule(
        "apache",
        "Apache-2.0: the notice",
        frozenset({"Apache-2.0"}),
        duty="Pass on the licence and the `NOTICE` file, and say that files were changed.",
    ),
)

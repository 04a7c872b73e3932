"""The remedy of an empty dataset fits what dropped its documents."""

from typing import get_args

import pytest

from soldiom_ray.domains.schema import FilterName
from soldiom_ray.prepare.remedies import remedy_for
from soldiom_ray.prepare.summary import warnings_of_copies


@pytest.mark.parametrize("name", sorted({*get_args(FilterName)} - {"near_duplicate"}))
def test_a_filter_that_dropped_everything_is_named(name: str) -> None:
    assert remedy_for(name) == f"take {name} out of `filters`"


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("kind", "`kinds`"),
        ("license_unknown", "`license`"),
        ("license_denied", "`license.deny`"),
        ("license_ask", "`license.allow`"),
        ("empty", "with text in them"),
        ("too_long", "`max_characters`"),
        ("over_limit", "`max_documents`"),
        ("exact_duplicate", "copies"),
        ("near_duplicate", "`near_duplicate_threshold`"),
        ("overlaps_test", "`split`"),
        ("overlaps_evaluation", "`decontaminate`"),
        ("rejected_is_chosen", "answers differ"),
        ("held out", "`split`"),
        ("no_function", "`pairs`"),
        ("short_docstring", "`pairs`"),
    ],
)
def test_every_other_reason_names_what_to_set(reason: str, setting: str) -> None:
    assert setting in remedy_for(reason)


def test_many_near_copies_are_told_with_what_to_set() -> None:
    (warning,) = warnings_of_copies(1228, 1670)
    assert "1,228 of 1,670" in warning and "prepare.filters" in warning
    assert warnings_of_copies(28, 6045) == [] and warnings_of_copies(1, 2) == []

"""What to do when nothing is left to train on, by the reason that documents were dropped for."""

from typing import get_args

from soldiom_ray.domains.schema import FilterName

_DUPLICATES = "give more than copies of one text"
_FUNCTIONS = "give Python with documented functions, or leave `pairs` out"
_REMEDIES = {
    "kind": "name their kind in `kinds`, or name none",
    "license_unknown": "say their licence where they are collected (`license`), or set `license.allow_unknown: true`",
    "license_denied": "take their licence out of `license.deny`, or choose another `license.use`",
    "license_ask": "move their licence from `license.ask` to `license.allow`, once a person has agreed",
    "empty": "collect documents with text in them",
    "too_long": "raise `max_characters`",
    "over_limit": "raise `max_documents`",
    "exact_duplicate": _DUPLICATES,
    "near_duplicate": f"{_DUPLICATES}, raise `near_duplicate_threshold`, or take near_duplicate out of `filters`",
    "overlaps_test": "hold out by groups (`split`), so that copies of one text share a side",
    "overlaps_validation": "hold out by groups (`split`), so that copies of one text share a side",
    "overlaps_evaluation": "leave out `decontaminate`, or give texts that no registered model was scored on",
    "other_prompt": "give pairs of answers to the same conversation",
    "rejected_is_chosen": "give pairs whose answers differ",
    "held out": "give more documents, or hold out less (`split`)",
}


def remedy_for(reason: str) -> str:
    """The remedy for what dropped the most documents."""
    filtered = f"take {reason} out of `filters`" if reason in get_args(FilterName) else _FUNCTIONS
    return _REMEDIES.get(reason, filtered)

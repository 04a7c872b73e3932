"""Records whose middle is to be filled in: parts in columns of their own, or one text with the tokens of a model."""

import re

_RENDERED = tuple(
    re.compile(rf"\s*{before}(.*?){after}(.*?){middle}(.*)", re.DOTALL)
    for before, after, middle in (
        (r"<fim_prefix>", r"<fim_suffix>", r"<fim_middle>"),
        (r"<\|fim_prefix\|>", r"<\|fim_suffix\|>", r"<\|fim_middle\|>"),
        (r"<fim-prefix>", r"<fim-suffix>", r"<fim-middle>"),
        (r"<｜fim▁begin｜>", r"<｜fim▁hole｜>", r"<｜fim▁end｜>"),
        (r"<PRE> ?", r" ?<SUF>", r" ?<MID>"),
    )
)
HEADS = ("<fim_prefix>", "<|fim_prefix|>", "<fim-prefix>", "<｜fim▁begin｜>", "<PRE>")
_END = re.compile(r"\s*(?:<\|endoftext\|>|<\|fim_pad\|>|<EOT>|<｜end▁of▁sentence｜>|<\|file_separator\|>)+\s*$")


def infill_parts(text: str) -> tuple[str, str, str] | None:
    """The prefix, middle and suffix of a text that a model's tokens divide; None for others."""
    for pattern in _RENDERED:
        if match := pattern.fullmatch(text):
            prefix, suffix, middle = match.groups()
            return prefix, _END.sub("", middle), suffix
    return None

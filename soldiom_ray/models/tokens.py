"""Token ids of texts: documents with their terminator, packed into blocks; and training a new model's tokenizer."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.integer[Any]]

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BATCH_TEXTS = 64
"""Texts handed to the tokenizer at once: it runs them on several threads, and their ids are held as Python lists."""


def terminator(tokenizer: Any) -> int:
    """The id that ends a document: the tokenizer's eos, else its pad or bos. InputError when it names none of them."""
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    raise InputError(
        "The tokenizer names no end, padding or beginning token.", remedy="add `eos_token` to its tokenizer_config.json"
    )


def encode_documents(tokenizer: Any, texts: Iterable[str]) -> Iterator["Ids"]:
    """The ids of each text, [tokens] in uint16 or, for larger vocabularies, uint32: its terminator at the end, and the
    beginning token where the tokenizer adds one itself."""
    import numpy as np

    end, remaining = terminator(tokenizer), iter(texts)
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    while batch := list(islice(remaining, BATCH_TEXTS)):
        for ids in tokenizer(batch, return_attention_mask=False, verbose=False)["input_ids"]:
            if not ids or ids[-1] != end:
                ids.append(end)
            yield np.asarray(ids, dtype=dtype)


def encode_texts(tokenizer: Any, texts: Iterable[str]) -> Iterator["Ids"]:
    """The ids of each text, [tokens] in int64, as the tokenizer's model reads it: with the special tokens that the
    tokenizer adds itself, and its terminator where a text has no token at all."""
    import numpy as np

    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_TEXTS)):
        for ids in tokenizer(batch, return_attention_mask=False, verbose=False)["input_ids"]:
            yield np.asarray(ids or [terminator(tokenizer)], dtype=np.int64)


def truncate(ids: "Ids", limit: int, *, keep_last: bool) -> "Ids":
    """At most `limit` of the ids [tokens]: the beginning and, with `keep_last`, the very last one (the special token
    that ends an encoder's input)."""
    import numpy as np

    if len(ids) <= limit:
        return ids
    return np.concatenate([ids[: limit - 1], ids[-1:]]) if keep_last else ids[:limit]


def pack(token_lists: Iterable["Sequence[int] | Ids"], sequence_length: int) -> list["Ids"]:
    """Documents joined and cut into blocks [sequence_length]; the last may be shorter, but is never a single token."""
    import numpy as np

    arrays = [np.asarray(ids) for ids in token_lists]
    stream = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint16)
    blocks = [stream[start : start + sequence_length] for start in range(0, len(stream), sequence_length)]
    return [block for block in blocks if len(block) > 1]


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, context_length: int) -> Any:
    """A byte-level BPE tokenizer trained on texts, in transformers' form, with one end token and tokens for the roles
    of a chat. `context_length` is the most tokens that its model takes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, *CHAT_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(CHAT_TOKENS),
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

"""How many tokens a model can read at once, from its configuration."""

from collections.abc import Mapping
from typing import Any

POSITION_KEYS = ("max_position_embeddings", "n_positions")
OFFSET_POSITIONS = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text",
    "longformer", "luke", "mluke", "ibert", "xmod",
)  # fmt: skip
"""Architectures that count positions from behind the padding token's id: of 514 positions two stay unused."""


def positions_of(config: Any) -> int | None:
    """Tokens that a model takes; None where its configuration sets no limit. `config` is transformers' or the JSON of
    config.json."""

    def stated(key: str) -> Any:
        return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)

    positions = next((int(stated(key)) for key in POSITION_KEYS if stated(key)), None)
    if positions is not None and stated("model_type") in OFFSET_POSITIONS:
        pad = stated("pad_token_id")
        positions -= 1 + (1 if pad is None else int(pad))
    return positions

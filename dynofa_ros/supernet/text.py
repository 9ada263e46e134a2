"""Text as the tokens of a translating network. The tokenizer is part of the file of its weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from dynofa_ros.supernet.transformer_graphs import END, UNKNOWN
from dynofa_ros.supernet.weights import Weights, WeightsError

if TYPE_CHECKING:
    import tokenizers

TOKENIZER = "tokenizer"  # entry of the metadata of a weights file: its JSON
LONGEST_TEXT, LONGEST_SOURCE = 4000, 128  # characters, tokens with the end


class Tokenizer:
    """Words of text to tokens of the network and back."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def targets(self) -> dict[str, int]:
        """The token that an output begins with, by the name of its target: "de" for <de>."""
        special = self._tokenizer.get_added_tokens_decoder()
        named = {token.content.strip("<>"): number for number, token in special.items()}
        return {name: number for name, number in named.items() if number > UNKNOWN}

    def encode(self, text: str) -> list[int]:
        """Source tokens, the end included. Raises ValueError in one line: no text, or too long a one."""
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"the text has {len(text)} characters: at most {LONGEST_TEXT} are taken")
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not tokens:
            raise ValueError("the text is empty: a sentence is expected")
        if len(tokens) >= LONGEST_SOURCE:
            raise ValueError(f"the text has {len(tokens)} tokens: at most {LONGEST_SOURCE - 1} are taken")
        return [*tokens, END]

    def unknown(self, text: str) -> int:
        """How many of its tokens stand for characters that the network never saw."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids.count(UNKNOWN)

    def decode(self, tokens: tuple[int, ...] | list[int]) -> str:
        """The text of an output."""
        return self._tokenizer.decode(list(tokens)).strip()


def load_tokenizer(weights: Weights) -> Tokenizer:
    """The tokenizer in the metadata of ``weights``.

    Raises WeightsError in one line if there is none, or it has another number of words than the network.
    """
    try:
        from tokenizers import Tokenizer as Library
    except ImportError:
        raise WeightsError("text needs the package tokenizers: pip install tokenizers") from None
    if TOKENIZER not in weights.metadata:
        raise WeightsError(f"{weights.source} has no tokenizer: one is expected in its metadata")
    try:
        tokenizer = Library.from_str(weights.metadata[TOKENIZER])
    except Exception as error:  # the library raises plain Exceptions
        raise WeightsError(f"{weights.source}: its tokenizer cannot be read: {error}") from None
    words = tokenizer.get_vocab_size()
    if words != weights.classes:
        raise WeightsError(
            f"{weights.source}: its tokenizer has {words} words, the network {weights.classes}: "
            "expected the one that it was trained with"
        )
    return Tokenizer(tokenizer)

"""Texts to token ids, without starting torch or transformers where that can be helped."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ntktune.data.cleaning import text_or_none
from ntktune.data.hub import TOKENIZER_FILES
from ntktune.errors import UserError
from ntktune.network.loading import from_folder, reading, stated_configuration
from ntktune.store.records import check_model_files

# of a text, where nobody says how many and the model has positions for more
MOST_TOKENS = 512
Encoder = Callable[[Sequence[str]], list[list[int]]]


@dataclass
class TextEncoder:
    """A model's tokenizer; BERT's kin put [CLS] and [SEP] around each text."""

    encode: Encoder
    token_id: Callable[[str], int | None]


def text_encoder(folder: str | os.PathLike) -> TextEncoder:
    """Return the tokenizer of a model folder; UserError if it holds none that can be read."""
    # the library tokenizers reads tokenizer.json alone; transformers takes seconds more
    folder = Path(folder)
    file = folder / "tokenizer.json"
    check_model_files(folder, [*TOKENIZER_FILES])
    if file.is_file():
        from tokenizers import Tokenizer

        with reading(str(file)):
            fast = Tokenizer.from_file(str(file))
        fast.no_truncation()
        fast.no_padding()
        return TextEncoder(
            lambda texts: [row.ids for row in fast.encode_batch(list(texts))], fast.token_to_id
        )
    with reading(f"the tokenizer in {folder}"):
        slow = from_folder("AutoTokenizer", folder)
    vocabulary = slow.get_vocab()
    return TextEncoder(lambda texts: [slow(text)["input_ids"] for text in texts], vocabulary.get)


def token_limit(folder: str | os.PathLike, max_tokens: int | None) -> tuple[int, int | None]:
    """Return the largest number of tokens per text, and the vocabulary size if the model states it.

    Without ``max_tokens`` a text has as many as the model has positions, at most 512. Raises
    UserError if the model has fewer positions than ``max_tokens``, or no configuration.
    """
    config = stated_configuration(folder)
    stated = config.get("max_position_embeddings") or config.get("n_positions")
    most = stated if isinstance(stated, int) and stated > 0 else None  # -1: no limit
    wanted = MOST_TOKENS if max_tokens is None else max_tokens
    # the model may use fewer than it states: a number close to that is worth importing torch
    padding = config.get("pad_token_id")
    unused = padding + 1 if isinstance(padding, int) else (most or 0) // 2
    if most and wanted > most - unused:
        from ntktune.network.models import empty_backbone, positions

        most = positions(empty_backbone(folder))
    if most is not None and wanted > most:
        if max_tokens is None:
            return most, config.get("vocab_size")
        raise UserError(f"max_tokens is {wanted}; it must be at most the model's {most} positions")
    return wanted, config.get("vocab_size")


def _cut(text: str, characters: int) -> str:
    """Return the beginning of a text, whole words where there is more than one."""
    if len(text) <= characters:
        return text
    kept = text[:characters]
    inside_word = not (kept[-1:].isspace() or text[characters].isspace())
    if inside_word and len(kept.split()) > 1:
        kept = kept.rsplit(maxsplit=1)[0]
    return kept.rstrip()


def _shortened_ids(
    encode: Encoder, fill: Callable, text_a: str, text_b: str | None, limit: int
) -> list[int]:
    """Return the ids of a row with its texts cut to as many characters as fit.

    Both texts are capped at the same number of characters, so the longer one is cut first. What the
    template puts after a text stays: the head may read the last token.
    """

    def ids(characters: int) -> list[int]:
        second = None if text_b is None else _cut(text_b, characters)
        return encode([fill(_cut(text_a, characters), second)])[0]

    low, high = 0, max(len(text_a), len(text_b or ""))
    best = ids(0)
    if len(best) > limit:
        raise UserError(
            f"the template alone has {len(best)} tokens, more than the {limit} that "
            "max_tokens leaves for it; raise max_tokens or shorten the template"
        )
    while high - low > 1:
        middle = (low + high) // 2
        tried = ids(middle)
        if len(tried) <= limit:
            low, best = middle, tried
        else:
            high = middle
    return best


def row_tokens(
    table: pd.DataFrame,
    template: str,
    encoder: TextEncoder,
    max_tokens: int,
    vocabulary: int | None = None,
    prefix_token: str | None = None,
) -> tuple[list[list[int]], int]:
    """Return N lists of token ids, one a row, and how many rows had to be cut.

    ``table`` has the columns text_a and text_b, which fill the task's ``template``. A row has at
    most ``max_tokens`` tokens, prefix and special tokens included; longer rows lose the end of
    their longer text. ``prefix_token``, such as ``<|endoftext|>``, is put first. ``vocabulary`` is
    the model's vocabulary size. Raises UserError if the prefix token is unknown, a row has no token
    or one beyond the vocabulary, or the template alone is too long.
    """

    def fill(text_a: str, text_b: str | None) -> str:
        texts = {"a": text_a, "b": text_b or ""}
        return re.sub(r"\{text_([ab])\}", lambda field: texts[field[1]], template)

    prefix = [] if prefix_token is None else [encoder.token_id(prefix_token)]
    if prefix == [None]:
        raise UserError(
            f"prefix_token {prefix_token!r} is no token of the model's tokenizer; give one of its "
            "tokens, or none"
        )
    texts = [(a, text_or_none(b)) for a, b in zip(table["text_a"], table["text_b"], strict=True)]
    rows = encoder.encode([fill(a, b) for a, b in texts])
    limit = max_tokens - len(prefix)
    overlong = 0
    for i, (text_a, text_b) in enumerate(texts):
        if len(rows[i]) > limit:
            rows[i] = _shortened_ids(encoder.encode, fill, text_a, text_b, limit)
            overlong += 1
        rows[i] = prefix + rows[i]
        if not rows[i]:
            raise UserError(f"row {i} has no token: {fill(text_a, text_b)!r}; leave the row out")
        if vocabulary is not None and max(rows[i]) >= vocabulary:
            raise UserError(
                f"row {i} has token id {max(rows[i])}, but the model's vocabulary has "
                f"{vocabulary}: the tokenizer belongs to another model"
            )
    return rows, overlong


def token_arrays(
    rows: Sequence[Sequence[int]], table: pd.DataFrame
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return a task's rows as arrays, and their ``mean_length`` and ``longest``.

    The arrays are ``ids``, all rows one after the other; ``offsets`` (N + 1,), where each begins;
    and ``label``, ``label_noise`` and ``is_test`` (N,), from the table's columns.
    """
    lengths = np.array([len(row) for row in rows])
    arrays = {
        "ids": np.concatenate(rows).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "label": table["label"].to_numpy(float),
        "label_noise": table["label_noise"].to_numpy(float),
        "is_test": (table["split"] == "test").to_numpy(np.uint8),
    }
    return arrays, {"mean_length": float(lengths.mean()), "longest": int(lengths.max())}

"""Tokens: what a model reads of a row, and what is cut when a row is too long."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ntktune.__main__ import main
from ntktune.data.pretrained import byte_tokenizer
from ntktune.data.tokens import row_tokens, text_encoder
from ntktune.errors import UserError
from ntktune.store.records import write_json, write_table
from ntktune.store.tensors import read_tensors

PREFIX = "<|endoftext|>"
UNKNOWN = "[UNK]"
WORDS = ["[PAD]", "[CLS]", "[SEP]", "<|endoftext|>", "[UNK]", *"abcdefghij", "It", "was"]


def _table(text_a, text_b=None):
    text_b = text_b or [None] * len(text_a)
    return pd.DataFrame({"text_a": text_a, "text_b": text_b}, dtype=object)


def _model(folder, special=False, **config):
    """Write a folder with a word-level tokenizer: every word is one token."""
    folder.mkdir(exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    # such settings travel with tokenizers and must not matter here
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(WORDS)} | config))
    facts = {"name": "words", "revision": None, "sha256": "5" * 64}
    write_json(folder / "model.json", facts, {})
    return folder


def _words(folder, table, template, **settings_):
    rows, overlong = row_tokens(table, template, text_encoder(folder), **settings_)
    return [" ".join(WORDS[i] for i in row) for row in rows], overlong


def test_the_template_is_filled_and_the_prefix_put_first(tmp_path):
    words, overlong = _words(
        _model(tmp_path / "m"),
        _table(["a b", "c"], ["d", "e f"]),
        "{text_a} It was {text_b}",
        max_tokens=9,
        prefix_token=PREFIX,
    )
    assert words == ["<|endoftext|> a b It was d", "<|endoftext|> c It was e f"]
    assert overlong == 0
    # what a text holds is no field of the template
    words, _ = _words(
        tmp_path / "m", _table(["{text_b}"], ["d"]), "{text_a} {text_b}", max_tokens=9
    )
    assert words == ["[UNK] d"]


def test_an_encoders_own_special_tokens_are_added_and_survive_a_cut(tmp_path):
    words, overlong = _words(
        _model(tmp_path / "m", special=True),
        _table(["a b", "a b c d e f"]),
        "{text_a}",
        max_tokens=5,
    )
    assert words == ["[CLS] a b [SEP]", "[CLS] a b c [SEP]"]
    assert overlong == 1


def test_the_longer_text_is_cut_first_and_the_templates_end_stays(tmp_path):
    words, overlong = _words(
        _model(tmp_path / "m"),
        _table(["a b c d e f g h", "a b"], ["i j", "c d e f g h i j"]),
        "{text_a} {text_b} It was",
        max_tokens=7,
        prefix_token=PREFIX,
    )
    assert words == ["<|endoftext|> a b i j It was", "<|endoftext|> a b c d It was"]
    assert overlong == 2


def test_a_cut_falls_between_words(tmp_path):
    folder = tmp_path / "bytes"
    byte_tokenizer().save_pretrained(folder)
    encoder = text_encoder(folder)
    rows, _ = row_tokens(_table(["good morning"]), "{text_a}", encoder, max_tokens=8)
    assert len(rows[0]) == len("good")
    rows, _ = row_tokens(_table(["goodmorning"]), "{text_a}", encoder, max_tokens=8)
    assert len(rows[0]) == 8


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4), st.integers(2, 20))
def test_bytes_know_every_text_and_no_row_exceeds_the_limit(texts, limit):
    tokenizer = byte_tokenizer().backend_tokenizer
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert len(ids) == len(text.encode("utf-8", "surrogatepass"))
        assert all(1 <= i <= 256 for i in ids)
        assert tokenizer.decode(ids) == text

    class Encoder:
        token_id = staticmethod(tokenizer.token_to_id)

        @staticmethod
        def encode(rows):
            return [row.ids for row in tokenizer.encode_batch(list(rows))]

    rows, overlong = row_tokens(
        _table(texts), "{text_a}", Encoder, max_tokens=limit, prefix_token=PREFIX
    )
    assert all(1 <= len(row) <= limit and row[0] == 0 for row in rows)
    assert overlong == sum(len(text.encode()) > limit - 1 for text in texts)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"prefix_token": "<bos>"}, r"prefix_token '<bos>' is no token of the model's tokenizer"),
        ({"vocabulary": 6}, r"row 0 has token id \d+, but the model's vocabulary has 6"),
        (
            {"max_tokens": 1},
            r"the template alone has 2 tokens, more than the 1 .* raise max_",
        ),
    ],
)
def test_tokens_that_cannot_be_are_told(tmp_path, settings_, message):
    settings_ = {"max_tokens": 9} | settings_
    with pytest.raises(UserError, match=message):
        _words(_model(tmp_path / "m"), _table(["a b c"]), "{text_a} It was", **settings_)


def test_a_row_without_any_token_is_told(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u200b", "removed")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = text_encoder(tmp_path)
    with pytest.raises(UserError, match=r"row 1 has no token: '\\u200b'"):
        row_tokens(_table(["a", "\u200b"]), "{text_a}", encoder, max_tokens=4)


def test_gpt2s_post_processor_adds_no_token(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(text_encoder(tmp_path).encode(["abc"])[0]) == 3


def test_a_tokenizer_that_exists_in_python_only_is_used(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    encoder = text_encoder(tmp_path)
    assert encoder.encode(["ab"]) == [[ord("a") + 3, ord("b") + 3, 1]]
    assert encoder.token_id("<pad>") == 0
    assert encoder.token_id("no such token") is None


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^the tokenizer in .* cannot be read"):
        text_encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read: "):
        text_encoder(tmp_path)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.parquet"
    frame = _table(["a b", "c d e f", "g"]).assign(
        id=["0", "1", "2"],
        label=[1.5, -2.0, 0.25],
        label_noise=[0.1, np.nan, 0.2],
        split=["train", "train", "test"],
    )
    task = {"name": "t", "template": "{text_a}", "kind": "regression"}
    write_table(path, frame, {"task": task, "data_sha256": "abc"})
    return path


def _tokenize(table, model, out, *flags):
    command = ["data", "tokenize", "--table", str(table), "--model", str(model), *flags]
    return main([*command, "--out", str(out)])


def test_the_command_writes_tokens_labels_and_what_it_did(table, tmp_path, capsys):
    out, model = tmp_path / "tokens.safetensors", _model(tmp_path / "m")
    flags = ["--max-tokens", "4", "--prefix-token", "<|endoftext|>"]
    assert _tokenize(table, model, out, *flags) == 0
    tensors, provenance = read_tensors(out)
    assert {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()} == {
        "ids": "int32",
        "offsets": "int64",
        "label": "float64",
        "label_noise": "float64",
        "is_test": "uint8",
    }
    assert tensors["ids"].tolist() == [3, 5, 6, 3, 7, 8, 9, 3, 11]
    assert tensors["offsets"].tolist() == [0, 3, 7, 9]
    assert tensors["label"].tolist() == [1.5, -2.0, 0.25]
    assert tensors["label_noise"].isnan().tolist() == [False, True, False]
    assert tensors["is_test"].tolist() == [0, 0, 1]
    assert provenance["tokens"] == {
        "max_tokens": 4,
        "prefix_token": "<|endoftext|>",
        "mean_length": 3.0,
        "longest": 4,
        "overlong": 1,
    }
    assert provenance["model"] == {"name": "words", "revision": None, "sha256": "5" * 64}
    assert provenance["task"]["name"] == "t"
    assert provenance["data_sha256"] == "abc"
    said = "t: 3 rows, 3.0 tokens on average, longest 4, 1 cut to 4\n"
    printed = capsys.readouterr()
    assert printed.err == said
    # the log is a file: that texts were cut is said where the study runs, too
    assert printed.out == "t: 1 of 3 texts were cut to 4 tokens (model.max_tokens)\n"


@pytest.mark.parametrize(
    ("positions", "limit"), [(8, 8), (2048, 512), (-1, 512), (None, 512), (512, 512)]
)
def test_without_a_limit_texts_are_as_long_as_the_model_takes(
    table, tmp_path, capsys, positions, limit
):
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 8)
    sizes |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1)
    stated = {"model_type": "bert", "pad_token_id": 0, "max_position_embeddings": positions}
    out, model = tmp_path / "out.safetensors", _model(tmp_path / "m", **sizes, **stated)
    assert _tokenize(table, model, out) == 0
    assert read_tensors(out)[1]["tokens"]["max_tokens"] == limit
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "n_positions": 8},
        # the first rows of its table of positions are never used
        {"model_type": "roberta", "max_position_embeddings": 10, "pad_token_id": 1},
        {"model_type": "roberta", "max_position_embeddings": 10},
    ],
)
def test_more_tokens_than_the_model_has_positions_is_an_error(table, tmp_path, capsys, config):
    model = _model(tmp_path / "m", **config)
    assert _tokenize(table, model, tmp_path / "out.safetensors", "--max-tokens", "9") == 1
    assert "max_tokens is 9; it must be at most the model's 8 positions" in (
        capsys.readouterr().err
    )
    (model / "config.json").unlink()
    assert _tokenize(table, model, tmp_path / "out.safetensors", "--max-tokens", "4") == 1
    assert "is no model folder: config.json is missing" in capsys.readouterr().err


def test_a_fast_tokenizer_is_read_without_importing_transformers(table, tmp_path):
    model = _model(tmp_path / "m")
    code = (
        "import sys; from ntktune.__main__ import main\n"
        f"assert main(['data', 'tokenize', '--table', {str(table)!r}, '--model', {str(model)!r},"
        f" '--max-tokens', '4', '--out', {str(tmp_path / 'o.safetensors')!r}]) == 0\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

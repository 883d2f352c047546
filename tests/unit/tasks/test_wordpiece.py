"""The fast WordPiece tokenizer is used only if it gives the same ids as the model's own tokenizer."""

import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from windrow.scheduler.config.values import DEFAULT_MODELS
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.models.wordpiece import WordPiece, load_wordpiece, random_texts

MINILM = load_text_limit(DEFAULT_MODELS["minilm"]["source"])
#: Pieces of realistic texts; the tests add arbitrary characters.
PIECES = st.sampled_from(
    ["hay ", "unaffable", "##ing", "[SEP]", "[MASK]", "Ünïcode ", "e\u0301", "北京", "\x00", "\u200d", "…"]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=30).map("".join)


@pytest.fixture(scope="module")
def fast() -> WordPiece:
    found = load_wordpiece(MINILM.tokenizer)
    assert found is not None
    return found


def cutting(max_tokens: int, side: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(MINILM.tokenizer.to_str())
    tokenizer.enable_truncation(max_tokens, direction=side)
    return tokenizer


@given(st.lists(TEXTS, max_size=5))
def test_ids_are_those_of_the_models_own_tokenizer(fast: WordPiece, texts: list[str]) -> None:
    expected = [encoding.ids for encoding in MINILM.tokenizer.encode_batch(texts)]
    assert [ids.tolist() for ids in fast.encode(texts)] == expected


@given(TEXTS, st.integers(2, 12), st.sampled_from(["right", "left"]))
def test_texts_are_truncated_as_the_models_own_tokenizer_does(
    fast: WordPiece, text: str, max_tokens: int, side: str
) -> None:
    (ids,) = fast.encode([text], max_tokens, cuts_end=side == "right")
    assert ids.tolist() == cutting(max_tokens, side).encode(text).ids


@given(TEXTS)
def test_counts_are_those_of_the_models_own_tokenizer(text: str) -> None:
    assert MINILM.wordpiece is not None
    assert MINILM.count(text) == len(MINILM.tokenizer.encode(text))
    assert MINILM.count_plain(text) == len(MINILM.tokenizer.encode(text, add_special_tokens=False))


def test_half_a_surrogate_pair_is_an_error(fast: WordPiece) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        fast.encode(["hay", "\ud800"])
    with pytest.raises(TypeError, match="must be str"):
        MINILM.count("\ud800")


def wordpiece(normalizer: Any, pre_tokenizer: Any, post_processor: Any = None) -> Tokenizer:
    words = ["[UNK]", "[CLS]", "[SEP]", "hay", "##s", "##tack", "row", "e", "##e", "é", "H", "##ay", "."]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.BertNormalizer(lowercase=False),
        normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer(strip_accents=False)]),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    ],
)
@pytest.mark.parametrize("pre_tokenizer", [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Whitespace()])
def test_other_wordpiece_tokenizers_are_supported(normalizer: Any, pre_tokenizer: Any) -> None:
    tokenizer = wordpiece(normalizer, pre_tokenizer, processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)))
    fast = load_wordpiece(tokenizer)
    assert fast is not None
    texts = ["haystack. Hay É", *random_texts(50, seed=7)]
    assert [ids.tolist() for ids in fast.encode(texts)] == [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def test_other_kinds_of_tokenizer_are_not_supported() -> None:
    assert load_wordpiece(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))) is None
    assert load_wordpiece(Tokenizer(models.BPE())) is None
    prepending = wordpiece(normalizers.Prepend("_"), pre_tokenizers.Whitespace())  # a normalizer that nanotoken lacks
    assert load_wordpiece(prepending) is None


@pytest.mark.parametrize(
    ("token", "is_used"),
    [
        (AddedToken("[E1]"), True),
        (AddedToken("<mask>", lstrip=True, normalized=False, special=True), True),
        # The packages differ on the start of the second token.
        (AddedToken("\n", lstrip=True, rstrip=True, normalized=False), False),
        # It normalizes to nothing, and `tokenizers` panics on texts that contain it.
        (AddedToken("\u200d"), False),
        (AddedToken("[E1]", rstrip=True), False),
    ],
)
def test_only_plain_added_tokens_are_supported(token: AddedToken, is_used: bool) -> None:
    tokenizer = Tokenizer.from_str(MINILM.tokenizer.to_str())
    tokenizer.add_tokens([token])
    fast = load_wordpiece(tokenizer)
    assert (fast is not None) is is_used
    if fast is not None:
        texts = [f"hay{token.content}\t {token.content}row", f" {token.content}{token.content}."]
        assert [ids.tolist() for ids in fast.encode(texts)] == [
            encoding.ids for encoding in tokenizer.encode_batch(texts)
        ]


def test_a_vocabulary_that_nanotoken_cannot_read_is_not_supported(caplog: pytest.LogCaptureFixture) -> None:
    without_unknown = Tokenizer(models.WordPiece({"hay": 0, "row": 1}, unk_token="[UNK]"))
    assert load_wordpiece(without_unknown) is None
    assert "texts are tokenized by tokenizers" in caplog.text


class Panics:
    def encode(self, text: str, **_: object) -> None:
        raise Panic(text)

    encode_batch = encode


class Panic(BaseException):
    """Like the panics of pyo3."""


def test_a_panic_becomes_a_value_error() -> None:
    fast = WordPiece(Panics())
    with pytest.raises(ValueError, match="hay"):
        fast.count("hay")
    with pytest.raises(ValueError, match="hay"):
        fast.encode(["hay"])


class Differing:
    """A tokenizer with other ids for texts with a tab."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.model = tokenizer, tokenizer.model

    def to_str(self) -> str:
        return self._tokenizer.to_str()

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._tokenizer.get_added_tokens_decoder()

    def encode_batch_fast(self, texts: list[str]) -> Any:
        return self._tokenizer.encode_batch_fast([text.replace("\t", "x") for text in texts])


def test_a_tokenizer_with_different_ids_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    assert load_wordpiece(Differing(MINILM.tokenizer)) is None
    assert "nanotoken differs on" in caplog.text


def test_without_nanotoken_texts_are_tokenized_by_tokenizers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "nanotoken", None)  # makes the import fail
    with caplog.at_level(logging.INFO):
        limit = load_text_limit(DEFAULT_MODELS["minilm"]["source"])
    assert limit.wordpiece is None
    assert limit.count("unaffable hay") == MINILM.count("unaffable hay")
    (line,) = [record for record in caplog.records if record.name.endswith("wordpiece")]
    assert (line.levelno, "nanotoken is not installed" in line.getMessage()) == (logging.INFO, True)


def test_the_module_imports_without_nanotoken_and_numpy() -> None:
    code = (
        "import sys; sys.modules['nanotoken'] = sys.modules['numpy'] = None\n"
        "import windrow.scheduler.models.token_counts"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

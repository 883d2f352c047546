"""Token counts and token limits of a model, without torch: for the cost of a request and the API's length check."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence

from windrow.errors import TOO_LONG_ADVICE, InputTooLong, ModelUnusable
from windrow.scheduler.models.files import read_object
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.wordpiece import WordPiece, load_wordpiece

#: Upper limit of a text in characters, in multiples of the model's limit in tokens. A longer text is refused without
#: counting its tokens, because counting delays all other requests. English has 4 to 5 characters per token.
COUNTED_CHARACTERS_PER_TOKEN = 32
#: Architectures whose first position is pad_token_id + 1, as in RoBERTa, so that the rows before it are never used.
PADDED_POSITIONS = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
#: Architectures whose limit is ``n_positions``, as in GPT-2. T5 has this field too, but no limit.
N_POSITIONS = frozenset({"codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "openai-gpt"})


@dataclass(frozen=True, slots=True)
class TextLimit:
    """The tokenizer of a model and the longest input that the model takes."""

    tokenizer: Tokenizer
    #: In tokens, special tokens included.
    max_input_tokens: int
    #: Number of special tokens added to a single text.
    added_tokens: int
    #: The default prompt in the model's files, put in front of every text to embed.
    prompt: str = ""
    #: A much faster tokenizer for single texts, with the same ids as ``tokenizer``; None if there is none.
    wordpiece: WordPiece | None = None

    def count(self, text: str | tuple[str, str]) -> int:
        """Return the tokens of a text or a pair of texts, special tokens included."""
        if self.wordpiece is not None and isinstance(text, str):
            with suppress(ValueError):
                return self.wordpiece.count(text)
        return len(self.tokenizer.encode(text) if isinstance(text, str) else self.tokenizer.encode(*text))

    def count_plain(self, text: str) -> int:
        """Return the tokens of ``text`` without special tokens.

        The tokens of a pair are the sum of this count for both texts and `added_to`.
        """
        if self.wordpiece is not None:
            with suppress(ValueError):
                return self.wordpiece.count(text, special=False)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def added_to(self, text: str | tuple[str, str]) -> int:
        """Return how many special tokens are added to this text or pair of texts."""
        return self.added_tokens if isinstance(text, str) else self.tokenizer.num_special_tokens_to_add(is_pair=True)

    def require_countable(self, text: str | tuple[str, str], name: str) -> None:
        """Raise `InputTooLong`, without counting tokens, for a text ``name`` that cannot fit."""
        characters = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if characters > COUNTED_CHARACTERS_PER_TOKEN * self.max_input_tokens:
            raise InputTooLong(
                f"{name}: {characters} characters, and the model takes {self.max_input_tokens} tokens; "
                f"{TOO_LONG_ADVICE}"
            )


def load_text_limit(source: str, max_input_tokens: int | None = None) -> TextLimit:
    """Load the tokenizer of ``source`` and the model's limit, which ``max_input_tokens`` may lower but not raise.

    Raises `ModelUnusable` if there is no fast tokenizer, or if ``max_input_tokens`` is above the model's limit.
    """
    folder = resolve_source(source, weights=False)
    tokenizer = load_tokenizer(folder)
    limit = _model_limit(folder)
    if max_input_tokens is not None and limit is not None and max_input_tokens > limit:
        raise ModelUnusable(
            f"source {source!r}: max_input_tokens {max_input_tokens} is above the model's {limit}; set {limit} or less"
        )
    return TextLimit(
        tokenizer=tokenizer,
        max_input_tokens=max_input_tokens or limit or 512,
        added_tokens=tokenizer.num_special_tokens_to_add(is_pair=False),
        prompt=default_prompt(folder),
        wordpiece=load_wordpiece(tokenizer),
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json`` with truncation and padding switched off. Raises `ModelUnusable` if that fails."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelUnusable(
            f"{folder}: no tokenizer.json; save the model with its fast tokenizer: tokenizer.save_pretrained(folder)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises plain Exception
        raise ModelUnusable(f"{file}: the tokenizer cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if read_object(folder / "sentence_bert_config.json").get("do_lower_case") is True:
        steps = [Lowercase()] if tokenizer.normalizer is None else [Lowercase(), tokenizer.normalizer]
        tokenizer.normalizer = Sequence(steps)
    return tokenizer


def default_prompt(folder: Path) -> str:
    """Return the prompt that sentence-transformers puts in front of every text by default; usually an empty string.

    Raises `ModelUnusable` if the model's files name a default prompt that they do not contain.
    """
    config = read_object(folder / "config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is None:
        return ""
    if not isinstance(prompts, dict) or name not in prompts:
        raise ModelUnusable(f"{folder}: its default prompt {name!r} is not among its prompts")
    return str(prompts[name] or "")


def _model_limit(folder: Path) -> int | None:
    """Return the smallest limit in the model's files, in tokens; None if they contain none."""
    limits = [
        read_object(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_object(folder / "tokenizer_config.json").get("model_max_length"),
        _position_limit(read_object(folder / "config.json")),
    ]
    # Tokenizers without a limit have 1e30 here.
    return min((int(n) for n in limits if isinstance(n, (int, float)) and 0 < n < 1e9), default=None)


def _position_limit(config: dict[str, object]) -> int | None:
    kind = config.get("model_type")
    positions = config.get("n_positions" if kind in N_POSITIONS else "max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    if kind in PADDED_POSITIONS:
        pad = config.get("pad_token_id", 1)
        return positions - (pad if isinstance(pad, int) else 1) - 1
    return positions

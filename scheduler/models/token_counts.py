"""Counting tokens without torch: the cost that fair queueing charges and the limit that the API checks."""

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

#: Texts with more characters than so many times the model's limit in tokens are not counted, but refused: no language
#: comes near it (English has 4 to 5 characters a token), and counting holds up everybody else's requests.
COUNTED_CHARACTERS_PER_TOKEN = 32
#: Architectures whose first position is pad_token_id + 1, as RoBERTa's is: that much of the table is never used.
PADDED_POSITIONS = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
        "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
#: Architectures whose files name the limit as GPT-2's do. T5's have the field too, and no limit.
N_POSITIONS = frozenset({"codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "openai-gpt"})


@dataclass(frozen=True, slots=True)
class TextLimit:
    """A model's tokenizer and the longest input it takes."""

    tokenizer: Tokenizer
    #: In tokens, special tokens included.
    max_input_tokens: int
    #: Special tokens that a text by itself gets.
    added_tokens: int
    #: What the model's files put in front of every text that is embedded.
    prompt: str = ""
    #: The same as ``tokenizer`` for single texts, much faster; None where it is not known to be.
    wordpiece: WordPiece | None = None

    def count(self, text: str | tuple[str, str]) -> int:
        """Tokens of a text or a pair of texts, special tokens included."""
        if self.wordpiece is not None and isinstance(text, str):
            with suppress(ValueError):
                return self.wordpiece.count(text)
        return len(self.tokenizer.encode(text) if isinstance(text, str) else self.tokenizer.encode(*text))

    def count_plain(self, text: str) -> int:
        """Tokens of ``text`` without special ones; those of a pair are the sum of both texts' and `added_to`."""
        if self.wordpiece is not None:
            with suppress(ValueError):
                return self.wordpiece.count(text, special=False)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def added_to(self, text: str | tuple[str, str]) -> int:
        """Special tokens that this text, or this pair of texts, gets."""
        return self.added_tokens if isinstance(text, str) else self.tokenizer.num_special_tokens_to_add(is_pair=True)

    def require_countable(self, text: str | tuple[str, str], name: str) -> None:
        """Raise `InputTooLong`, with ``name``, for a text that is surely too long, before anybody counts its tokens."""
        characters = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if characters > COUNTED_CHARACTERS_PER_TOKEN * self.max_input_tokens:
            raise InputTooLong(
                f"{name}: {characters} characters, and the model takes {self.max_input_tokens} tokens; "
                f"{TOO_LONG_ADVICE}"
            )


def load_text_limit(source: str, max_input_tokens: int | None = None) -> TextLimit:
    """Load the tokenizer and the model's limit; ``max_input_tokens`` lowers the limit, it cannot raise it.

    Raises `ModelUnusable` where there is no fast tokenizer, or the wish is above what the model takes.
    """
    folder = resolve_source(source, weights=False)
    tokenizer = load_tokenizer(folder)
    limit = _model_limit(folder)
    if max_input_tokens is not None and limit is not None and max_input_tokens > limit:
        raise ModelUnusable(f"source {source!r}: max_input_tokens {max_input_tokens} is above the model's {limit}")
    return TextLimit(
        tokenizer=tokenizer,
        max_input_tokens=max_input_tokens or limit or 512,
        added_tokens=tokenizer.num_special_tokens_to_add(is_pair=False),
        prompt=default_prompt(folder),
        wordpiece=load_wordpiece(tokenizer),
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json``, so that it neither cuts nor pads. Raises `ModelUnusable` where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelUnusable(f"{folder}: no tokenizer.json; save the model with its fast tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises no class of its own
        raise ModelUnusable(f"{file}: the tokenizer cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if read_object(folder / "sentence_bert_config.json").get("do_lower_case") is True:
        steps = [Lowercase()] if tokenizer.normalizer is None else [Lowercase(), tokenizer.normalizer]
        tokenizer.normalizer = Sequence(steps)
    return tokenizer


def default_prompt(folder: Path) -> str:
    """What sentence-transformers puts in front of every text where its caller names no prompt; mostly nothing.

    Raises `ModelUnusable` where the model's files name a prompt that they do not hold.
    """
    config = read_object(folder / "config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is None:
        return ""
    if not isinstance(prompts, dict) or name not in prompts:
        raise ModelUnusable(f"{folder}: its default prompt {name!r} is not among its prompts")
    return str(prompts[name] or "")


def _model_limit(folder: Path) -> int | None:
    """The smallest limit the model's own files state, in tokens; None where they state none."""
    limits = [
        read_object(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_object(folder / "tokenizer_config.json").get("model_max_length"),
        _position_limit(read_object(folder / "config.json")),
    ]
    # Tokenizers without a limit write 1e30.
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

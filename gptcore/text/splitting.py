"""How a text is cut before any tokenizer of ours looks at it: into words, numbers, signs and blanks, as bytes."""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

# After GPT-4's pattern (cl100k_base in tiktoken's tiktoken_ext/openai_public.py). What differs, and why:
# - numbers in groups of two, not three: 110 number tokens instead of 1,110 in a small vocabulary (as nanochat does);
# - runs of spaces end at 64: on longer ones the look-ahead makes tiktoken's regex engine overflow its stack;
# - letter case is spelled out, so that nothing depends on how an engine folds case.
SPLIT_PATTERN = "|".join(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one leading space or sign
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs, with a leading space and the line ends after them
        r"\s{0,64}[\r\n]+",
        r"\s{1,64}(?!\S)",  # spaces, but the last one belongs to the word that follows
        r"\s{1,64}",
    )
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts by `SPLIT_PATTERN`, then writes every byte as its printable stand-in."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_characters() -> list[str]:
    """The stand-ins of the 256 bytes, in the order in which the library numbers them."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())

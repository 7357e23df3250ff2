"""The turns of a stream as text and as tokens: one system turn, a user turn for each chunk, and one for a question."""

import re
from collections.abc import Sequence

SYSTEM_PROMPT = "You are a helpful assistant."  # Qwen's own default
DEFAULT_QUESTION = (
    "Read all text, lyrics, subtitles, or captions currently visible on screen. Output them verbatim. "
    "If there is no text, say 'No text visible'. Do NOT repeat previously mentioned text."
)
QUESTION_ZH = (  # the same in Chinese
    "请读出当前屏幕上可见的所有文字、歌词或字幕，逐字原样输出。如果没有文字，请回答“没有可见文字”。不要重复之前已经提到过的文字。"
)


def chunk_texts(tokenizer, first: bool, times: Sequence[float] = ()) -> list[list[int]]:
    """Token ids of the texts of a chunk; the `first` of a stream begins with the system turn.

    Without `times` there are two, before and after the frames. With the `times` in seconds of its temporal grids there is one
    before each grid, with its time as Qwen3-VL's processor writes it, and one after the last.
    """
    system = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n" if first else ""
    stamps = [f"<{time:.1f} seconds>" for time in times] or [""]
    begins = [f"{system}<|im_start|>user\n", *["<|vision_end|>"] * (len(stamps) - 1)]
    texts = [f"{begin}{stamp}<|vision_start|>" for begin, stamp in zip(begins, stamps, strict=True)]
    return [tokenize(tokenizer, text) for text in (*texts, "<|vision_end|><|im_end|>\n")]


def question_tokens(tokenizer, question: str) -> list[int]:
    """Token ids of the user turn that asks `question`, and of the beginning of the answer's turn.

    Special tokens written in the question, such as `<|im_end|>`, stay text: none of them ends a turn.
    """
    before, after = tokenize(tokenizer, "<|im_start|>user\n"), tokenize(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    return [*before, *plain_tokens(tokenizer, question), *after]


def tokenize(tokenizer, text: str) -> list[int]:
    """Token ids of `text`, in which special tokens are special."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def plain_tokens(tokenizer, text: str) -> list[int]:
    """Token ids of `text` without any added token: where its text stands in `text`, it is split behind its first character."""
    added = tokenizer.get_added_vocab()
    names = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
    cuts = [found.start() + 1 for found in re.finditer(f"(?={names})", text)] if added else []
    parts = [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [token for part in parts if part for token in tokenize(tokenizer, part)]

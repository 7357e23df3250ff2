"""Texts of the data (answers, subtitles, file names, parameters) as they are shown: nothing in them acts as a command."""

import html
import unicodedata

# Control, format and surrogate characters, line and paragraph separators.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that belong to ordinary text: soft hyphen, zero width space and joiners, marks of direction, word joiner.
HARMLESS = frozenset("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")


def printable(text: str, keep: str = "") -> str:
    r"""`text` with every character that has no picture of its own as an escape, such as `\x00`, `\n` or `\u202e`.

    These are control characters, line breaks, characters that change the direction of writing, and bytes of a file name that
    are not UTF-8. keep: characters that stay, such as "\n".
    """
    hidden = (unicodedata.category(c) in HIDDEN and c not in HARMLESS and c not in keep for c in text)
    return "".join(_escape(c) if hide else c for c, hide in zip(text, hidden, strict=True))


class Paragraph(str):
    """A text that Jupyter shows as a paragraph exactly as it is written, without reading HTML, Markdown or formulas in it."""

    def _repr_html_(self) -> str:
        shown = html.escape(printable(self, keep="\n"))
        return f'<p class="tex2jax_ignore mathjax_ignore" style="white-space: pre-wrap">{shown}</p>'

    def __repr__(self) -> str:
        return printable(self, keep="\n")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

"""What a file holds, made safe to be shown: in a terminal, in CSV and in Markdown."""

import html
import re


def printable(text, kept="\n\t"):
    """Return `text` with what a terminal would obey, control characters and the like, as escapes.

    Args:
        text: String, or what becomes one.
        kept: String of characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def csv_cell(value):
    """Return a value for a CSV file; before a text that a spreadsheet would compute, a quote."""
    if not isinstance(value, str):
        return value
    text = printable(value, kept="")
    return f"'{text}" if text.lstrip(" ")[:1] in tuple("=+-@") else text


def markdown_cell(value):
    """Return a text for a line of Markdown, in which it stays text: no HTML, link or table."""
    text = html.escape(printable(value, kept=""), quote=False)
    return re.sub(r"([\\`*|\[\]])", r"\\\1", text)

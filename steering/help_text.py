"""help_text: the help that tyro prints, made to fit the terminal."""

import re
import textwrap

FRAME = ("╭", "│", "╰")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def help_text(printed: str, width: int) -> str:
    """`printed` with the lines outside of frames, which tyro leaves as long as they are, cut at `width` columns.

    An example goes on after a backslash, so that it can be copied whole; a list of verbs that is wider than the
    terminal is left to the frame below it.
    """
    return "\n".join(_cut(line, width) for line in printed.split("\n"))


def _cut(line: str, width: int) -> str:
    plain = COLOUR.sub("", line)
    if len(plain) <= width or plain.startswith(FRAME):
        return line
    if plain.startswith("usage:"):
        return re.sub(r"\{[a-z,-]+\}", "VERB ...", line)
    if plain.startswith("Example:"):
        kept = textwrap.wrap(line, width - 2, break_long_words=False, break_on_hyphens=False, subsequent_indent="    ")
        return " \\\n".join(kept)
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)

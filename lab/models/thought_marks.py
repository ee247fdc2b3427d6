"""With which marks families of models open and close a thought."""

import re

_NAMES = r"think(?:ing)?|thoughts?|reasoning|scratchpad"
OPENS = re.compile(
    rf"[<◁]\|?(?:\w+:)?(?:{_NAMES})(?:\s[^<>\n]{{0,40}})?\|?[>▷](?![ \t]tags?\b)|\[(?:{_NAMES})\]"
    rf"|<\|(?:begin|start)_(?:of_)?(?:{_NAMES})\|>|<\|channel>thought\b"
    # gpt-oss thinks in all channels but the last; decoded without special tokens, their names stand in the text.
    r"|<\|channel\|>(?:analysis|commentary)\b"
    r"|\A\s*(?-i:(?:analysis|commentary)(?=[^\s.,:;!?'’-]|\.\.|…|\s+[A-Z]))",
    re.IGNORECASE,
)
CLOSES = re.compile(
    rf"[<◁]\|?/\|?(?:\w+:)?(?:{_NAMES})\s?\|?[>▷]|\[/(?:{_NAMES})\]|<\|end_(?:of_)?(?:{_NAMES})\|>|<channel\|>"
    r"|<\|channel\|>final\b(?:[^<\n]{0,40}<\|constrain\|>)?[^<\n]{0,40}<\|message\|>|(?-i:assistantfinal)",
    re.IGNORECASE,
)

r"""What of a completion may hold its answer: the first turn, behind its thinking, up to where it runs on."""

import re

_NAMES = r"think(?:ing)?|thoughts?|reasoning"
_OPENS = re.compile(
    rf"[<◁](?:\w+:)?(?:{_NAMES})[>▷]|\[(?:{_NAMES})\]|<\|(?:begin|start)_(?:of_)?(?:{_NAMES})\|>|<\|channel>thought\b"
    # gpt-oss thinks in all channels but the last; decoded without special tokens, their names stand in the text.
    r"|<\|channel\|>(?:analysis|commentary)\b|\A\s*(?-i:analysis)(?=[^\s.,:;!?'’-])",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"[<◁]/(?:\w+:)?(?:{_NAMES})[>▷]|\[/(?:{_NAMES})\]|<\|end_(?:of_)?(?:{_NAMES})\|>|<channel\|>"
    r"|<\|channel\|>final\b(?:[^<\n]{0,40}<\|constrain\|>)?[^<\n]{0,40}<\|message\|>|(?-i:assistantfinal)",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<[|｜][^<>\s]{1,40}[|｜]>|</s>|<end_of_turn>|<eos>")
_TURN_ENDS = re.compile(
    r"<[|｜](?:im_end|endoftext|end_of_text|eot_id|return|end▁of▁sentence)[|｜]>|</s>|<end_of_turn>|<eos>"
    r"|<[|｜](?:im_start|start_header_id|start)[|｜]>\s*(?:user|human)\b|<[|｜]user[|｜]>|<start_of_turn>user\b|\[INST\]"
    r"|(?-i:\n(?:user|human)[ \t]*(?=\n))",
    re.IGNORECASE,
)
_PROMPT_TURNS = re.compile(
    r"\s*(?:(?:<[|｜][^<>\s]{1,40}[|｜]>|<s>|<bos>|<start_of_turn>)\s*)*(?:\[INST\]|<[|｜]user[|｜]>|(?:system|user)\b"
    r"(?:<\|end_header_id\|>)?\s*\n)",
    re.IGNORECASE,
)
_ANSWER_TURN = re.compile(
    r"<[|｜](?:im_start|start_header_id|start)[|｜]>assistant(?:<\|end_header_id\|>)?|<[|｜]assistant[|｜]>|\[/INST\]"
    r"|<start_of_turn>model\b|\nassistant[ \t]*\n",
    re.IGNORECASE,
)
_LINE = r"(?:\n|\A)[ \t>*_\[]*(?:#{1,6}[ \t]*[*_]*)?"
_RUN_ON = re.compile(
    rf"{_LINE}(?:"
    r"(?:(?:New|Next|Another|Similar|Practice|Follow-up) )?"
    r"(?:[Qq]uestion|QUESTION|[Pp]roblem|PROBLEM|Exercise|EXERCISE|Q)"
    r"[ \t]*(?:#?[ \t]*[0-9]+[*_\]]*(?:[.:：)]|[ \t]*(?=\n|$))|[*_\]]*[:：])|(?:Answer|Solve) the following\b"
    r"|(?:Example|EXAMPLE) #?[0-9]+[*_\]]*[.:]|(?:问题|题目|例题?)[ \t]*[0-9]*[:：]"
    r"|(?:Human|HUMAN|User|USER|Student)[*_\]]*:|You are an? (?:AI|helpful)\b"
    r"|(?<=[#*\[])[ \t]*(?:Instruction|Question|Problem|Exercise|Input|User|Human)s?[ \t]*[0-9]*[*_\]]*:?"
    r"[ \t]*(?=\n|$))"
    rf"|{_LINE}(?<=[# ])Instructions?:",
)
_HASHED = re.compile(r"(?<=[^\n])\n####[ \t]*[-$]{0,2}[0-9][0-9,./]*%?[ \t]*(?=\n|$)")
"""How a worked example ends: its answer on a line of its own, right below the work."""


def behind_thought(text: str) -> str | None:
    """What the first turn of a completion says behind its thinking; None where the thinking never ends.

    Where the text begins with the prompt's own turns, the first turn is the assistant's behind them.
    """
    text = _first_turn(text)
    closed = list(_CLOSES.finditer(text))
    if not closed and _OPENS.search(text):
        return None
    # Behind the answer, thinking may begin again.
    part = _OPENS.split(text[closed[-1].end() :] if closed else text)[0]
    said = [piece for piece in _SPECIAL.split(part) if piece.strip() not in ("", "assistant")]
    return said[0] if said else ""


def _first_turn(text: str) -> str:
    asked = _PROMPT_TURNS.match(text)
    if asked and (turn := _ANSWER_TURN.search(text, asked.end() - 1)):
        text = text[turn.end() :]
    said = re.search(r"\S", text)
    ended = next((end.start() for end in _TURN_ENDS.finditer(text) if said and end.start() > said.start()), None)
    return text[:ended]


def without_marks(text: str) -> str:
    """`text` with its thinking in the open: it may be read as if it were said."""
    return _CLOSES.sub("\n", _OPENS.sub("\n", text))


def run_ons(text: str) -> list[int]:
    """Where lines begin with the mark of a question or of a user's turn; 0 is the beginning of the text itself."""
    return [found.start() for found in _RUN_ON.finditer(text)]


def second_example(text: str) -> int | None:
    """Where the first of two worked examples ends that both close with a line of `####`; None without two."""
    ends = [found.end() for found in _HASHED.finditer(text)]
    return ends[0] if len(ends) > 1 else None

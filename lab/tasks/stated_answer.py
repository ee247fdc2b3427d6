r"""The answer that a text states: behind its thinking, up to where it runs on, in a box or formula or plain words."""

import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from lab.models.thought_marks import CLOSES, OPENS

_SPECIAL = re.compile(r"<[|｜][^<>\s]{1,40}[|｜]>|</s>|<end_of_turn>|<eos>")
_TURN_ENDS = re.compile(
    r"<[|｜](?:im_end|endoftext|end_of_text|eot_id|return|end▁of▁sentence)[|｜]>|</s>|<end_of_turn>|<eos>"
    r"|<[|｜](?:im_start|start_header_id|start)[|｜]>\s*(?:user|human)\b|<[|｜]user[|｜]>|<start_of_turn>user\b|\[/?INST\]|\n<s>"
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
_HEAD = r"(?:Question|Problem|Exercise|Example|Task)"
_HEADING = re.compile(
    r"\n[ \t]*\n(?:(?:[^\w\n]|[0-9]\. |\\(?:(?:sub)*section\*?|textbf)\{){0,20}"
    rf"(?:(?:Next|New|Another|Additional|Similar|Practice) )?{_HEAD}(?:[^\w\n]{{0,4}}[0-9]+)?"
    r"[^\w\n(]{0,8}(?:\([^()\n]{0,80}\))?[^\w\n]{0,8}(?:$|(?<=: ))"
    rf"|[#* \t]{{0,20}}(?<=[#* ]){_HEAD} [0-9]+\b"
    r"|[^\w\n]{0,20}(?:Now, (?:solve|answer|try) (?:the following|this one)\b|Your turn\b"
    rf"|Here(?:'s| is) another (?:one|{_HEAD})\b))",
    re.IGNORECASE | re.MULTILINE,
)
"""The head of a problem, behind an empty line; where an answer is stated before it, that of another problem."""
_HASHED = re.compile(r"(?<=[^\n])\n####[ \t]*[-$]{0,2}[0-9][0-9,./]*%?[ \t]*(?=\n|$)")
"""How a worked example ends: its answer on a line of its own, right below the work."""


def behind_thought(text: str) -> str | None:
    """What the first turn of a completion says behind its thinking; None where the thinking never ends.

    Where the text begins with the prompt's own turns, the first turn is the assistant's behind them.
    """
    text = _first_turn(text)
    opened, closed = OPENS.search(text), list(CLOSES.finditer(text))
    if opened and (not closed or opened.start() < closed[0].start()) and _runs_on(text[: opened.start()]):
        # Another problem is thought about.
        text, opened, closed = text[: opened.start()], None, []
    if opened and not closed:
        return None
    # Behind the answer, thinking may begin again.
    part = OPENS.split(text[closed[-1].end() :] if closed else text)[0]
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
    return CLOSES.sub("\n", OPENS.sub("\n", text))


def run_ons(text: str) -> list[int]:
    """Where lines begin with the mark of a question or of a user's turn; 0 is the beginning of the text itself."""
    return [found.start() for found in _RUN_ON.finditer(text)]


def second_example(text: str) -> int | None:
    """Where the first of two worked examples ends that both close with a line of `####`; None without two."""
    ends = [found.end() for found in _HASHED.finditer(text)]
    return ends[0] if len(ends) > 1 else None


LONGEST = 500
"""Characters of the longest answer that is read."""

_BOX_PARTS = re.compile(
    r"\\(?:begin)?(?:boxed|fbox)\s*(?:(?P<opens>\{)|(?P<token>[0-9]+|[A-Za-z](?![A-Za-z])))|\\.|[{}]", re.DOTALL
)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_STATED = re.compile(
    r"(?:\b(?:answers?|correct (?:option|choice))(?:\s+to\s[^\n.:]{1,80}?)?[*_]*\s*(?:\b(?:is|are)\b[ \t]*:?|[:=])"
    r"|(?<![a-z] )\bfinal answer[*_]*[ \t]*(?=\n)|(?:答案|故选)(?:是|为|选)?\s*[:：]?)[*_]*[ \t]*"
    # On its line, or on the next that says something.
    r"(?P<value>(?:[\s$*`_.]|\\[\[(])*[^\n]+)",
    re.IGNORECASE,
)
_JUDGED = re.compile(
    r"(?:\s|[*_])*(?:indeed )?(?:(?:in)?correct|right|wrong|valid|reasonable)\b(?=\W*(?:\n|$)|[.,;!?])", re.IGNORECASE
)
"""What follows "answer is" where it is of an answer that stands elsewhere."""
_CONCLUDES = re.compile(r"\\(?:boxed|fbox)\b|\banswers? (?:is|are)\b", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).){1,500})</answer>", re.DOTALL)
_SENTENCE_END = re.compile(
    r"[.!?](?=\s|$)|[;。](?=\s|$)|(?<!\s),?\s(?:because|since|which)\b|,\snot\b|(?<!\s)\s\((?=[a-z]{4})"
)
_DIGITS = r"[0-9]{1,3}(?:(?:,|\{,\}|\\,|,?\\! ?|[ \u00a0\u2009\u202f])[0-9]{3})+(?![0-9])|[0-9]+"
NUMBER = rf"(?:{_DIGITS})(?:\.[0-9]+)?|\.[0-9]+"
"""A number as people write it, with or without marks between its thousands."""
_TWO_PARTS = r"[0-9]+,[0-9]{2}(?![0-9,])|[0-9]+ (?=[1-9][0-9]?/[1-9])[0-9]+"
_NUMBERS = re.compile(rf"(?:(?<![\w.)\]}}])-)?(?:{_TWO_PARTS}|{NUMBER})(?:/[0-9]+(?!\.?[0-9]))?")
_FRACTION = r"-?\\[dtc]?frac\s*(?:\{[^{}]*\}|[0-9])\s*(?:\{[^{}]*\}|[0-9])"
_RELATION = r"\b[A-Za-z]\s*(?:<=|>=|!=|<|>|≤|≥|≠)\s*-?[0-9][0-9./]*[0-9]|\b[A-Za-z]\s*(?:<=|>=|!=|<|>|≤|≥|≠)\s*-?[0-9]"
_POWER = r"(?<![\w.,^])[0-9][0-9.,]*(?:\s?(?:\\times|\\cdot|×|x|\*)\s?10)?\^(?:\{-?[0-9]+\}|-?[0-9]+)"
_FORMULA = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)|(?<![\\0-9])\$([^$\n]+?)(?<!\\)\$"
    rf"|({_FRACTION})|({_RELATION})|({_POWER})",
    re.DOTALL,
)
_N_MARKS = 4
"""Of its alternatives, those that are between marks."""
_GLUE = re.compile(
    r"(?:[\s,;$&]|\\[\[\]()]|\\q?quad\b|\\(?:text|mbox|textrm)\s*\{[^{}]*\}|\b(?:and|or)\b)*", re.IGNORECASE
)
_MARKUP = re.compile(r"</?(?:[biup]|em|strong|span|div|center|h[1-6]|li|[uo]l|t[dr]|br)(?:\s[^<>]{0,80})?/?>")
_NOT_BARE = re.compile(r"\\boxed|^[^A-Za-z]*[0-9)]\s*=|\w\s*[:：]\s|(?<!\\)[.!?。]\s|[\u4e00-\u9fff]{2}")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname|begin|end)\s*\{[^{}]*\}")
_LEADS = {"solution", "answer", "sure", "okay", "ok", "certainly", "given", "explanation", "reasoning", "response", ""}
"""What may stand alone before a problem that is stated once more."""
_ANSWERS = re.compile(r"[^\w\\]*(?:[0-9\\]|[A-Za-z]\s*=|[A-Za-z]+\W*$|[\u4e00-\u9fff])")
"""What follows "answer is" where an answer does, and not a sentence about it."""
_AT_ONCE = re.compile(
    rf"(?!\s*[01][.)][ \t]+\S)[\s*$\\=]*-?(?:{NUMBER})(?:/[0-9]+)?(?:\\?%)?[*$]*"
    r"(?:(?=,\s[^0-9])|(?: [A-Za-z]+)?[*$]*(?=\s*\n|\s*$|[.;!](?:\s|$)))"
)
"""A text that opens with a number, alone or before one word, and then ends its line, sentence or clause; no list."""
_CONNECTIVES = {"answer", "so", "thus", "hence", "then", "therefore", "is"}
MAGNITUDES = re.compile(
    r"[万亿千百]|\b(?:not|half|hundred|thousand|million|billion|trillion|dozens?|or|and|minus|negative|squared|cubed|"
    r"factorial|(?:less|more|fewer|greater|smaller) than)\b"
)
"""Words that make another number of the one that they stand beside."""


class Stated(NamedTuple):
    """An answer and where it stood."""

    answer: str
    """Tidied."""
    read_by: str
    """box, hashes, stated (behind "answer is"), whole (the text is nothing else), formula (the last one), number."""


def stated_answer(text: str) -> Stated | None:
    r"""The final answer of `text`, or None; never raises.

    Only what stands behind a closed block of thinking counts, and where such a block is never closed there is no
    answer; nor does what it goes on with behind its answer, such as a question of its own. The first rule that finds
    something decides: the last `\boxed{}`, with those that no more than "and" or a comma joins to it; what follows the
    last `####` on its line; what follows the last "answer is" or "Answer:" (in its sentence, or on the next line) or
    stands in `<answer>`; the whole text, if it is an answer and nothing else; the last formula or the last number,
    whichever ends later.
    """
    part = behind_thought(text)
    if part is None:
        return None
    part = _MARKUP.sub(" ", before_run_on(part))
    part = re.sub(r"^```\w*$", "", part.replace("\u2212", "-"), flags=re.MULTILINE)
    hashes = [found for found in _HASHES.findall(part) if tidied(found)]
    stated = [found[1] for found in _TAGGED.finditer(part) if tidied(found[1])]
    said = [found["value"] for found in _STATED.finditer(part) if tidied(found["value"])]
    stated = stated or [value for value in said if not _JUDGED.match(value)] or said
    rules = (
        ("box", lambda: ", ".join(last_boxes(part))),
        ("hashes", lambda: hashes[-1] if hashes else ""),
        ("stated", lambda: _value(stated[-1]) if stated else ""),
        ("whole", lambda: _whole(part) if _is_bare(part) else ""),
        ("formula", lambda: _last_formula(part)),
        ("number", lambda: next(reversed(_NUMBERS.findall(part)), "")),
    )
    return next((Stated(answer, name) for name, find in rules if (answer := tidied(find())) is not None), None)


def before_run_on(text: str) -> str:
    """`text` up to where, behind an answer, it goes on with a problem of its own.

    An answer that is not said to be one, the last number so far, may be a step of the work: it is taken for an answer
    before an empty line, never in a text that begins with the problem, and never where of all problems behind it just
    one ends in a box or "answer is": they are headings of one work.
    """
    marks, end, heads = run_ons(text), second_example(text), [found.start() for found in _HEADING.finditer(text)]
    if not marks and not heads and end is None:
        return text
    restated = bool(marks) and marks[0] <= len(text) - len(text.lstrip())
    head = text[: marks[0]] if marks else ""
    if (
        not restated
        and _is_bare(head)
        and head.strip("*_ \n").lower() not in _LEADS
        and not head.rstrip().endswith(":")
    ):
        return head
    plain = _first_end(text, lambda said: tidied(said) is not None)
    cuts = [mark for mark in [*marks, *heads] if plain is not None and mark >= plain - 1]
    number = next((found.end() for found in (_NUMBERS.search(text), _FORMULA.search(text)) if found), None)
    if number is not None and not restated:
        behind = [mark for mark in marks if mark >= number]
        parts = [text[mark:end] for mark, end in zip(behind, [*behind[1:], None], strict=False)]
        if sum(_CONCLUDES.search(part) is not None for part in parts) != 1:
            cuts += [mark for mark in behind if text[max(0, mark - 2) : mark].rstrip(" \t").endswith("\n")]
    return text[: min([*cuts, len(text) if end is None else end])]


def _runs_on(text: str) -> bool:
    """Whether it plainly states an answer and goes on with a problem."""
    return _first_end(text, lambda said: tidied(said) is not None) is not None and before_run_on(text) != text


def first_answer(text: str) -> int | None:
    r"""One behind the first answer that a text states plainly, outside or inside a thought; None if it states none.

    That is a `\boxed{}` with those joined to it, a line of `####`, an `<answer>`, or "answer is" before a number, a
    formula, a letter or a single word; outside a thought also whatever stands before a run-on, and a number with which
    the text opens and then leaves off ("24, which is", "24 pens.").
    """
    if (at_once := _AT_ONCE.match(text)) is not None:
        return at_once.end()
    plain, part = _first_end(text, lambda said: _ANSWERS.match(said) is not None), behind_thought(text)
    cut = len(before_run_on(part)) if part and text.startswith(part) else len(text)
    return min((end for end in (plain, cut) if end is not None and end < len(text)), default=plain)


def _first_end(text: str, is_answer: Callable[[str], bool]) -> int | None:
    ends = [run[-1][1] for run in _box_runs(text)[:1]]
    hashes = (found for found in _HASHES.finditer(text) if _is_bare(found[1]) and re.match(r"\W*[0-9]|\W*\\", found[1]))
    ends += [found.end() for found in islice(hashes, 1)]
    ends += [found.end() for found in _TAGGED.finditer(text) if tidied(found[1])][:1]
    start = 0
    # What is no answer may hold one on its line; the bound keeps a line of nothing else from taking long.
    for _ in range(20):
        if (found := _STATED.search(text, start)) is None:
            break
        start = found.start("value")
        line = next((line for line in found["value"].split("\n") if tidied(line)), "")
        sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
        if sentence and is_answer(sentence):
            ends.append(text.index(line, start) + len(sentence))
            break
    return min(ends, default=None)


def last_boxes(text: str) -> list[str]:
    r"""The contents of the last box that is closed and not empty, and of those before it with only glue between.

    A box is `\boxed{}` or `\fbox{}`, also of a single digit run or letter without braces; of nested ones the inner.
    """
    return [content for *_, content in next(reversed(_box_runs(text)), [])]


def _box_runs(text: str) -> list[list[tuple[int, int, str]]]:
    """All boxes that are closed and not empty, as (start, end, content), those with only glue between them together."""
    boxes: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int] | None] = []
    for part in _BOX_PARTS.finditer(text):
        if part["opens"]:
            opened.append((part.start(), part.end()))
        elif part["token"]:
            boxes.append((part.start(), part.end(), part["token"]))
        elif part[0] == "{":
            opened.append(None)
        elif part[0] == "}" and opened and (start := opened.pop()) is not None:
            inner: list[str] = []
            while boxes and boxes[-1][0] > start[0]:
                inner.insert(0, boxes.pop()[2])
            content = ", ".join(inner) or text[start[1] : part.start()]
            if tidied(content):
                boxes.append((start[0], part.end(), content))
    runs: list[list[tuple[int, int, str]]] = []
    for box in boxes:
        if not runs or not _joins(text[runs[-1][-1][1] : box[0]]):
            runs.append([])
        runs[-1].append(box)
    return runs


def tidied(answer: str) -> str | None:
    """`answer` without the space, Markdown emphasis, dollar signs and full stop around it; None if nothing is left."""
    # Wrappings nest a few deep in real text; the bound keeps a text of nothing else from taking long.
    for _ in range(8):
        answer = answer.strip().removesuffix(".").removesuffix("。")
        for opens, closes in ((r"\(", r"\)"), (r"\[", r"\]")):
            answer = answer.removeprefix(opens).removesuffix(closes)
        answer = answer.removeprefix(r"\$").strip("$*`_")
    return answer.strip() or None


def _joins(between: str) -> bool:
    return _GLUE.fullmatch(between) is not None and "\n\n" not in between


def _value(said: str) -> str:
    """The answer in what follows "answer is": on its own line if there is something, else on the next."""
    line = next(line for line in said.split("\n") if tidied(line))
    # "The answer: the largest n is 34. I hope it is correct."
    clause = re.split(r"\s(?:is|are)[\s:]+(?=\S)", _SENTENCE_END.split(line, maxsplit=1)[0])[-1].rstrip(" :")
    formulas = list(_FORMULA.finditer(clause))
    around = re.search(r"[-+*/^=\\0-9]", _FORMULA.sub("", clause))  # It may belong to one without marks.
    if formulas and ((formulas[0].lastindex or 0) <= _N_MARKS or not around):
        return _runs(clause, formulas)[0]
    return _lone_number(clause)


def _whole(text: str) -> str:
    """A bare answer; of formulas in their marks and nothing else, what is in them."""
    formulas = list(_FORMULA.finditer(text))
    if not formulas or any((formula.lastindex or 0) > _N_MARKS for formula in formulas):
        return text
    around = text[: formulas[0].start()], text[formulas[-1].end() :].strip(" .")
    runs = _runs(text, formulas)
    return runs[0] if len(runs) == 1 and all(map(_joins, around)) else text


def _last_formula(text: str) -> str:
    formulas, numbers = list(_FORMULA.finditer(text)), list(_NUMBERS.finditer(text))
    if not formulas or (numbers and numbers[-1].end() > formulas[-1].end()):
        return ""
    return _runs(text, formulas)[-1]


def _runs(text: str, formulas: Sequence[re.Match[str]]) -> list[str]:
    """The formulas, those with only glue between them as one list."""
    runs: list[list[str]] = []
    end = 0
    for formula in formulas:
        content = next(group for group in formula.groups() if group is not None)
        if not runs or not _joins(text[end : formula.start()]):
            runs.append([])
        runs[-1].append(content)
        end = formula.end()
    return [", ".join(run) for run in runs]


def _is_bare(text: str) -> bool:
    """Whether a text is an answer and nothing else: one short line without prose, a unit apart."""
    text = text.strip()
    if len(text) > LONGEST or "\n" in text or _NOT_BARE.search(text):
        return False
    outside = re.sub(r"\\[A-Za-z]+|\b(?:sqrt|sin|cos|tan|log|exp|pi|and|or)\b", " ", _WRAPPED.sub(" ", text))
    prose = re.findall(r"[A-Za-z]{2,}", _FORMULA.sub(" ", outside))
    leads_on = re.search(r"[A-Za-z]{2,}\W*\s-?[0-9]", outside) or {word.lower() for word in prose} & _CONNECTIVES
    return len(prose) <= 1 and not leads_on


def _lone_number(clause: str) -> str:
    """The number of a clause that is one number among plain words, else the clause."""
    numbers = _NUMBERS.findall(clause)
    words = _NUMBERS.sub(" ", clause)
    plain = re.fullmatch(r"[A-Za-z\s$€£¢,'*\u4e00-\u9fff]*", words)
    glued = re.search(r"[0-9](?!st|nd|rd|th)(?:[A-Za-z]| [xyznki]\b)", clause)
    if len(numbers) == 1 and plain and not glued and not MAGNITUDES.search(words.lower()):
        return numbers[0]
    return clause

"""Conversations written as one text: with the marks that the field's chat templates write between turns, or with the
names of those who speak."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from soldiom_ray.collect.documents.infill import HEADS as INFILL_HEADS
from soldiom_ray.collect.documents.tool_calls import parsed_json

_HEADS = (
    *INFILL_HEADS,
    *("\n\nHuman:", "Human:", "### Human", "### User", "### Instruction", "### System", "### Question", "### Prompt"),
    *(
        "[INST]",
        "<s>[INST]",
        "<s> [INST]",
        "[SYSTEM_PROMPT]",
        "<s>[SYSTEM_PROMPT]",
        "[gMASK]",
        "[|Human|]",
        "[|system|]",
    ),
    *("<|im_start|>", "<s><|im_start|>", "<|start_header_id|>", "<|begin_of_text|>", "<|user|>", "<|system|>"),
    *("<s><|user|>", "<s><|system|>", "<|prompter|>", "<|endoftext|>", "<|header_start|>", "<|start|>"),
    *("<start_of_turn>", "<bos><start_of_turn>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<BOS_TOKEN>"),
    *("<|START_OF_TURN_TOKEN|>", "<|start_of_role|>", "GPT4 ", "Instruct:"),
    *("USER:", "SYSTEM:", "HUMAN:", "BEGINNING OF CONVERSATION:", "The conversation between human"),
    *("Below is an instruction", "A chat between a"),
    *("<|assistant|>", "<｜Assistant｜>", "### Response:", "### Assistant", "### Answer", "Assistant:", "ASSISTANT:"),
)
"""How such texts begin; looked at first, because most texts are no transcripts."""
_HEADS_BY_FIRST = {first: tuple(head for head in _HEADS if head[0] == first) for first in {head[0] for head in _HEADS}}
_ENDS = (
    *("</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>", "<|endoftext|>"),
    *("<|end_of_text|>", "<eos>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|end_of_turn|>"),
)
_ASKS_FOR_ANSWER = (
    *("[/INST]", "<|im_start|>assistant", "<|end_header_id|>", "<|header_end|>", "<|assistant|>", "<|start|>assistant"),
    *("<start_of_turn>model", "<｜Assistant｜>", "<|CHATBOT_TOKEN|>", "<|end_of_role|>", "[|AI|]", "[|assistant|]"),
    *("### Response:", "### Assistant:", "### Answer:", "ASSISTANT:", "\nAssistant:", "<think>", "<|im_sep|>"),
    *("GPT4 Correct Assistant:", "\nOutput:"),
)
_TAILS = (*_ASKS_FOR_ANSWER, *_ENDS)
_TAILS_BY_LAST = {last: tuple(tail for tail in _TAILS if tail[-1] == last) for last in {tail[-1] for tail in _TAILS}}
REMAINING_MARKS = (
    "<|im_",
    "<|start_",
    "<|end_",
    "<|eot_",
    "<|user|>",
    "<|assistant|>",
    "[INST]",
    "[/INST]",
    "_of_turn>",
)
"""What none of a conversation's texts should hold; it is counted where one does."""

_TURN_MARKS = ("<|", "<｜", "INST]", "###", "_of_turn>", "[|", "ssistant:", "SSISTANT:", "GPT", "Output:")
"""One of them stands in every transcript that is rendered."""
_RAREST_SIGNS = "|｜]#>|:SGO"
"""A character of each that most texts lack: one is found thirty times as fast as several in a row."""

_HUMAN = re.compile(r"(?:^|\n\n)(Human|Assistant|System):")
"""The form of the HH-RLHF pairs (Bai et al. 2022)."""
_HASHES = re.compile(
    r"\s*###\s*(Human|User|Assistant|GPT|System|System Prompt|Instruction|Input|Response|Question|Answer|Prompt):\s*"
)
_CAPITALS = re.compile(r"(?:^|\s|</s>)(USER|HUMAN|ASSISTANT|GPT|SYSTEM|FUNCTION RESPONSE):(?:\s|$)")
_BRACKETS = re.compile(r"\s*\[\|(Human|AI|system|user|assistant)\|\]\s*")
_SENTENCES = re.compile(r"(?:^|\n\n|<｜(?:begin|end)▁of▁sentence｜>)(User|Assistant):\s*")
"""DeepSeek's former form."""
_LINES = re.compile(r"(?:^|\n)(User|Human|Assistant|System):[ \t]*")
_OPENCHAT = re.compile(r"(?:^|<\|end_of_turn\|>)\s*(?:GPT4 Correct |GPT4 |Code )(User|Assistant):\s*")
_PHI = re.compile(r"(?:^|\n)(Instruct|Output):[ \t]*")
_LABELS = (_HUMAN, _HASHES, _CAPITALS, _BRACKETS, _OPENCHAT, _SENTENCES, _LINES, _PHI)
_TAGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<\|im_start\|>\s*(\w+)(?:\n|<\|im_sep\|>|$)(.*?)(?:<\|im_end\|>|$)",
        r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>(.*?)(?:<\|eot_id\|>|<\|eom_id\|>|$)",
        r"<\|header_start\|>(\w+)<\|header_end\|>(.*?)(?:<\|eot\|>|<\|eom\|>|$)",
        r"<\|start_of_role\|>(\w+)<\|end_of_role\|>(.*?)(?:<\|end_of_text\|>|$)",
        r"<\|START_OF_TURN_TOKEN\|><\|(\w+)_TOKEN\|>(.*?)(?:<\|END_OF_TURN_TOKEN\|>|$)",
        r"<｜(User|Assistant)｜>(.*?)(?:<｜end▁of▁sentence｜>|(?=<｜(?:User|Assistant)｜>)|$)",
        r"<start_of_turn>(\w+)\n?(.*?)(?:<end_of_turn>|$)",
        r"<\|start\|>(\w+)(?:<\|channel\|>(?:analysis|commentary|final))?(?:<\|message\|>|$)(.*?)(?:<\|end\|>|<\|return\|>|$)",
        r"<\|(user|prompter|assistant|system|observation)\|>\s*"
        r"(.*?)(?:</s>|<\|end\|>|<\|endoftext\|>|(?=<\|(?:user|prompter|assistant|system|observation)\|>)|$)",
    )
)
_CHANNEL = re.compile(r"<\|channel\|>(\w+)<\|message\|>")
_INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:<s>\s*)?\[INST\]|$)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_BRACKET_SYSTEM = re.compile(r"\[SYSTEM_PROMPT\](.*?)\[/SYSTEM_PROMPT\]", re.DOTALL)
_TOOLS = re.compile(r"\[AVAILABLE_TOOLS\](.*)\[/AVAILABLE_TOOLS\]", re.DOTALL)
_NO_WORDS = re.compile(
    r"<s>|</s>|<bos>|<BOS_TOKEN>|\[gMASK\]|<sop>|<\|begin_of_text\|>|<\|endoftext\|>|<\|end_of_text\|>|<\|end\|>"
    r"|<｜(?:begin|end)▁of▁sentence｜>|<\|im_end\|>|<\|return\|>"
)
"""Marks between turns."""
_END = re.compile(r"\s*(?:{})\s*$".format("|".join(map(re.escape, _ENDS))))
_ANSWER_HEAD = re.compile(
    r"\s*(?:<\|im_start\|>assistant\n|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model\n"
    r"|<\|assistant\|>|<｜Assistant｜>|###\s*(?:Response|Assistant|Answer):|(?:\n\n|^)Assistant:|ASSISTANT:)\s*"
)
_ROLES = {
    **dict.fromkeys(("human", "instruction", "instruct", "prompter", "q", "question", "prompt"), "user"),
    **dict.fromkeys(
        ("ai", "response", "gpt", "model", "chatbot", "bot", "a", "answer", "completion", "output"), "assistant"
    ),
    **dict.fromkeys(("function response", "observation", "ipython"), "tool"),
    **dict.fromkeys(("developer", "system prompt"), "system"),
}
_FAMILIES = (
    ("user|human", "assistant|ai|bot|gpt|chatgpt|model|chatbot", "system"),
    ("q", "a", ""),
    ("question", "answer", ""),
    ("instruction", "response|output|answer", "input"),
    ("prompt", "completion|response", ""),
    ("customer|client|caller", "agent|support|representative|assistant|advisor|operator|bot", ""),
    ("patient", "doctor|physician|nurse|therapist|counselor|assistant", ""),
    ("client", "therapist|counselor|lawyer", ""),
    ("student", "teacher|tutor|assistant", ""),
)
"""(who asks, who answers, who else has a turn) in texts that only name their speakers."""
_NAMED = r"(?:^|\n)[ \t]*(?:\*\*|__)?({})(?:\*\*|__)?[ \t]*:(?:\*\*|__)?[ \t]*"

Turns = list[dict[str, Any]]


def transcript_turns(text: str) -> Turns | None:
    """The turns of a transcript that begins as one, [{role, content}, ...]; None for other texts. A last turn without
    words, up to where an answer begins, is left out."""
    heads = _HEADS_BY_FIRST.get(text[:1])
    return _turns(text) if heads and text.startswith(heads) else None


def rendered_turns(text: str) -> Turns | None:
    """The turns of a transcript, or of a prompt that a chat template rendered, whatever stands before its first
    mark."""
    return _turns(text) if may_be_rendered(text) or may_be_rendered(text.rstrip()) else None


def may_be_rendered(text: str) -> bool:
    """Whether a text begins or ends with marks of a chat template: asked of millions of texts."""
    heads, tails = _HEADS_BY_FIRST.get(text[:1]), _TAILS_BY_LAST.get(text[-1:])
    return (heads is not None and text.startswith(heads)) or (tails is not None and text.endswith(tails))


def holds_turn_marks(text: str) -> bool:
    """Whether a text holds one of the marks that stand in every rendered transcript."""
    return any(sign in text and mark in text for sign, mark in zip(_RAREST_SIGNS, _TURN_MARKS, strict=True))


def labelled_turns(text: str) -> Turns | None:
    """The turns of a transcript whose speakers are only named, each at the beginning of a line: "User: ...", "Q: ...".
    For texts that nothing else is known of: in a prompt such lines are what it shows."""
    if ":" not in text or "\n" not in text:
        return None
    for number, (pattern, asking, answering) in enumerate(_named_patterns()):
        if not (pattern.match(text) if number else pattern.search(text)):
            continue
        before, *pieces = pattern.split(text)
        names = {name.lower() for name in pieces[::2]}
        if names & asking and names & answering:
            turns = [_turn(name, said) for name, said in zip(pieces[::2], pieces[1::2], strict=True)]
            return _with_inputs([_turn("system", before), *turns] if before.strip() else turns)
    return None


def answer_words(text: str) -> str:
    """An answer without the marks of a template before and after it."""
    text = _ANSWER_HEAD.sub("", text, count=1) if _ANSWER_HEAD.match(text) else text
    text = without_end(text.strip()).strip()
    is_thought = "</think>" in text and "<think>" not in text  # the prompt ended with the mark
    return f"<think>\n{text}" if is_thought else text


def without_end(text: str) -> str:
    """A text without a template's mark of its end. What crosses something out in HTML, <s>so</s>, stays."""
    if text.endswith("</s>") and "<s>" in text[3:]:
        return text
    shorter = _END.sub("", text)
    return without_end(shorter) if shorter != text else text


@lru_cache(maxsize=1)
def _named_patterns() -> list[tuple[re.Pattern[str], set[str], set[str]]]:
    return [
        (
            re.compile(_NAMED.format("|".join(filter(None, family))), re.IGNORECASE),
            set(family[0].split("|")),
            set(family[1].split("|")),
        )
        for family in _FAMILIES
    ]


def _turns(text: str) -> Turns | None:
    readers: tuple[Callable[[str], Turns], ...] = (_of_tags, _of_instructions, _of_labels)
    turns = next((turns for read in readers if (turns := read(text))), [])
    if turns and turns[-1]["content"] in ("", "<think>") and "tool_calls" not in turns[-1]:
        turns = turns[:-1]
    return turns if any(turn["role"] == "user" for turn in turns) else None


def _of_tags(text: str) -> Turns:
    for pattern in _TAGS:
        turns: Turns = []
        end = 0
        for match in pattern.finditer(text):
            _add_between(turns, text[end : match.start()])
            turn = _turn(match[1], match[2])
            channel = _CHANNEL.search(match[0][: match.start(2) - match.start()])
            turns.append(turn | ({"channel": channel[1]} if channel else {}))
            end = match.end()
        if end:
            _add_between(turns, text[end:])
            return turns
    return []


def _add_between(turns: Turns, text: str) -> None:
    """Words between turns belong to the one before them; before the first they are the system's."""
    words = _NO_WORDS.sub("", text).strip()
    if words and turns:
        turns[-1]["content"] = f"{turns[-1]['content']}\n{words}".strip()
    elif words:
        turns.append(_turn("system", words))


def _of_instructions(text: str) -> Turns:
    """Llama 2's and Mistral's form; the system's text stands in the first instruction, or before it."""
    turns: Turns = []
    for number, match in enumerate(_INST.finditer(text)):
        asked, answered = match.groups()
        before = text[: match.start()] if number == 0 else ""
        before = _NO_WORDS.sub("", _BRACKET_SYSTEM.sub(r"\1", before)).strip()
        if tools := _TOOLS.search(before):
            turns.append({"role": "system", "content": "", "tools": tools[1]})
            before = before.replace(tools[0], "").strip()
        if before:
            turns.append(_turn("system", before))
        if system := _SYSTEM.match(asked):
            turns.append(_turn("system", system[1]))
            asked = asked[system.end() :]
        turns += [_turn("user", asked), *_answers(answered)]
    return turns


def _answers(text: str) -> Iterator[dict[str, Any]]:
    """Mistral's calls and their results stand in what follows an instruction."""
    called, _, rest = text.partition("[TOOL_RESULTS]")
    words, _, calls = called.partition("[TOOL_CALLS]")
    turn = _turn("assistant", words)
    written = parsed_json(without_end(calls.strip()).strip()) if calls else None
    if isinstance(written, list):
        turn |= {"tool_calls": written}
    elif calls:
        turn["content"] = f"{turn['content']}\n{calls}".strip()
    yield turn
    if rest:
        result, _, after = rest.partition("[/TOOL_RESULTS]")
        yield _turn("tool", result)
        yield from _answers(after)


def _of_labels(text: str) -> Turns:
    """Labels before each turn; what stands before the first label describes the rest and is a system turn."""
    for pattern in _LABELS:
        before, *pieces = pattern.split(text)
        if len(pieces) < 2 or (pattern in (_HUMAN, _SENTENCES) and len(pieces) == 2 and "\nAssistant:" in text):
            continue
        turns = [_turn(role, content) for role, content in zip(pieces[::2], pieces[1::2], strict=True)]
        turns = _with_inputs(turns)
        if not any(turn["role"] == "user" for turn in turns):
            continue
        before = _NO_WORDS.sub("", before).strip().removesuffix("BEGINNING OF CONVERSATION:").strip()
        return [_turn("system", before), *turns] if before else turns
    return []


def _with_inputs(turns: Turns) -> Turns:
    """Alpaca's input belongs to the instruction before it."""
    joined: Turns = []
    for turn in turns:
        if turn["role"] == "input" and joined:
            joined[-1] = joined[-1] | {"content": f"{joined[-1]['content']}\n\n{turn['content']}".strip()}
        else:
            joined.append(turn)
    return joined


def _turn(role: str, content: str) -> dict[str, Any]:
    name = role.strip().lower()
    return {"role": _ROLES.get(name, name), "content": without_end(content.strip()).strip()}

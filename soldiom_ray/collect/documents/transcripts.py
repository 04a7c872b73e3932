"""Conversations written as one text, with the marks of the field's chat formats between their turns."""

import re
from collections.abc import Callable
from typing import Any

_HEADS = (
    *("\n\nHuman:", "Human:", "### Human", "### User", "### Instruction", "<|im_start|>", "<s>[INST]", "[INST]"),
    *(
        "<|start_header_id|>",
        "<|begin_of_text|>",
        "<|user|>",
        "<|system|>",
        "<|prompter|>",
        "<start_of_turn>",
        "<bos><start_of_turn>",
    ),
    *("USER:", "SYSTEM:", "HUMAN:", "BEGINNING OF CONVERSATION:", "[|Human|]", "The conversation between human"),
    *("Below is an instruction", "A chat between a", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<BOS_TOKEN>"),
    *("<|START_OF_TURN_TOKEN|>", "<|start_of_role|>", "[gMASK]"),
)
"""How such texts begin; looked at first, because most texts are no transcripts."""

_HUMAN = re.compile(r"(?:^|\n\n)(Human|Assistant|System):")
"""The form of the HH-RLHF pairs (Bai et al. 2022)."""
_HASHES = re.compile(r"\s*###\s*(Human|User|Assistant|GPT|System|Instruction|Input|Response):\s*")
_CAPITALS = re.compile(r"(?:^|\s)(USER|HUMAN|ASSISTANT|GPT|SYSTEM|FUNCTION RESPONSE):\s")
_BRACKETS = re.compile(r"\s*\[\|(Human|AI)\|\]\s*")
_LABELS = (_HUMAN, _HASHES, _CAPITALS, _BRACKETS)
_TAGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<\|im_start\|>\s*(\w+)\n(.*?)(?:<\|im_end\|>|$)",
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*(.*?)(?:<\|eot_id\|>|<\|eom_id\|>|$)",
        r"<\|start_of_role\|>(\w+)<\|end_of_role\|>(.*?)(?:<\|end_of_text\|>|$)",
        r"<\|START_OF_TURN_TOKEN\|><\|(\w+)_TOKEN\|>(.*?)(?:<\|END_OF_TURN_TOKEN\|>|$)",
        r"<｜(User|Assistant)｜>(.*?)(?:<｜end▁of▁sentence｜>|(?=<｜(?:User|Assistant)｜>)|$)",
        r"<start_of_turn>(\w+)\n(.*?)(?:<end_of_turn>|$)",
        r"<\|(user|prompter|assistant|system)\|>\s*"
        r"(.*?)(?:</s>|<\|end\|>|<\|endoftext\|>|(?=<\|(?:user|prompter|assistant|system)\|>)|$)",
    )
)
_INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:<s>\s*)?\[INST\]|$)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_END = re.compile(r"\s*(?:</s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>)\s*$")
_ROLES = {"human": "user", "instruction": "user", "ai": "assistant", "response": "assistant", "gpt": "assistant"}
_ROLES |= {"prompter": "user", "function response": "tool", "model": "assistant", "chatbot": "assistant"}

Turns = list[dict[str, Any]]


def transcript_turns(text: str) -> Turns | None:
    """The turns of a transcript that begins as one, [{role, content}, ...]; None for other texts. A last turn without
    words, up to where an answer begins, is left out."""
    if not text.startswith(_HEADS):
        return None
    readers: tuple[Callable[[str], Turns], ...] = (_of_tags, _of_instructions, _of_labels)
    turns = next((turns for read in readers if (turns := read(text))), [])
    if turns and not turns[-1]["content"]:
        turns = turns[:-1]
    return turns if any(turn["role"] == "user" for turn in turns) else None


def _of_tags(text: str) -> Turns:
    for pattern in _TAGS:
        if turns := [_turn(role, content) for role, content in pattern.findall(text)]:
            return turns
    return []


def _of_instructions(text: str) -> Turns:
    """Llama 2's and Mistral's form; the system's text stands in the first instruction."""
    turns: Turns = []
    for asked, answered in _INST.findall(text):
        if system := _SYSTEM.match(asked):
            turns.append(_turn("system", system[1]))
            asked = asked[system.end() :]
        turns += [_turn("user", asked), _turn("assistant", answered)]
    return turns


def _of_labels(text: str) -> Turns:
    """Labels before each turn; what stands before the first label describes the rest and is a system turn."""
    for pattern in _LABELS:
        before, *pieces = pattern.split(text)
        if len(pieces) < 2:
            continue
        turns = [_turn(role, content) for role, content in zip(pieces[::2], pieces[1::2], strict=True)]
        turns = _with_inputs(turns)
        before = before.removesuffix("BEGINNING OF CONVERSATION:").strip()
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
    return {"role": _ROLES.get(name, name), "content": _END.sub("", content.strip()).strip()}

"""Calls in a streamed answer: well-formed however the answer is cut into pieces."""

import pytest

from soldiom_ray.api.call_stream import CallStream

ANSWER = (
    'Let me see.\n<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>\n'
    '<tool_call>{"name": "sun"}</tool_call> 3 < 4 <tool_call>no JSON</tool_call><tool_'
)


@pytest.mark.parametrize("size", [1, 2, 7, 40, len(ANSWER)])
def test_calls_are_sent_whole_and_the_words_around_them_as_they_come(size: int) -> None:
    stream = CallStream()
    pieces = [ANSWER[start : start + size] for start in range(0, len(ANSWER), size)]
    events = [event for piece in pieces for event in stream.add(piece)] + list(stream.end())
    calls = [call for event in events for call in event.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "type": "function", "function": {"arguments": {"zone": "UTC"}, "name": "clock"}},
        {"index": 1, "type": "function", "function": {"arguments": {}, "name": "sun"}},
    ]
    text = "".join(event.get("text", "") for event in events)
    assert text == "Let me see.\n\n 3 < 4 <tool_call>no JSON</tool_call><tool_"
    assert all(len(event) == 1 for event in events)

"""Calls in a streamed answer: an event for each, whole, however its arguments arrive."""

from soldiom_ray.api.call_stream import CallEvents, function_call


def test_calls_are_sent_whole() -> None:
    stream = CallEvents()
    parts = [
        {"index": 0, "name": "clock"},
        {"index": 0, "arguments": '{"zone": '},
        {"index": 0, "arguments": '"UTC"}'},
        {"index": 1, "name": "sun"},
        {"index": 1, "arguments": "{}"},
    ]
    events = [[*stream.add(part)] for part in parts]
    first = {"index": 0, "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    assert events == [[], [], [], [{"tool_calls": [first]}], []]
    second = {"index": 1, "type": "function", "function": {"name": "sun", "arguments": {}}}
    assert [*stream.end()] == [{"tool_calls": [second]}] and [*stream.end()] == []
    assert function_call("sun", '{"a": ')["function"]["arguments"] == '{"a": '

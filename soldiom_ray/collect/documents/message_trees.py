"""Trees of messages, as OpenAssistant publishes them, become conversations: at every turn of the assistant the reply
that people ranked best; a reply that several conversations share is taught once."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isnan
from typing import Any

from soldiom_ray.collect.documents.cell_values import as_number
from soldiom_ray.domains.messages import ASSISTANT, USER

_NODE = {"message_id", "parent_id", "text", "role"}
_ROLES = {"prompter": USER, "user": USER, "assistant": ASSISTANT}

Record = dict[str, Any]


def holds_trees(records: Sequence[Any]) -> bool:
    """Whether records are messages that name their parents, or whole trees."""
    first = records[0] if records else None
    if type(first) is dict and "message_id" not in first and "message_tree_id" not in first:
        return False  # nearly all records
    return bool(records) and all(
        isinstance(record, Mapping) and (record.keys() >= _NODE or _is_tree(record)) for record in records
    )


def conversations_of(records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The conversations of all trees, [{messages, message_tree_id, rating}, ...]; `rating` is false for one that ends
    in a reply that was ranked lower or not accepted."""
    trees = [dict(record["prompt"]) | {"tree": record["message_tree_id"]} for record in records if _is_tree(record)]
    return [found for tree in trees or _joined(records) for found in _paths(tree, str(tree["tree"]))]


def _is_tree(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("prompt"), Mapping) and "message_tree_id" in record


def _joined(records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The roots of messages that name their parents, each message with its `replies`. A message whose parent is not
    there begins a tree of its own, as do one whose id another has had, and the first of those that are each other's
    parents."""
    nodes: dict[str, Record] = {}
    roots: list[Record] = []
    for record in records:
        node = dict(record) | {"replies": []}
        if nodes.setdefault(str(record["message_id"]), node) is not node:
            roots.append(_root(node))
    for node in nodes.values():
        parent = nodes.get(str(node["parent_id"]))
        if parent is None or parent is node:
            roots.append(_root(node))
        else:
            parent["replies"].append(node)
    reached: set[int] = set()
    for root in roots:
        _reach(root, reached)
    for node in nodes.values():
        if id(node) not in reached:
            first = _in_circle(node, nodes)
            parent = nodes[str(first["parent_id"])]
            parent["replies"] = [reply for reply in parent["replies"] if reply is not first]
            roots.append(_root(first))
            _reach(first, reached)
    return roots


def _root(node: Record) -> Record:
    node["tree"] = node.get("message_tree_id") or node["message_id"]
    return node


def _reach(node: Mapping[str, Any], reached: set[int]) -> None:
    """Add a message and all below it."""
    pending = [node]
    while pending:
        node = pending.pop()
        reached.add(id(node))
        pending += node["replies"]


def _in_circle(node: Record, nodes: Mapping[str, Record]) -> Record:
    """A user's message in the circle to which the way up from a message comes, or any where there is none."""
    seen: dict[int, Record] = {}
    while id(node) not in seen:
        seen[id(node)] = node
        node = nodes[str(node["parent_id"])]
    above = list(seen.values())
    circle = above[list(seen).index(id(node)) :]
    return next((each for each in circle if _message(each)["role"] == USER), node)


def _paths(root: Mapping[str, Any], tree: str) -> Iterator[Record]:
    """The conversations through a tree, from a user's turn on. A reply that an earlier one of them teaches weighs
    nothing in the others."""
    pending: list[tuple[Mapping[str, Any], list[Record]]] = [(root, [])]
    if _message(root)["role"] == ASSISTANT:  # what it replied to is not there
        pending = _questions(root, [_message(root)])
        if not pending:
            yield {"messages": [_message(root)], "message_tree_id": tree, "rating": True}
    while pending:
        node, before = pending.pop()
        path = [*before, _message(node)]
        replies = sorted(_replies(node), key=_order)
        accepted = [reply for reply in replies if _is_accepted(reply)]
        for reply in replies:
            if not accepted or reply is not accepted[0]:
                yield {"messages": [*_untaught(path), _message(reply)], "message_tree_id": tree, "rating": False}
        if accepted:
            path.append(_message(accepted[0]))
            questions = _questions(accepted[0], path)
            pending += questions
            if questions:
                continue
        if accepted or not replies:
            yield {"messages": path, "message_tree_id": tree, "rating": True}


def _questions(reply: Mapping[str, Any], path: list[Record]) -> list[tuple[Mapping[str, Any], list[Record]]]:
    """The answered questions below a reply, last one first, each with the messages up to it."""
    answered = [question for question in _replies(reply) if _is_accepted(question) and _replies(question)]
    return [(question, _untaught(path) if number else path) for number, question in enumerate(answered)][::-1]


def _message(node: Mapping[str, Any]) -> Record:
    return {"role": _ROLES.get(str(node.get("role")), str(node.get("role"))), "content": node.get("text") or ""}


def _untaught(path: Sequence[Record]) -> list[Record]:
    return [message | {"weight": 0} if message["role"] == ASSISTANT else message for message in path]


def _is_accepted(node: Mapping[str, Any]) -> bool:
    return not node.get("deleted") and node.get("review_result") is not False


def _order(reply: Mapping[str, Any]) -> float:
    rank = as_number(reply.get("rank"))
    return inf if rank is None or isnan(rank) else rank


def _replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    replies = node.get("replies")
    return [reply for reply in replies if isinstance(reply, Mapping)] if isinstance(replies, list) else []

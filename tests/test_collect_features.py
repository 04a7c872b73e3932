"""Parquet and Arrow as Hugging Face's `datasets` writes them: classes by name, pictures, sequences of objects."""

import io
import json
from typing import Any

import pytest

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.parsed import ParseOptions
from soldiom_ray.collect.text import SkippedError


def table(columns: dict[str, list[Any]], features: dict[str, Any]) -> Any:
    import pyarrow as pa

    described = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": described})


def written(content: Any, form: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(content, sink)
        return sink.getvalue()
    opened = pa.ipc.new_stream(sink, content.schema) if form == "stream" else pa.ipc.new_file(sink, content.schema)
    with opened as writer:
        writer.write_table(content)
    return sink.getvalue()


def png() -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(sink, "PNG")
    return sink.getvalue()


CLASSES = {"label": {"names": ["ham", "spam"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}


@pytest.mark.parametrize(
    ("form", "name"), [("parquet", "train-00000-of-00001.parquet"), ("stream", "a.arrow"), ("file", "a.arrow")]
)
def test_classes_have_their_names_in_every_container(form: str, name: str) -> None:
    data = written(table({"text": ["hello there", "buy now", "so so"], "label": [0, 1, -1]}, CLASSES), form)
    texts = parse_bytes(name, data)
    assert [(text.text, text.metadata.get("label")) for text in texts] == [
        ("hello there", "ham"),
        ("buy now", "spam"),
        ("so so", None),
    ]


def test_sequences_of_objects_are_conversations_and_answers() -> None:
    turns = [{"role": ["user", "assistant"], "content": ["Is it late?", "It is noon."]}]
    (text,) = parse_bytes("a.parquet", written(table({"messages": turns}, {}), "parquet"))
    assert [turn["content"] for turn in text.metadata["messages"]] == ["Is it late?", "It is noon."]
    features = {"tags": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    data = written(table({"text": ["one"], "tags": [[1, 0]]}, features), "parquet")
    assert parse_bytes("a.parquet", data)[0].metadata["fields"] == {"tags": ["b", "a"]}


def test_pictures_in_a_table_are_noted_or_taken_with_their_labels() -> None:
    stored = [{"bytes": png(), "path": "1.png"}, {"bytes": png(), "path": "2.png"}]
    features = CLASSES | {"image": {"_type": "Image"}}
    data = written(table({"image": stored, "text": ["a red one", "another"], "label": [1, 0]}, features), "parquet")
    texts = parse_bytes("a.parquet", data, ParseOptions())
    assert texts[0].text == "a red one" and texts[0].metadata["reading"]["notes"] == {"pictures in column image": 2}
    assert "image" not in texts[0].metadata
    taken = parse_bytes("a.parquet", data, ParseOptions(pictures=True))
    about = [(picture.metadata["label"], picture.metadata["caption"], picture.metadata["width"]) for picture in taken]
    assert about == [("spam", "a red one", 8), ("ham", "another", 8)] and taken[0].image is not None


def test_a_damaged_arrow_file_is_one_counted_outcome() -> None:
    data = written(table({"text": ["one"]}, {}), "stream")
    with pytest.raises(SkippedError) as raised:
        parse_bytes("a.arrow", data[: len(data) // 3])
    assert raised.value.reason in ("damaged", "empty")

"""Search by meaning, by words and by both, in every script, with filters, and with everything encrypted."""

import asyncio
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import context_in, document, documents_of
from real_chroma import Chroma

from soldiom_ray import vectors
from soldiom_ray.artifacts import Context
from soldiom_ray.domains.schema import Embed, Prepare, SplitRule
from soldiom_ray.embed import embed, lexical
from soldiom_ray.embed.encrypted_view import CHROMA_COLUMNS, EncryptedView, location_of, rotation, row_ids
from soldiom_ray.embed.lexical import LexicalIndex, postings_of
from soldiom_ray.embed.parts import indexed_texts
from soldiom_ray.embed.search import FUSION_K, Searcher, fuse
from soldiom_ray.embed.serve import SearchService
from soldiom_ray.embed.terms import query_terms, terms_of
from soldiom_ray.errors import DamagedError, InputError, NotFoundError, UnavailableError
from soldiom_ray.models.embedder import Embedder
from soldiom_ray.prepare import prepare
from soldiom_ray.records import Manifest

KEY = "5a" * 32
TEXTS = {
    "rates/interest.py": "def compound_interest(principal, rate, years):\n    return principal * (1 + rate) ** years\n",
    "rates/simple.py": "def simpleInterest(principal, rate, years):\n    return principal * rate * years  # simple\n",
    "mail/send.py": "def send_letter(address, subject, body):\n    connection.deliver(address, subject, body)\n",
    "mail/xq7.py": "def handle_zorblax_event(event):\n    queue.append(event.zorblax or event.other_reading)\n",
    "notes/arabic.txt": "العقد شريعة المتعاقدين، ويجب على كل طرف أن يفي بالتزاماته كما وردت في هذا الاتفاق.\n",
    "notes/chinese.txt": "本合同自双方签字之日起生效，任何一方不得擅自变更或者解除合同的条款内容。\n",
}


def documents() -> list[dict[str, Any]]:
    licences = {"rates": "MIT", "mail": "Apache-2.0", "notes": "CC-BY-4.0"}
    return [
        document(text, path.partition("/")[0], path, license=licences[path.partition("/")[0]])
        | {"language": "python" if path.endswith("py") else "", "source": "local" if "mail" in path else "user"}
        for path, text in TEXTS.items()
    ]


def index_of(context: Context) -> Manifest:
    rule = SplitRule(test=0, validation=0)
    dataset = prepare(context, [documents_of(context, documents())], Prepare(split=rule, filters=()))
    return embed(context, dataset, Embed(max_tokens=64))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, chroma: Chroma) -> Context:
    return context_in(tmp_path_factory.mktemp("home"), SOLDIOM_CHROMA_URL=chroma.url)


@pytest.fixture(scope="module")
def index(context: Context) -> Manifest:
    return index_of(context)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, chroma: Chroma) -> tuple[Context, Manifest]:
    folder = tmp_path_factory.mktemp("sealed")
    context = context_in(folder, SOLDIOM_CHROMA_URL=chroma.url, SOLDIOM_ENCRYPTION_KEY=KEY)
    return context, index_of(context)


@pytest.fixture(scope="module")
def service(context: Context) -> SearchService:
    return SearchService(context.settings)


def ask(service: SearchService, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    return asyncio.run(service.search(*arguments, **options))


def paths(results: list[dict[str, Any]]) -> list[str]:
    return [result["metadata"]["path"] for result in results]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("getUserName user_names", ["getusername", "get", "user", "name", "user_names", "user", "name"]),
        ("HTTPServer2 __init__", ["httpserver2", "http", "server", "2", "init"]),
        ("torch.nn.Linear(…)", ["torch", "nn", "linear"]),
        ("Naïve STRASSE, straße", ["naive", "strasse", "strasse"]),
        ("العَقْدُ والعقـــد", ["العقد", "والعقد"]),
        ("合同生效model2", ["合同", "同生", "生效", "model2", "model", "2"]),
        ("नमस्ते дети", ["नमस्ते", "дети"]),
        ("entries boxes class its", ["entry", "boxe", "class", "its"]),
        ("A" * 65 + " _ " + "\ud800", []),
    ],
)
def test_words_are_found_in_identifiers_and_in_any_script(text: str, words: list[str]) -> None:
    assert terms_of(text) == words


def test_bm25_scores_are_those_of_the_formula() -> None:
    texts = ["red apple red", "green apple", "a blue sky over a red sea"]
    postings = postings_of(texts)
    assert postings.lengths.tolist() == [3, 2, 7]
    held = {int(term): 0.0 for term in postings.terms}
    for term in postings.terms:
        held[int(term)] += 1
    idf = np.log1p((3 - 2 + 0.5) / (2 + 0.5))
    expected = [idf * tf / (tf + 1.2 * (0.25 + 0.75 * length / 4)) for tf, length in ((2, 3), (1, 7))]
    segment = lexical.Segment.__new__(lexical.Segment)
    terms, firsts = np.unique(postings.terms, return_index=True)
    segment.arrays = {
        "terms": terms,
        "starts": np.append(firsts, len(postings.terms)),
        "passages": postings.passages,
        "counts": postings.counts,
        "lengths": postings.lengths,
    }
    weights = [(np.uint64(lexical.term_hash("red")), float(idf))]
    segment._locations = lambda rows: [(0, int(row)) for row in rows]  # type: ignore[method-assign]
    assert dict(segment.best(weights, 4.0, 10, {})) == pytest.approx({(0, 0): expected[0], (0, 2): expected[1]})
    assert list(segment.best(weights, 4.0, 1, {})) == [((0, 0), pytest.approx(expected[0]))]


def test_a_question_is_asked_without_its_function_words() -> None:
    assert query_terms("How is the mask applied to it?") == ["how", "mask", "applied"]
    assert query_terms("to be or not to be") == terms_of("to be or not to be")


def test_fusion_adds_reciprocal_ranks() -> None:
    dense, by_terms = [((0, 1), 0.9), ((0, 2), 0.8)], [((0, 2), 7.0), ((0, 3), 5.0)]
    assert fuse([dense, by_terms], 2) == [
        ((0, 2), 1 / (FUSION_K + 2) + 1 / (FUSION_K + 1)),
        ((0, 1), 1 / (FUSION_K + 1)),
    ]


def test_a_rare_identifier_is_found_by_words_and_a_paraphrase_by_meaning(
    service: SearchService, index: Manifest
) -> None:
    assert paths(ask(service, "zorblax", 1, index.id, mode="lexical")) == ["mail/xq7.py"]
    assert ask(service, "frobnicate", 3, index.id, mode="lexical") == []
    assert paths(ask(service, "deliver an e-mail to somebody", 1, index.id, mode="dense")) == ["mail/send.py"]
    both = ask(service, "simple interest", 3, index.id)
    assert paths(both)[0] == "rates/simple.py"
    assert all(first["score"] >= second["score"] for first, second in pairwise(both))
    assert both[0]["text"] == TEXTS["rates/simple.py"].strip("\n")
    assert both[0]["metadata"]["symbol"] == "simpleInterest" and both[0]["metadata"]["start_line"] == 1


@pytest.mark.parametrize(("query", "path"), [("العَقْد", "notes/arabic.txt"), ("解除合同", "notes/chinese.txt")])
def test_arabic_and_chinese_words_are_found(service: SearchService, index: Manifest, query: str, path: str) -> None:
    assert paths(ask(service, query, 1, index.id, mode="lexical")) == [path]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"license": "MIT"}, {"rates/interest.py", "rates/simple.py"}),
        ({"source": "local", "language": "python"}, {"mail/send.py", "mail/xq7.py"}),
        ({"group": "rates", "split": "train", "framework": "none"}, {"rates/interest.py", "rates/simple.py"}),
        ({"path": "mail/s"}, {"mail/send.py"}),
        ({"path": "mail/", "license": "MIT"}, set()),
        ({"symbol": "send_letter"}, {"mail/send.py"}),
        ({"license": "WTFPL"}, set()),
    ],
)
def test_every_way_of_searching_keeps_to_the_filters(
    service: SearchService, index: Manifest, mode: str, filters: dict[str, str], expected: set[str]
) -> None:
    query = "principal rate years address subject event queue other reading"
    assert set(paths(ask(service, query, 10, index.id, filters, mode))) == expected


def test_questions_that_cannot_be_answered_are_refused(service: SearchService, index: Manifest) -> None:
    for arguments, match in (
        (("x", 5, index.id, {"colour": "red"}), "'colour' cannot be filtered by; known: document, source"),
        (("x", 5, index.id, {"license": 3}), "each a text"),
        (("x", 5, index.id, None, "magic"), "mode is 'magic'; known: hybrid, dense, lexical"),
        (("x", 0, index.id), "k is 0"),
        (("x", 5, None), "No index is named"),
        (("  ", 5, index.id), "empty"),
    ):
        with pytest.raises(InputError, match=match):
            ask(service, *arguments)


def test_words_are_found_without_chroma(context: Context, index: Manifest) -> None:
    alone = SearchService(context_in(context.settings.home, SOLDIOM_CHROMA_URL="http://127.0.0.1:9").settings)
    assert paths(ask(alone, "zorblax", 1, index.id, mode="lexical")) == ["mail/xq7.py"]
    with pytest.raises(UnavailableError, match=r"Chroma at http://127.0.0.1:9 does not answer"):
        ask(alone, "zorblax", 1, index.id)


def test_an_index_in_many_segments_answers_as_one(
    context: Context, index: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "SEGMENT_POSTINGS", 8)
    draft = context.artifacts.draft("index", {"segments": "many"})
    writer = lexical.SegmentWriter(draft)
    (table,) = context.artifacts.tables(index, "passages/")
    for part in range(len(table)):
        row = table.slice(part, 1)
        writer.add(part, postings_of(indexed_texts(row)), row.select(lexical.METADATA_COLUMNS))
    writer.close()
    many, single = LexicalIndex(context.artifacts, draft.commit()), LexicalIndex(context.artifacts, index)
    assert len(table) >= len(many.segments) > 3 and len(single.segments) == 1
    for query in ("principal rate", "zorblax event other", "合同"):
        hits = [((location[1], 0), score) for location, score in single.search(query, 5)]
        assert [location for location, _ in many.search(query, 5)] == [location for location, _ in hits]
        assert [score for _, score in many.search(query, 5)] == pytest.approx([score for _, score in hits])
    assert [location for location, _ in many.search("principal", 9, {"path": "rates/s"})] == many.locations(
        {"path": "rates/s"}
    )


def test_plain_arrays_are_mapped_and_damaged_ones_refused(context: Context, tmp_path: Path) -> None:
    other = context_in(tmp_path, SOLDIOM_CHROMA_URL=context.settings.chroma_url or "")
    index = index_of(other)
    arrays = LexicalIndex(other.artifacts, index).segments[0].arrays
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    (file,) = tmp_path.rglob("lexical/00000/passages.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=r"lexical/00000/passages.npy of index-\w+ is not what was written"):
        Searcher(other.settings, other.artifacts, index).lexical("principal", 5, {})


def test_an_index_of_an_earlier_version_is_named(context: Context) -> None:
    draft = context.artifacts.draft("index", {"stage_version": 3})
    draft.commit(details={"collection": draft.id, "model": "all-MiniLM-L6-v2"})
    with pytest.raises(InputError, match="made by an earlier version"):
        ask(SearchService(context.settings), "x", 5, draft.id)


def test_with_a_key_search_answers_the_same(
    service: SearchService, index: Manifest, sealed: tuple[Context, Manifest]
) -> None:
    context, hidden = sealed
    behind = SearchService(context.settings)
    for mode in ("hybrid", "dense", "lexical"):
        for filters in ({}, {"license": "MIT"}, {"path": "mail/", "source": "local"}):
            query = "principal rate of an address"
            plain = ask(service, query, 4, index.id, filters, mode)
            assert ask(behind, query, 4, hidden.id, filters, mode) == [
                result | {"score": pytest.approx(result["score"], abs=1e-3)} for result in plain
            ]


def test_with_a_key_neither_chroma_nor_storage_tell_of_the_texts(sealed: tuple[Context, Manifest]) -> None:
    context, index = sealed
    collection = vectors.find_collection(context.settings, EncryptedView(index.id, bytes.fromhex(KEY)).collection)
    held = collection.get(include=["documents", "metadatas", "embeddings"])
    visible = json.dumps([held["ids"], held["documents"], held["metadatas"], collection.metadata, collection.name])
    private = {str(row[name]) for row in documents() for name in ("path", "group", "license", "source", "id")} - {""}
    assert not [value for value in private | {"python", "MiniLM", "zorblax", "train"} if value in visible]
    assert len({row["license"] for row in held["metadatas"]}) == 3 and set(held["metadatas"][0]) == set(CHROMA_COLUMNS)
    plain = np.load(io.BytesIO(context.artifacts.read(index, "vectors/00000.npy")))
    shown = np.array(held["embeddings"])[np.argsort(held["ids"])]
    assert np.abs((plain * shown).sum(1)).max() < 0.3, "vectors that a program for MiniLM could read"
    assert plain @ plain.T == pytest.approx(shown @ shown.T, abs=1e-5)
    stored = [path.read_bytes() for path in (context.settings.home / "storage" / "index").rglob("*.*")]
    assert stored and not any(word in data for data in stored for word in (b"zorblax", b"PAR1", b"NUMPY"))


def test_without_the_key_or_with_another_nothing_is_found(sealed: tuple[Context, Manifest]) -> None:
    context, index = sealed
    url = context.settings.chroma_url or ""
    for variables, kind in (({}, InputError), ({"SOLDIOM_ENCRYPTION_KEY": "6b" * 32}, DamagedError)):
        other = context_in(context.settings.home, SOLDIOM_CHROMA_URL=url, **variables)
        with pytest.raises(kind):
            ask(SearchService(other.settings), "principal", 3, index.id)
    first, second = (EncryptedView(name, bytes.fromhex(KEY)) for name in ("index-1", "index-2"))
    assert first.metadata({"license": "MIT"}) != second.metadata({"license": "MIT"})


def test_a_key_is_changed_while_an_index_is_searched(tmp_path: Path, chroma: Chroma) -> None:
    old, new = KEY, "6b" * 32
    variables = {"SOLDIOM_CHROMA_URL": chroma.url}
    context = context_in(tmp_path, **variables, SOLDIOM_ENCRYPTION_KEY=old)
    index = index_of(context)
    found = ask(SearchService(context.settings), "principal", 3, index.id)
    both = context_in(tmp_path, **variables, SOLDIOM_ENCRYPTION_KEY=f"{new},{old}")
    storage = both.artifacts.storage
    assert {storage.reseal(key) for key in storage.all_keys()} == {"earlier"}
    assert ask(SearchService(both.settings), "principal", 3, index.id) == found
    collections = [EncryptedView(index.id, bytes.fromhex(key)).collection for key in (old, new)]
    assert vectors.count(vectors.find_collection(both.settings, collections[0])) == index.counts["passages"]
    assert index_of(both).id == index.id  # the vectors follow
    with pytest.raises(NotFoundError):
        vectors.find_collection(both.settings, collections[0])
    only_new = context_in(tmp_path, **variables, SOLDIOM_ENCRYPTION_KEY=new)
    assert paths(ask(SearchService(only_new.settings), "principal", 3, index.id)) == paths(found)


def test_a_rotation_keeps_lengths_and_follows_from_its_secret() -> None:
    turned = rotation(b"secret", 64)
    assert turned @ turned.T == pytest.approx(np.eye(64), abs=1e-5)
    rotation.cache_clear()
    assert (rotation(b"secret", 64) == turned).all() and not np.allclose(rotation(b"other", 64), turned)
    assert [location_of(row_id) for row_id in row_ids([(0, 0), (123456, 99999), (1234567, 1)])] == [
        (0, 0),
        (123456, 99999),
        (1234567, 1),
    ]


def test_questions_get_the_prompt_that_the_model_wants(
    context: Context, index: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = Embedder.encode

    def recorded(self: Embedder, texts: Any, batch: int = 64, *, max_tokens: int = 256, query: bool = False) -> Any:
        seen.append(query)
        return real(self, texts, batch, max_tokens=max_tokens, query=query)

    monkeypatch.setattr(Embedder, "encode", recorded)
    ask(SearchService(context.settings), "principal", 1, index.id)
    assert seen == [True]

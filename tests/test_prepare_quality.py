"""Quality filters: the published rules, each deciding on what it is for; equal everywhere; linear in a text's size."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soldiom_ray.prepare.filters import FILTERS, prose_tokens
from soldiom_ray.prepare.filters.code import comment_share
from soldiom_ray.prepare.filters.filter_text import FilterText
from soldiom_ray.prepare.filters.language import language_problem
from soldiom_ray.prepare.filters.prose import count_sentences
from soldiom_ray.prepare.filters.prose_tokens import split_chunk, tokens_of
from soldiom_ray.prepare.filters.repetition import repeated_words

CORPORA = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
OF_CODE = ("alphanumeric", "encoded_data", "comments", "data_size", "xml", "html")
SENTENCES = (
    "The committee met on Tuesday to discuss how the new policy would affect the schools of the district.",
    "Two members asked whether the buses could be paid from the budget that had been set aside in spring.",
    "Nobody was able to say how many children lived farther than a mile from the nearest stop.",
    "A vote was put off until the council of the city had given its opinion in writing.",
    "Parents who had come to listen left the hall with more questions than they had brought.",
    "It was agreed that the next meeting would be held in the library, and that minutes be kept.",
    "Most of those present thought that the old route along the river should be opened again.",
    "To pay for it, the treasurer said, the town would have to borrow money for several years.",
)
GOOD = "\n".join(SENTENCES) + "\n"
NUMBERS = " ".join(f"{number}.5" for number in range(100, 300))


def test_good_prose_passes_every_filter() -> None:
    filters = {name: judge for name, judge in FILTERS.items() if name != "language" or not language_problem()}
    assert [name for name, judge in filters.items() if judge(FilterText(GOOD, False)) is not None] == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gopher_quality", "Too short to be the page that we have.", "9 words"),
        ("gopher_quality", "a b c d " * 30, "mean word 1.00 characters"),
        ("gopher_quality", "incomprehensibilities " * 60, "mean word 21.00 characters"),
        ("gopher_quality", GOOD + "# # # # # # # # # # # # # # # # # # # #", "0.12 hashes per word"),
        ("gopher_quality", GOOD.replace(" the ", " ... the "), None),
        ("gopher_quality", "\n".join(f"- {line}" for line in SENTENCES), "1.00 of its lines are bullets"),
        ("gopher_quality", GOOD.replace(".\n", " …\n"), "1.00 of its lines end in an ellipsis"),
        ("gopher_quality", NUMBERS + " and with the words that have", "0.03 of its words have letters"),
        ("gopher_quality", "lorem ipsum dolor sit amet " * 20, "0 stop words"),
        ("gopher_repetition", (SENTENCES[0] + "\n\n") * 2 + SENTENCES[1], "0.33 of its paragraphs are repeated"),
        ("gopher_repetition", GOOD + GOOD, "0.47 of its lines are repeated"),
        (
            "gopher_repetition",
            " ".join(SENTENCES[:5]) + " of the" * 60,
            "0.42 of its characters are one run of 2 words",
        ),
        ("c4", "\n".join(line.rstrip(".") for line in SENTENCES), "0 sentences"),
        ("c4", GOOD + "Lorem ipsum dolor sit amet.", "lorem ipsum"),
        ("c4", GOOD + "if (a) { return b.", "curly bracket"),
        ("c4", GOOD + "if (a) { return b; }", None),
        ("c4", "\n".join(f"{line[:-1]} in JavaScript." for line in SENTENCES), "0 sentences"),
        ("c4", "\n".join(f"Privacy policy: {line}" for line in SENTENCES), "0 sentences"),
        ("c4", "\n".join(f"{line}[12]" for line in SENTENCES), None),
        ("c4", " ".join(SENTENCES), None),
        ("c4", "Yes. No. Maybe. Perhaps. Never.\n", None),
        ("c4", "Oh no!\n" * 9, "0 sentences"),
        ("fineweb", "\n".join(line.rstrip(".") for line in SENTENCES), "0.00 of its lines end in punctuation"),
        ("fineweb", "\n".join(f"Line {number}." for number in range(30)), "1.00 of its lines are short"),
        ("fineweb", GOOD + SENTENCES[0], "0.121 of its characters are repeated lines"),
        ("fineweb", "\n\n\n\n\n\n".join(SENTENCES), None),
        ("fineweb", "\n" * 60 + GOOD, "0.46 line breaks per word"),
        ("fineweb", " \n\n ", "no lines"),
    ],
)
def test_a_rule_of_a_web_corpus_refuses_what_it_is_for(name: str, text: str, value: str | None) -> None:
    assert FILTERS[name](FilterText(text, False)) == value


HTML = "<!DOCTYPE html><html><script>" + "var a = 1;" * 90 + "</script><body>{}</body></html>"
CODE = '"""Adds numbers."""\n\n\ndef add(left, right):\n    # Both must be numbers.\n    return left + right\n'


@pytest.mark.parametrize(
    ("name", "path", "text", "refused"),
    [
        ("alphanumeric", "a.py", "++--==()[]{} x\n" * 9, True),
        ("alphanumeric", "a.py", CODE, False),
        ("encoded_data", "a.py", "DATA = '" + "QUJD" * 300 + "'", True),
        ("encoded_data", "a.py", "KEYS = [" + "0x1f," * 20 + "]", True),
        ("encoded_data", "a.js", 'a = "' + "\\u00e9" * 200 + '"', True),
        ("encoded_data", "a.py", CODE, False),
        ("comments", "a.py", "x = 1\n" * 90, True),
        ("comments", "a.py", "# a comment and no more than that\n" * 9, True),
        ("comments", "a.py", CODE, False),
        ("comments", "a.js", "// adds\nfunction add(a, b) { return a + b }\n", False),
        ("comments", "a.lua", "x = 1\n" * 90, False),
        ("data_size", "a.json", "{}", True),
        ("data_size", "a.yaml", "key: value\n" * 500, True),
        ("data_size", "a.yml", "key: value\n" * 50, False),
        ("data_size", "a.py", "x", False),
        ("xml", "a.txt", "<?xml version='1.0'?>", True),
        ("xml", "a.py", CODE, False),
        ("html", "a.html", HTML.format("Hello."), True),
        ("html", "a.html", HTML.format(GOOD * 2), False),
        ("html", "a.py", CODE, False),
    ],
)
def test_a_rule_of_a_code_corpus_refuses_what_it_is_for(name: str, path: str, text: str, refused: bool) -> None:
    assert (FILTERS[name](FilterText(text, True, path)) is not None) is refused


def test_rules_for_prose_let_code_through_and_those_for_code_let_prose_through() -> None:
    assert {name: FILTERS[name](FilterText("x", True, "a.py")) for name in CORPORA} == dict.fromkeys(CORPORA)
    assert {name: FILTERS[name](FilterText(HTML, False, "a.md")) for name in OF_CODE} == dict.fromkeys(OF_CODE)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ("word", "word"),
        ("(don't", "( do n't"),
        ("worry:", "worry :"),
        ("e.g.,", "e.g. ,"),
        ("U.S.", "U.S."),
        ("USA.", "USA ."),
        ("John's", "John 's"),
        ("cannot", "can not"),
        ("its", "its"),
        ("well-known", "well - known"),
        ("and/or", "and/or"),
        ("x=foo.bar(1)", "x = foo.bar(1 )"),
        ("self.Name", "self . Name"),
        ("https://example.com/a-b?c=d", "https://example.com/a-b?c=d"),
        ("3.14", "3.14"),
        ("10km", "10 km"),
        ("9am", "9 am"),
        ("$5.00", "$ 5.00"),
        ("wait...", "wait ..."),
        ("**bold**:", "* * bold * * :"),
        ("key):", "key ):"),
        ("\u2502", "\u2502"),
    ],
)
def test_a_chunk_is_split_as_an_english_tokenizer_splits_it(chunk: str, expected: str) -> None:
    assert split_chunk(chunk) == expected.split()


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
TRICKY = st.text("aZ9.'’-/:=<>()[]$+°_#…│é \n\ud800\x00", max_size=40)


@settings(max_examples=400, deadline=None)
@given(st.one_of(ANY_TEXT, TRICKY))
def test_splitting_loses_and_adds_nothing(text: str) -> None:
    assert all("".join(split_chunk(chunk)) == chunk for chunk in text.split())
    tokens = tokens_of(text)
    assert int(tokens.lengths.sum()) == sum(map(len, text.split()))
    assert len(tokens.flags) == len(tokens.hashes) == len(tokens)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(ANY_TEXT, TRICKY), min_size=1, max_size=4))
def test_a_verdict_does_not_depend_on_what_was_judged_before(texts: list[str]) -> None:
    def verdicts() -> list[str | None]:
        return [
            judge(FilterText(text, code, "a.py"))
            for text in texts
            for judge in FILTERS.values()
            for code in (True, False)
        ]

    prose_tokens._chunks = prose_tokens._ChunkTable()
    alone = verdicts()
    tokens_of(GOOD + NUMBERS)
    texts.reverse()
    verdicts()
    texts.reverse()
    assert verdicts() == alone


def test_what_is_remembered_is_forgotten_in_time_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokens_of(GOOD + NUMBERS)
    monkeypatch.setattr(prose_tokens, "CHUNK_BATCH", 7)
    monkeypatch.setattr(prose_tokens, "CACHED_CHUNKS", 20)
    in_pieces = tokens_of(GOOD + NUMBERS)
    assert len(prose_tokens._chunks) <= 27
    assert (whole.hashes == in_pieces.hashes).all()
    assert (whole.lengths == in_pieces.lengths).all()
    assert (whole.flags == in_pieces.flags).all()


def test_another_process_gives_the_same_verdicts_and_hashes() -> None:
    program = (
        "import sys; from soldiom_ray.prepare.filters.filter_text import FilterText;"
        "from soldiom_ray.prepare.filters import FILTERS; text = sys.stdin.read();"
        "document = FilterText(text, False); print([judge(document) for judge in FILTERS.values()]);"
        "print(int(document.tokens.hashes.sum()))"
    )
    text = GOOD + GOOD + NUMBERS
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    document = FilterText(text, False)
    verdicts = [judge(document) for judge in FILTERS.values()]
    assert outputs == {f"{verdicts}\n{int(document.tokens.hashes.sum())}\n"}


@pytest.mark.parametrize("words", [5, 7, 10])
def test_repeated_runs_are_counted_as_reading_on_behind_each_of_them(words: int) -> None:
    """The published loop over strings, against hashes that only look where a shorter run repeats."""
    text = " ".join(f"w{(position * position) % 37 if position % 90 < 45 else position}" for position in range(900))
    pieces, seen, covered, position = text.split(), set(), 0, 0
    while position <= len(pieces) - words:
        run = "".join(pieces[position : position + words])
        covered += len(run) * (run in seen)
        position += words if run in seen else 1
        seen.add(run)
    characters = covered * 3
    limits = dict.fromkeys(range(5, 11), 1.0) | {words: 0.3333}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soldiom_ray.prepare.filters.repetition.MAX_REPEATED_NGRAMS", limits)
        patch.setattr("soldiom_ray.prepare.filters.repetition.MAX_TOP_NGRAM", dict.fromkeys((2, 3, 4), 9.0))
        assert (
            repeated_words(tokens_of(text), characters) == f"0.33 of its characters are repeated runs of {words} words"
        )
        limits[words] = 0.3334
        assert repeated_words(tokens_of(text), characters) is None


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One sentence.", 1),
        ("One. Two! Three? Four", 4),
        ("He said (e.g. in May). Then he left.", 2),
        ('"Stop." He stopped.', 2),
        ("Version 3.14 is out.", 1),
        ("Wait...", 1),
    ],
)
def test_sentences_are_counted(line: str, count: int) -> None:
    assert count_sentences(line) == count


def test_docstrings_and_comments_count_as_comments_and_strings_do_not() -> None:
    assert comment_share("# 45678\n", ".py") == pytest.approx(6 / 8)
    assert comment_share('def f():\n    """12345"""\n', ".py") == pytest.approx(5 / 25, abs=0.01)
    assert comment_share('x = """12345"""\n', ".py") == 0
    assert comment_share('x = "# no"\n', ".py") == 0
    assert comment_share('a = "// no"; /* yes */', ".js") == pytest.approx(9 / 22, abs=0.01)
    assert comment_share("", ".py") is None


HOSTILE = {
    "one long line": "x" * 10_000_000,
    "brackets": "(" * 2_000_000,
    "unclosed tags": "<html><script " + "<" * 1_000_000,
    "unclosed strings": '"""' * 300_000,
    "quotes and slashes": "/*'\"`" * 200_000,
    "addresses": "a.b@" * 500_000,
    "many chunks of dots": ("a." * 200 + " ") * 5_000,
    "a word a million times": "word " * 1_000_000,
    "two digits": "ab " * 1_000_000,
    "NULs and surrogates": "\x00\ud800 " * 300_000,
    "empty lines": "\n" * 3_000_000,
    "empty": "",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_get_a_verdict_from_every_filter(text: str) -> None:
    for document in (FilterText(text, False, "a.md"), FilterText(text, True, "a.py")):
        verdicts = [judge(document) for judge in FILTERS.values()]
        assert all(verdict is None or len(verdict) < 100 for verdict in verdicts)
    assert 0 <= (comment_share(text, ".js") or 0) <= 1

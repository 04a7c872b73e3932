"""Passages of code in many languages, of paged documents and of tables; text made to mislead."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from cpu_time import cpu_seconds

from soldiom_ray.embed.chunk import estimate_tokens, passages_of
from soldiom_ray.embed.definitions import FAMILIES, find_definitions, without_overlap

SCRIPT = """import x from "y";
/** Adds two values, or gives what it was given when there is nothing to add to it. */
export async function add(a, b = {c: 1}) {
  if (a) { return "}" }
  return a + b;
}
const multiply = (first, second) => {
  return first * second
}
class Reader extends Base {
  #place = 1;
  constructor(x) { super(x); }
  async get(name) { for (const a of b) { } return /[{}]/.test(name); }
}
module.exports = { a: 1 };
"""
JAVA = """package a.b;
/** Holds one value. */
@Deprecated
public class Holder<T> extends Bar implements Baz {
  private int x = 3;
  public Holder(int x) { this.x = x; }
  @Override
  public <T> List<T> get(Map<String, T> m) throws IOException {
    if (x > 1) { return null; }
    Runnable r = new Runnable() { public void run() { } };
    return m;
  }
  enum Kind { A, B }
}
"""
C = """#include <a.h>
#define X(a) { a
static int helper(struct s *p)
{
    switch (p->x) { case '{': break; }
    return 0;
}
namespace a {
template <typename T>
class Queue : public R<T> {
 public:
  Queue(int a) : a_(a) {}
  int size() const noexcept { return n; }
};
}
int Foo::bar(std::vector<int> v) const {
  return v.size();
}
extern "C" {
void c_function(void) { }
}
"""
GO = """package main
// Server answers.
type Server struct {
	a int
}
func (s *Server) Handle(w http.ResponseWriter) (int, error) {
	if x := f(); x != nil { return 0, nil }
	return 1, nil
}
func Map[T any](a []T) []T { return a }
"""
RUST = """use std::io;
/// A pair.
#[derive(Debug)]
pub struct Pair<'a> { x: &'a str }
impl<'a> fmt::Display for Pair<'a> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result { write!(f, "{}", self.x) }
}
pub async fn run<T: A>(a: T) -> Result<(), E> where T: B { match a { _ => {} } }
"""


@pytest.mark.parametrize(
    ("suffix", "text", "symbols"),
    [
        (".ts", SCRIPT, ["add", "multiply", "Reader", "Reader.constructor", "Reader.get"]),
        (".java", JAVA, ["Holder", "Holder.Holder", "Holder.get", "Holder.Kind"]),
        (".cc", C, ["helper", "a", "a::Queue", "a::Queue::Queue", "a::Queue::size", "Foo::bar", "c_function"]),
        (".go", GO, ["Server", "Server.Handle", "Map"]),
        (".rs", RUST, ["Pair", "Pair", "Pair::fmt", "run"]),
    ],
)
def test_code_in_braces_is_cut_at_its_definitions(suffix: str, text: str, symbols: list[str]) -> None:
    lines = text.split("\n")
    definitions = list(without_overlap(find_definitions(text, lines, FAMILIES[suffix])))
    assert [definition.symbol for definition in definitions] == symbols
    assert all(definition.end <= following.start for definition, following in pairwise(definitions))
    function = next(definition for definition in definitions if definition.symbol == symbols[-1])
    assert symbols[-1].rpartition("::")[2].rpartition(".")[2] in "\n".join(lines[function.start : function.end])


def test_a_comment_above_a_definition_belongs_to_it_and_makes_it_telling() -> None:
    passages = passages_of("id", "a.ts", SCRIPT, 100)
    assert passages[0].symbol == "add" and passages[0].rank == 0
    assert passages[0].text.startswith("/** Adds") and passages[0].text.endswith("}")
    assert passages[1].symbol == "multiply" and passages[1].rank == 1
    lines = SCRIPT.split("\n")
    assert all("\n".join(lines[passage.start_line - 1 : passage.end_line]) == passage.text for passage in passages)


@pytest.mark.parametrize("suffix", [".ts", ".java", ".cc", ".go", ".rs"])
def test_text_that_only_looks_like_code_is_cut_in_linear_time(suffix: str) -> None:
    bad = [
        '"\\"' * 50_000,
        "{" * 200_000,
        "(" * 200_000 + "{",
        "f(" * 80_000 + "{",
        "a<" * 90_000 + "(){",
        "}" * 200_000,
    ]
    bad += ["x=/[" * 40_000, "const a=(" * 20_000 + "=>{", "type A " * 30_000 + "{", "impl a " * 30_000 + "{", "/*" * 9]
    for text in bad:
        definitions = partial(find_definitions, text, text.split("\n"), FAMILIES[suffix])
        assert cpu_seconds(lambda: list(without_overlap(definitions()))) < 5, text[:8]  # noqa: B023


def test_code_that_is_cut_off_keeps_all_of_its_text() -> None:
    for name, text in (("a.ts", SCRIPT), ("a.java", JAVA), ("a.cc", C), ("a.go", GO), ("a.rs", RUST)):
        for end in range(40, len(text), 37):
            lines = text[:end].split("\n")
            covered = {
                line
                for passage in passages_of("id", name, text[:end], 200)
                for line in range(passage.start_line, passage.end_line + 1)
            }
            missing = [
                line
                for number, line in enumerate(lines, 1)
                if number not in covered and len(line) > 40 and line[0] != "/"
            ]
            assert not missing, (name, end, missing)


def test_passages_of_a_paged_document_know_their_page_and_do_not_cross_it() -> None:
    pages = [f"Page {number} tells of something that fills a few words of a line.\n" for number in (1, 2)]
    text = pages[0] + "\n" + pages[1]
    starts = [0, len(pages[0]) + 1, len(pages[0]) + 1]  # the second page is empty: it begins where the third does
    passages = passages_of("id", "report.pdf", text, 200, starts)
    assert [(passage.page, passage.start_line) for passage in passages] == [(1, 1), (3, 3)]
    assert {passage.page for passage in passages_of("id", "report.pdf", text, 200)} == {0}
    wild = passages_of("id", "report.pdf", text, 200, [5, -3, 10**9, 7])
    assert "".join(passage.text for passage in wild).count("tells of something") == 2


def test_rows_of_a_table_stay_whole() -> None:
    rows = [f"question: what is number {n} of the list that we keep here?\nanswer: it is the {n}" for n in range(30)]
    passages = passages_of("id", "rows.csv", "\n\n".join(rows), 64)
    assert len(passages) > 5
    assert all(any(row in passage.text for passage in passages) for row in rows)


def test_a_file_of_comments_alone_is_still_found() -> None:
    for path in ("a.py", "a.go"):
        sign = "#" if path.endswith("py") else "//"
        (passage,) = passages_of(
            "id", path, f"{sign} This file was left empty on purpose, for the packaging tool needs it.\n", 64
        )
        assert "on purpose" in passage.text


def test_no_passage_of_a_document_has_the_id_of_another() -> None:
    text = "\n".join(["the same words again and again " * 30] * 3)
    passages = passages_of("id", "a.txt", text, 16)
    assert len({passage.id for passage in passages}) == len(passages)


def test_installed_sources_in_braces_give_named_passages() -> None:
    import pyarrow

    files = sorted((Path(pyarrow.__file__).parent / "src").rglob("*.cc"))[:20]
    passages = [passage for path in files for passage in passages_of("id", str(path), path.read_text(), 128)]
    assert sum(bool(passage.symbol) for passage in passages) > 0.9 * len(passages)


def test_python_is_cut_at_its_definitions_and_every_passage_knows_its_lines() -> None:
    text = '''# Copyright somebody
import os

LIMITS = {"low": 1, "high": 2, "other": 3, "more": 4, "most": 5}


@decorated
def first(value):
    """Tell the first of the values that were given to it here."""
    return value[0]


class Reader:
    """Reads a file and keeps what was read for as long as it lives."""

    def __init__(self, path):
        self.path, self.text, self.lines, self.done = path, None, [], False

    async def read(self):
        """Read everything, once, and give the text that was found there."""
        return self.path.read_text()
'''
    passages = passages_of("id", "a.py", text, 100)
    assert [passage.symbol for passage in passages] == ["", "first", "Reader", "Reader.__init__", "Reader.read"]
    assert [passage.rank for passage in passages] == [2, 0, 0, 1, 0]
    lines = text.split("\n")
    assert all("\n".join(lines[passage.start_line - 1 : passage.end_line]) == passage.text for passage in passages)
    assert passages[1].text.startswith("@decorated")
    assert passages[3].embedded.startswith("Reader.__init__\n")
    assert "Copyright" not in "".join(passage.text for passage in passages)
    assert passages == passages_of("id", "a.py", text, 100)


@pytest.mark.parametrize("path", ["broken.py", "notes.txt", "page.md", "data.yaml"])
def test_long_text_is_cut_into_passages_within_the_limit_and_nothing_is_lost(path: str) -> None:
    paragraph = " ".join(f"Sentence number {number} says something plain." for number in range(60))
    text = f"def broken(:\n\n{paragraph}\n\n" + "\n\n".join(
        f"Paragraph {number} is short and sweet." for number in range(30)
    )
    passages = passages_of("id", path, text, 64)
    assert max(estimate_tokens(passage.text) for passage in passages) <= 64
    joined = "".join(passage.text for passage in passages)
    assert all(f"number {number} " in joined for number in range(60))
    assert all(f"Paragraph {number} " in joined for number in range(30)) or path == "page.md"


def test_headings_name_the_sections_of_documentation() -> None:
    body = "It has enough words in it to be a passage of its own, and some more to be sure.\n\n"
    markdown = f"# Title\n\n{body}```\n# no heading\nx = 1\n```\n\n## Usage\n\n{body}"
    rst = f"Title\n=====\n\n{body}Usage\n-----\n\n{body}"
    assert {passage.symbol for passage in passages_of("id", "a.md", markdown, 128)} == {"Title", "Usage"}
    assert {passage.symbol for passage in passages_of("id", "a.rst", rst, 128)} == {"Title", "Usage"}
    assert len(passages_of("id", "short.txt", "hello", 128)) == 1

"""The upload door: it takes what the parsers read, and refuses what lies, grows or leads elsewhere, quickly."""

import gzip
import io
import zipfile

import pytest
from broken_files import ole_bytes, tar_bytes, xls_bytes, zip_bytes

from soldiom_ray.api.uploads import EXTENSIONS, check_upload
from soldiom_ray.collect.documents import _MODULES, SUPPORTED
from soldiom_ray.domains.file_types import FAMILIES
from soldiom_ray.errors import InputError

DOCX = zip_bytes({"[Content_Types].xml": "<Types/>", "word/document.xml": "<w/>"})


def problem(name: str, data: bytes) -> str:
    file = io.BytesIO(data)
    with pytest.raises(InputError) as raised:
        check_upload(name, file)
    assert file.tell() == 0 or not data
    (refusal,) = raised.value.problems
    assert refusal.loc == "body.file" and repr(name) in refusal.msg
    return refusal.msg


def test_the_door_and_the_parsers_know_the_same_families() -> None:
    assert set(FAMILIES) == set(_MODULES)
    assert {f".{extension}" for extension in EXTENSIONS} >= set(SUPPORTED)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("../../etc/a.txt", b"hello"),
        ("a.PDF", b"%PDF-1.7 ..."),
        ("a.docx", DOCX),
        ("renamed.txt", DOCX),
        ("wide.csv", "a,b\n1,2\nlonger,row\n".encode("utf-16-le")),
        ("wide.txt", "a wide text".encode("utf-16")),
        ("a.xls", xls_bytes([["a"]])),
        ("a.msg", ole_bytes({"__properties_version1.0": b""})),
        ("a.zip", zip_bytes({"x/a.txt": "x", "b.docx": DOCX})),
        ("a.tar.gz", tar_bytes([("a.txt", b"x")], "w:gz")),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000)),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        ("a.m4a", b"\0\0\0 ftypisom"),
        ("a.db", b"SQLite format 3\0" + bytes(84)),
        ("a.eml", b"Subject: x\n\ny"),
        ("a.py", b"print()"),
    ],
)
def test_what_parsers_read_comes_in(name: str, data: bytes) -> None:
    file = io.BytesIO(data)
    assert check_upload(name, file) == name.rpartition(".")[2].lower() and file.tell() == 0


def test_each_refusal_names_the_file_and_the_problem() -> None:
    assert "the file is empty" in problem("a.txt", b"")
    assert "files of this kind are not taken" in problem("a.exe", b"MZ")
    assert "not text" in problem("a.csv", b"\0\1\2\3" * 100)
    assert "a program" in problem("a.txt", b"\x7fELF\0\0")
    assert "not of the kind .docx" in problem("a.docx", zip_bytes({"evil.txt": "x"}))
    assert "not of the kind .xlsx" in problem("a.xlsx", DOCX)
    assert "not of the kind .pdf" in problem("a.pdf", ole_bytes({"WordDocument": b""}))
    assert "not a whole .zip file" in problem("a.zip", DOCX[:50])
    assert "unpacks to too much" in problem("a.zip", zip_bytes({"a.txt": bytes(50_000_000)}))
    assert "unpacks to too much" in problem("a.gz", gzip.compress(bytes(80_000_000)))
    assert "archive within an archive" in problem("a.zip", zip_bytes({"b.zip": DOCX}))
    assert "archive within an archive" in problem("a.gz", gzip.compress(gzip.compress(b"x")))
    assert "leads out" in problem("a.zip", zip_bytes({"../../x": "x"}))
    assert "leads out" in problem("a.tar", tar_bytes([("/etc/x", b"x")]))
    assert "a link" in problem("a.tgz", tar_bytes([("x", None)], "w:gz"))
    link = bytearray(zip_bytes({"x": "/etc/passwd"}))
    place = link.index(b"PK\x01\x02")
    link[place + 38 : place + 42] = (0o120777 << 16).to_bytes(4, "little")
    assert "a link" in problem("a.zip", bytes(link))


def test_an_archive_of_too_many_files_is_refused_before_its_directory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_bytes({str(number): "" for number in range(20_000)}, compressed=False)
    monkeypatch.delattr(zipfile, "ZipFile")
    assert "more than 10000" in problem("a.zip", data)

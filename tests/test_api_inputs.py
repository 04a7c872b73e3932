"""The API over HTTP: texts, values and files that users send."""

import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from api_server import UPLOAD, problem, serve

from soldiom_ray.db import inputs
from soldiom_ray.db.engine import open_session
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage, raw_key


def test_texts_and_structured_values_are_kept(api_settings: Settings, api: httpx.Client) -> None:
    for kind, content, stored in (("text", "Grüße", "Grüße"), ("structured", {"b": [1, None]}, '{"b": [1, null]}')):
        body = {"user_id": "u1", "input_type": kind, "content": content, "metadata": {"from": "test"}}
        answer = api.post(UPLOAD, json=body)
        assert answer.status_code == 201, answer.text
        with open_session(api_settings) as session:
            row = inputs.get(session, answer.json()["id"])
            assert (row.content, row.user_id, row.metadata_, row.size_bytes) == (
                stored,
                "u1",
                {"from": "test"},
                len(stored.encode()),
            )
    problem(api.post(UPLOAD, json={"user_id": "u", "input_type": "text", "content": {"a": 1}}), 422)
    problem(api.post(UPLOAD, json={"user_id": "u", "input_type": "file", "content": "x"}), 422)


def test_a_user_deletes_what_is_the_user_s_own_and_leaves_a_trace(
    api_settings: Settings, api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    body = {"user_id": "u9", "input_type": "text", "content": "mine"}
    own = httpx.post(api_url + UPLOAD, json=body, headers=headers).json()["id"]
    with open_session(api_settings) as session:
        tenants = inputs.add(session, user_id="u9", input_type="text", content="x", sha256="0", size_bytes=1).id
        session.commit()
    refused = problem(httpx.delete(f"{api_url}{UPLOAD}/{tenants}", headers=headers), 403)
    assert "not yours" in refused["detail"] and "trainer" in refused["remedy"]
    assert httpx.delete(f"{api_url}{UPLOAD}/{own}", headers=headers).status_code == 204
    problem(httpx.delete(f"{api_url}{UPLOAD}/{own}", headers=headers), 404)
    trail = api.get("/api/audit", params={"limit": 5}).json()["items"]
    assert f"{UPLOAD}/{own}" in {row["object"] for row in trail}
    assert api.delete(f"{UPLOAD}/{tenants}").status_code == 204


def docx(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


GOOD_DOCX = docx({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w/>"})


def test_files_are_kept_under_generated_names_and_shown_under_clean_ones(
    api_settings: Settings, api: httpx.Client
) -> None:
    files = [
        ("file", ("../../etc/a.txt", b"hello", "text/plain")),
        ("file", ("a.txt", b"hello again", "text/plain")),
        ("file", ("a\u202etxt.pdf", b"%PDF-1.7 ...", "application/pdf")),
        ("file", ("CON.docx", GOOD_DOCX, "application/octet-stream")),
        ("file", ("x" * 300 + ".csv", b"a,b\n1,2\n", "text/csv")),
    ]
    answer = api.post(UPLOAD, files=files, data={"user_id": "u2", "metadata": '{"batch": 7}'})
    assert answer.status_code == 201, answer.text
    items = answer.json()["items"]
    assert [item["metadata"]["filename"] for item in items][:4] == ["a.txt", "a.txt", "atxt.pdf", "CON.docx"]
    assert len(items[4]["metadata"]["filename"]) == 200 and items[4]["metadata"]["batch"] == 7
    storage = open_storage(api_settings)
    with open_session(api_settings) as session:
        for item, (_, (_, content, _)) in zip(items, files, strict=True):
            row = inputs.get(session, item["id"])
            assert row.content == raw_key(hashlib.sha256(content).hexdigest()) and row.input_type == "file"
            assert storage.read(row.content) == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.exe", b"MZ"),
        ("a", b"text"),
        ("a.txt", b""),
        ("a.txt", b"\x7fELF\0\0"),
        ("a.pdf", b"PK\x03\x04"),
        ("a.docx", b"%PDF-1.7"),
        ("a.docx", docx({"evil.txt": b"x"})),
        ("a.docx", docx({"[Content_Types].xml": b"", "word/document.xml": b"\0" * 20_000_000})),
        ("a.docx", docx({"[Content_Types].xml": b"", **{f"word/{i}": b"" for i in range(1100)}})),
    ],
)
def test_files_that_are_not_what_they_say_are_refused_with_all_that_came_with_them(
    api_settings: Settings, api: httpx.Client, name: str, content: bytes
) -> None:
    before = open_storage(api_settings).keys("raw")
    answer = api.post(UPLOAD, files=[("file", ("good.txt", b"fine")), ("file", (name, content))])
    assert problem(answer, 422)["errors"][0]["loc"] == "body.file"
    assert open_storage(api_settings).keys("raw") == before


def test_the_same_bytes_are_stored_once_and_go_with_their_last_input(api_settings: Settings, api: httpx.Client) -> None:
    content, storage = b"twice the same", open_storage(api_settings)
    object_key = raw_key(hashlib.sha256(content).hexdigest())
    ids = [api.post(UPLOAD, files={"file": ("a.txt", content)}).json()["items"][0]["id"] for _ in range(2)]
    assert len(set(ids)) == 2 and storage.read(object_key) == content
    assert api.delete(f"{UPLOAD}/{ids[0]}").status_code == 204
    assert storage.exists(object_key)
    problem(api.delete(f"{UPLOAD}/{ids[0]}"), 404)
    assert api.delete(f"{UPLOAD}/{ids[1]}").status_code == 204
    assert not storage.exists(object_key)


def test_a_failed_upload_takes_no_bytes_from_another(
    api_settings: Settings, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own, storage = b"shared with a good one", b"only of the bad one", open_storage(api_settings)
    api.post(UPLOAD, files={"file": ("a.txt", shared)})

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(inputs, "add", broken)
        answer = api.post(UPLOAD, files=[("file", ("a.txt", shared)), ("file", ("b.txt", own))])
    problem(answer, 500)
    assert storage.exists(raw_key(hashlib.sha256(shared).hexdigest()))
    assert not storage.exists(raw_key(hashlib.sha256(own).hexdigest()))


def test_rivals_that_upload_and_delete_the_same_bytes_leave_no_input_without_them(
    api_settings: Settings, api: httpx.Client
) -> None:
    content, storage = b"fought over", open_storage(api_settings)

    def fight() -> None:
        for _ in range(8):
            upload = api.post(UPLOAD, files={"file": ("a.txt", content)}, data={"user_id": "fight"})
            api.delete(f"{UPLOAD}/{upload.json()['items'][0]['id']}")

    threads = [threading.Thread(target=fight) for _ in range(3)]
    for thread in threads:
        thread.start()
    last = api.post(UPLOAD, files={"file": ("a.txt", content)}, data={"user_id": "fight"})
    for thread in threads:
        thread.join()
    assert [row["id"] for row in api.get(UPLOAD, params={"user_id": "fight"}).json()["items"]] == [
        last.json()["items"][0]["id"]
    ]
    assert storage.read(raw_key(hashlib.sha256(content).hexdigest())) == content


def test_an_idempotency_key_makes_an_input_once_and_refuses_another_request(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"user_id": "u", "input_type": "text", "content": "hi"}
    first, again = (api.post(UPLOAD, json=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    problem(api.post(UPLOAD, json=body | {"content": "ho"}, headers=headers), 409)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, headers=headers), 409)
    headers = {"Idempotency-Key": "file-once"}
    responses = [
        api.post(UPLOAD, files={"file": ("a.txt", b"once")}, headers=headers).json()["items"] for _ in range(2)
    ]
    assert responses[0] == responses[1]


def test_inputs_are_listed_in_pages_without_their_content_and_per_tenant(
    api_url: str, api_keys: dict[str, str], api: httpx.Client
) -> None:
    for number in range(3):
        api.post(UPLOAD, json={"user_id": "pager", "input_type": "text", "content": f"secret words {number}"})
    page = api.get(UPLOAD, params={"user_id": "pager", "limit": 2}).json()
    rest = api.get(UPLOAD, params={"user_id": "pager", "limit": 2, "cursor": page["next"]}).json()
    assert len(page["items"]) == 2 and len(rest["items"]) == 1 and rest["next"] is None
    assert "secret words" not in str(page)
    other = {"Authorization": f"Bearer {api_keys['other']}"}
    assert httpx.get(api_url + UPLOAD, headers=other).json()["items"] == []
    problem(httpx.delete(f"{api_url}{UPLOAD}/{page['items'][0]['id']}", headers=other), 404)


def test_quota_and_size_of_uploads_are_kept_with_clear_problems(
    api_settings: Settings, api_keys: dict[str, str]
) -> None:
    with open_session(api_settings) as session:
        used = inputs.kept_bytes(session, "default")
    small = replace(api_settings, upload_max_bytes=5000, upload_quota_bytes=used + 3000, rate_limit="1000/minute")
    server = serve(small)
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    address = next(server) + UPLOAD
    assert httpx.post(address, files={"file": ("a.txt", b"q" * 2000)}, headers=headers).status_code == 201
    before = open_storage(api_settings).keys("raw")
    full = problem(httpx.post(address, files={"file": ("a.txt", b"r" * 2000)}, headers=headers), 507)
    assert "SOLDIOM_UPLOAD_QUOTA_BYTES" in full["remedy"]
    problem(httpx.post(address, files={"file": ("a.txt", b"s" * 9000)}, headers=headers), 413)
    assert open_storage(api_settings).keys("raw") == before
    next(server, None)


def test_a_large_upload_does_not_grow_the_memory_of_the_api(api_settings: Settings, api_keys: dict[str, str]) -> None:
    code = (
        "import sys, os, uvicorn; from soldiom_ray.api.app import make_app;"
        "from soldiom_ray.settings import load_settings; import socket;"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(64); print(s.getsockname()[1], flush=True);"
        "c = uvicorn.Config(make_app(load_settings(), reconciles=False), log_level='critical', lifespan='off');"
        "uvicorn.Server(c).run(sockets=[s])"
    )
    environ = {
        "SOLDIOM_HOME": str(api_settings.home),
        "SOLDIOM_DATABASE_URL": str(api_settings.database_url),
        "PATH": "/bin",
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}{UPLOAD}"
        headers = {"Authorization": f"Bearer {api_keys['user']}"}
        assert httpx.post(address, files={"file": ("a.txt", b"warm")}, headers=headers, timeout=60).status_code == 201
        before = _peak_kib(process.pid)
        line = b"The quick brown fox jumps over the lazy dog.\n" * 1000
        size = 200 << 20

        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n\r\n'
            for _ in range(size // len(line)):
                yield line
            yield b"\r\n--x--\r\n"

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(address, content=body(), headers=headers | kind, timeout=300)
        assert answer.status_code == 201, answer.text
        assert answer.json()["items"][0]["size_bytes"] == size // len(line) * len(line)
        assert _peak_kib(process.pid) - before < 32 << 10
    finally:
        process.kill()
        process.wait()


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def test_an_upload_without_a_file_or_with_bad_metadata_is_refused(api: httpx.Client) -> None:
    problem(api.post(UPLOAD, files={"other": (None, "x")}), 422)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, data={"metadata": "[1]"}), 422)
    problem(api.post(UPLOAD, files={"file": ("a.txt", b"x")}, data={"metadata": "{"}), 400)
    problem(
        api.post(UPLOAD, content=b"--x\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=x"}), 422
    )
    problem(api.post(UPLOAD, content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    many = [("file", (f"{i}.txt", b"x")) for i in range(21)]
    problem(api.post(UPLOAD, files=many), 400)

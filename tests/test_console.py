"""The console as the API serves it: its files and no others, its policy, where `/` leads, other sites' pages, and that
the bundle in the package is the one that the sources build."""

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_server import listen
from conftest import ROOT

sys.path.insert(0, str(ROOT / "console"))
import build

from soldiom_ray.api.app import make_app
from soldiom_ray.settings import load_settings

MOST_BYTES = 80_000
PAGE = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an API that has no services: the console's files need none."""
    variables = {"SOLDIOM_HOME": str(tmp_path_factory.mktemp("home")), "SOLDIOM_API_HOSTS": "console.example.net"}
    for url in listen(make_app(load_settings(variables), reconciles=False)):
        with httpx.Client(base_url=url, trust_env=False) as client:
            yield client


def assets(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(/soldiom/[^"]+)"', page)


def test_the_bundle_in_the_package_was_built_from_the_sources_that_are_here() -> None:
    assert build.recorded_hash() == build.source_hash(), "console/ has changed: make console"


def test_the_consoles_types_were_made_from_the_apis_description() -> None:
    assert build.DOCUMENT.read_text() == build.document_text(build.api_document()), "the API has changed: make console"


def test_packages_come_in_exact_versions_with_their_hashes_and_from_no_address_of_their_own() -> None:
    packages = json.loads((ROOT / "console" / "package-lock.json").read_text())["packages"]
    assert all("integrity" in package and "resolved" not in package for name, package in packages.items() if name)
    pinned = (ROOT / "console" / "package.json").read_text()
    assert not re.search(r'": "[~^>*]', pinned)


def test_a_browser_is_led_to_the_console_and_everybody_else_to_the_description(console: httpx.Client) -> None:
    browser = console.get("/", headers={"Accept": PAGE})
    assert (browser.status_code, browser.headers["location"], browser.headers["vary"]) == (307, "soldiom/", "Accept")
    for accept in ("*/*", "application/json", ""):
        assert console.get("/", headers={"Accept": accept}).headers["location"] == "docs"
    assert console.get("/soldiom").headers["location"] == "soldiom/"
    assert console.get("/", headers={"Accept": PAGE}, follow_redirects=True).text.startswith("<!doctype html>")


def test_the_page_may_run_and_load_nothing_but_its_own_files(console: httpx.Client) -> None:
    page = console.get("/soldiom/")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "style-src 'self';" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "trusted-types 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(
        r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|//[a-z]", page.text.replace("<!doctype html>", "")
    )


def test_files_are_whole_packed_small_and_kept(console: httpx.Client) -> None:
    page = console.get("/soldiom/")
    names = assets(page.text)
    assert {name.rpartition(".")[2] for name in names} == {"js", "css", "svg"}
    total = 0
    for name in ("/soldiom/", *names):
        plain = console.get(name, headers={"Accept-Encoding": "identity"})
        with console.stream("GET", name, headers={"Accept-Encoding": "gzip"}) as packed:
            raw = b"".join(packed.iter_raw())
        assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(raw) == plain.content
        assert console.get(name, headers={"If-None-Match": plain.headers["etag"]}).status_code == 304
        assert ("immutable" in plain.headers["cache-control"]) is ("/assets/" in name)
        assert console.head(name).headers["content-type"] == plain.headers["content-type"]
        total += len(raw)
    assert total < MOST_BYTES


@pytest.mark.parametrize(
    "path",
    [
        *("../pyproject.toml", "..%2f..%2fpyproject.toml", "assets/..%2f..%2f..%2fpy.typed", "%2e%2e/py.typed"),
        *("sources.json", "assets/", "assets", "index.html/x", "//etc/passwd", "..\\..\\py.typed", "assets/%00.js"),
    ],
)
def test_no_address_below_it_leads_to_another_file(console: httpx.Client, path: str) -> None:
    response = console.get(httpx.URL(str(console.base_url) + "/soldiom/", raw_path=f"/soldiom/{path}".encode()))
    assert response.status_code == 404 and "soldiom_ray" not in response.text


def test_pages_of_listed_names_may_read_and_others_may_not_call(console: httpx.Client) -> None:
    listed = {"Origin": "https://console.example.net"}
    answer = console.get("/healthz", headers=listed)
    assert answer.headers["access-control-allow-origin"] == "https://console.example.net"
    assert "Origin" in answer.headers["vary"] and "access-control-allow-credentials" not in answer.headers
    refused = console.get("/api/models", headers=listed)
    assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    asked = console.options("/api/training/jobs", headers=listed | asks)
    assert asked.status_code == 204 and "Authorization" in asked.headers["access-control-allow-headers"]
    for origin in ("https://evil.example", "https://console.example.net.evil.com", "null"):
        stranger = console.get("/healthz", headers={"Origin": origin})
        assert stranger.status_code == 403 and "access-control-allow-origin" not in stranger.headers
    own = console.get("/healthz", headers={"Origin": str(console.base_url).rstrip("/")})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


def test_both_languages_say_the_same_things() -> None:
    """The compiler holds their types together; here, that no text of one was left in the other."""
    folder = ROOT / "console" / "src" / "i18n"
    english, arabic = ((folder / f"{name}.ts").read_text() for name in ("en", "ar"))
    texts = re.findall(r'"([A-Z][a-z][^"]{11,})"', english)
    assert len(texts) > 100
    assert [text for text in texts if f'"{text}"' in arabic] == []


def test_the_key_is_kept_in_the_tab_only() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "console" / "src").rglob("*.ts*")}
    stores = [name for name, text in sources.items() if "localStorage" in text]
    assert stores == ["state.ts"] and set(re.findall(r'remember\("([\w.]+)"', sources["state.ts"])) == {
        "soldiom.language",
        "soldiom.appearance",
    }
    assert not [
        name for name, text in sources.items() if re.search(r"innerHTML|dangerously|document\.cookie|eval\(", text)
    ]


def test_the_folder_of_the_bundle_holds_nothing_else() -> None:
    names = {path.suffix for path in Path(build.BUNDLE).rglob("*") if path.is_file()}
    assert names == {".html", ".js", ".css", ".svg", ".json"}

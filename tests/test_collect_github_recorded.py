"""Exchanges recorded from GitHub itself, replayed to the real client: what it makes of each."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from collecting import make_context

from soldiom_ray.collect.github.accounts import Accounts
from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.collect.github.search import repository_fields
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError

RECORDED = Path(__file__).parents[2] / "shared" / "data" / "api_github"
pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"the recorded exchanges are not at {RECORDED}")
REPOSITORY = "/repos/octokit-fixture-org/hello-world"


class Replay(ThreadingHTTPServer):
    """Answers every recorded path as it was answered then, whatever the method; addresses of GitHub lead here."""

    def __init__(self) -> None:
        self.exchanges: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, int]] = []
        for path in sorted(RECORDED.glob("*/normalized-fixture.json")):
            self.exchanges |= {exchange["path"]: exchange for exchange in json.loads(path.read_text())}
        super().__init__(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


def same(url: str, other: str) -> bool:
    """Whether two addresses differ at most in how the query is written: PyGithub sorts it."""
    first, second = urlsplit(url), urlsplit(other)
    return first.path == second.path and sorted(parse_qsl(first.query)) == sorted(parse_qsl(second.query))


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replay

    def do_GET(self) -> None:
        exchange = next(exchange for path, exchange in self.server.exchanges.items() if same(path, self.path))
        content = exchange["response"]
        recorded_headers: Mapping[str, Any] = exchange["headers"]
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        known = "etag" in recorded_headers and self.headers.get("If-None-Match") == recorded_headers["etag"]
        status = 304 if known else exchange["status"]
        self.server.asked.append((self.path, status))
        self.send_response_only(status)
        for key, value in recorded_headers.items():
            if key not in ("connection", "content-length", "transfer-encoding", "content-encoding"):
                self.send_header(key, str(value).replace("https://api.github.com", self.server.url))
        self.send_header("Content-Length", "0" if known else str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if known else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api(replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GithubApi:
    monkeypatch.setattr("soldiom_ray.collect.github.api.FIRST_RETRY_SECONDS", 0.001)
    settings = make_context(tmp_path, SOLDIOM_GITHUB_API_URL=replay.url, SOLDIOM_GITHUB_TOKEN="one").settings
    return GithubApi(settings, Accounts(settings), lambda message: None)


def whole(headers: Mapping[str, str], data: Any) -> Any:
    return data


def test_a_repository_is_understood_and_costs_a_304_the_second_time(replay: Replay, api: GithubApi) -> None:
    first = api.get(REPOSITORY, extract=lambda headers, data: repository_fields(data))
    assert first.value == {
        "id": 1000, "name": "octokit-fixture-org/hello-world", "stars": 42, "pushed_at": "2017-10-10T16:00:00Z",
        "branch": "master", "license": "", "topics": ["fixtures", "hello", "hello-world"], "description": "",
        "forks": 42, "language": "",
        "created_at": "2017-10-10T16:00:00Z", "homepage": "", "size_kib": first.value["size_kib"], "gone": False,
        "page": "https://github.com/octokit-fixture-org/hello-world",
    }  # fmt: skip
    second = api.get(REPOSITORY, extract=lambda headers, data: repository_fields(data))
    assert second.unchanged and second.value == first.value
    assert [status for _, status in replay.asked] == [200, 304]


def test_the_root_and_a_folder_are_json(api: GithubApi) -> None:
    assert "repository_search_url" in api.get("/", extract=whole).value
    assert [file["name"] for file in api.get(f"{REPOSITORY}/contents/", extract=whole).value] == ["README.md"]


def test_a_raw_file_is_not_taken_for_json(api: GithubApi) -> None:
    with pytest.raises(SkippedError) as caught:
        api.get(f"{REPOSITORY}/contents/README.md", extract=whole)
    assert caught.value.reason == "unavailable" and "not what was asked for" in caught.value.detail


def test_a_search_tells_its_count_and_issues_are_not_repositories(replay: Replay, api: GithubApi) -> None:
    path = next(path for path in replay.exchanges if path.startswith("/search/"))
    page = api.get(path, extract=lambda headers, data: [data["total_count"], len(data["items"])], resource="search")
    assert page.value == [2, 2]
    with pytest.raises(SkippedError, match="unavailable"):
        api.get(path, extract=lambda headers, data: repository_fields(data["items"][0]), resource="search")


def test_pages_are_followed_to_the_last_by_their_links(replay: Replay, api: GithubApi) -> None:
    path, titles = "/repos/octokit-fixture-org/paginate-issues/issues?per_page=3", []
    while path:
        page = api.get(path, extract=lambda headers, data: [headers["link"], [issue["title"] for issue in data]]).value
        titles += page[1]
        following = re.search(rf'<{replay.url}([^>]+)>; rel="next"', page[0])
        path = following[1] if following else ""
    assert titles == [f"Test issue {number}" for number in range(13, 0, -1)]


def test_a_validation_error_is_told_for_a_search_and_left_out_elsewhere(replay: Replay, api: GithubApi) -> None:
    refused = replay.exchanges["/repos/octokit-fixture-org/errors/labels"]
    with pytest.raises(SkippedError) as caught:
        api.get("/repos/octokit-fixture-org/errors/labels", extract=whole)
    assert (caught.value.reason, caught.value.detail) == ("refused", "GitHub answered 422")
    replay.exchanges["/search/repositories?q=x"] = refused
    with pytest.raises(InputError, match="Validation Failed"):
        api.get("/search/repositories", {"q": "x"}, extract=whole, resource="search")


def test_resets_that_were_recorded_in_milliseconds_and_long_ago_hold_nobody_back(
    replay: Replay, api: GithubApi
) -> None:
    replay.exchanges[REPOSITORY]["headers"]["x-ratelimit-remaining"] = "0"
    api.get(REPOSITORY, extract=whole)
    assert api.accounts.paused_seconds() <= 1.0

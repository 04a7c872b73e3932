"""GitHub's part: search that filters, repositories with their lives, trees, archives, ETags, accounts and limits."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode

from stand_in.repository import Repository, listed, matches, qualifiers, shown, tarball, tree

SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."


@dataclass
class Secondary:
    """A secondary limit: it trips when more than `most` requests of an account came within `window_seconds`, and then
    asks for silence, in the four ways GitHub has, one after the other."""

    most: int
    window_seconds: float
    silent_seconds: float
    tripped: int = 0


class GithubWorld:
    """All repositories. `limits` are per account and resource: (how many requests, window in seconds); `accounts` names
    the account of a token that is not one by itself, `mute` the tokens that may not ask whose they are. `on_page` is
    called after every page of a search."""

    def __init__(self, stand_in: Any) -> None:
        self.stand_in = stand_in
        self.repositories: list[Repository] = []
        self.limits: dict[str, tuple[int, float]] = {"core": (5000, 3600.0), "search": (3000, 60.0)}
        self.anonymous_limit: int | None = None
        self.accounts: dict[str, int] = {}
        self.mute: set[str] = set()
        self.used: dict[tuple[str, str], list[float]] = {}
        self.exhausted_requests = 0
        self.secondary: Secondary | None = None
        self.arrivals: list[float] = []
        self.archive_elsewhere = False
        self.incomplete_searches = 0
        self.search_etags = True
        self.trees_by_id = True
        self.unchanged = 0
        self.on_page: Callable[[], None] = lambda: None

    def answer(self, request: Any, make: Any) -> Any:
        resource = "search" if request.path.startswith("/search") else "core"
        if not request.path.startswith(("/repos", "/search", "/repositories", "/user")):
            return self._answer(request, make)
        if refused := self._secondary(make):
            return refused
        token = request.headers.get("authorization", "").rpartition(" ")[2]
        account = str(self.accounts.get(token, token))
        if self._left(account, resource) <= 0:
            self.exhausted_requests += 1
            status = (403, 429)[self.exhausted_requests % 2]
            body = _json({"message": "API rate limit exceeded for user ID 1."})
            return make(status, body, _TYPE | self._limit_headers(account, resource))
        answer = self._answer(request, make)
        unchanged = self._conditional(request, answer, token, make)
        if unchanged is None:
            self.used.setdefault((account, resource), []).append(time.time())
        answer = unchanged or answer
        answer.headers = self._limit_headers(account, resource) | answer.headers
        return answer

    def _conditional(self, request: Any, answer: Any, token: str, make: Any) -> Any:
        """An ETag for each token and content; a 304 when it is the one that was asked with."""
        if answer.status != 200 or (request.path.startswith("/search") and not self.search_etags):
            return None
        digest = hashlib.sha256(token.encode() + request.path.encode() + answer.body).hexdigest()[:32]
        answer.headers["ETag"] = f'W/"{digest}"'
        if request.headers.get("if-none-match") != answer.headers["ETag"]:
            return None
        self.unchanged += 1
        return make(304, b"", {"ETag": answer.headers["ETag"]})

    def _secondary(self, make: Any) -> Any:
        limit, now = self.secondary, time.time()
        if limit is None:
            return None
        self.arrivals = [moment for moment in self.arrivals if moment > now - limit.window_seconds] + [now]
        if len(self.arrivals) <= limit.most:
            return None
        status, has_retry_after = ((403, True), (429, False), (429, True), (403, False))[limit.tripped % 4]
        limit.tripped += 1
        self.arrivals = []
        self.stand_in.silent_until = now + limit.silent_seconds
        headers = {"Retry-After": str(int(limit.silent_seconds) + 1)} if has_retry_after else {}
        return make(status, _json({"message": SECONDARY}), _TYPE | headers)

    def _answer(self, request: Any, make: Any) -> Any:
        if request.path == "/search/repositories":
            return self._search(request, make)
        if request.path == "/user":
            return self._user(request, make)
        if match := re.fullmatch(r"/archive/([^/]+/[^/]+)", request.path):
            repository = next(repository for repository in self.repositories if repository.full_name == match[1])
            return make(200, repository.archive or tarball(repository), {"Content-Type": "application/x-gzip"})
        match = re.fullmatch(r"/(?:repos/([^/]+/[^/]+)|repositories/(\d+))(/.*)?", request.path)
        if not match:
            return _missing(make)
        return self._repository(match[1], int(match[2] or 0), match[3] or "", request, make)

    def _user(self, request: Any, make: Any) -> Any:
        token = request.headers.get("authorization", "").rpartition(" ")[2]
        if not token:
            return make(401, _json({"message": "Requires authentication"}), _TYPE)
        if token in self.mute:
            return make(403, _json({"message": "Resource not accessible by integration"}), _TYPE)
        number = int(hashlib.sha256(token.encode()).hexdigest()[:6], 16)
        return make(200, _json({"id": self.accounts.get(token, number), "login": "somebody"}), _TYPE)

    def _repository(self, name: str | None, number: int, rest: str, request: Any, make: Any) -> Any:
        repository = next(
            (repository for repository in self.repositories if repository.full_name == name or repository.id == number),
            None,
        )
        moved = next((repository for repository in self.repositories if name and repository.old_name == name), None)
        if repository is None and moved:
            query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
            place = f"repositories/{moved.id}" if self.trees_by_id else f"repos/{moved.full_name}"
            target = f"{self.stand_in.url}/{place}{rest}{query}"
            return make(301, _json({"message": "Moved Permanently", "url": target}), _TYPE | {"Location": target})
        if repository is None or repository.life == "deleted" or (number and rest and not self.trees_by_id):
            return _missing(make)
        if repository.life == "blocked":
            body = {"message": "Repository access blocked", "block": {"reason": "dmca"}}
            return make(451, _json(body), _TYPE)
        if repository.life == "forbidden":
            return make(403, _json({"message": "Resource not accessible by personal access token"}), _TYPE)
        if not rest:
            return make(200, _json(shown(repository)), _TYPE)
        if repository.life == "empty":
            return make(409, _json({"message": "Git Repository is empty."}), _TYPE)
        if (branch := unquote(rest.rpartition("/")[2])) not in (repository.branch, "HEAD"):
            return make(404, _json({"message": f"No commit found for the ref {branch}"}), _TYPE)
        if rest.startswith("/git/trees/"):
            return make(200, _json(tree(repository, self.stand_in.url)), _TYPE)
        if rest.startswith("/tarball/"):
            host = self.stand_in.other_url if self.archive_elsewhere else self.stand_in.url
            return make(302, b"", {"Location": f"{host}/archive/{quote(repository.full_name)}"})
        return _missing(make)

    def _search(self, request: Any, make: Any) -> Any:
        query = request.query["q"][0]
        page, size = int(request.query.get("page", ["1"])[0]), int(request.query.get("per_page", ["30"])[0])
        if (page - 1) * size >= 1000:
            return make(422, _json({"message": "Only the first 1000 search results are available"}), _TYPE)
        if len(re.sub(r'\w+:(?:"[^"]*"|\S+)', "", query)) > 256:
            return make(422, _json({"message": "The search is longer than 256 characters."}), _TYPE)
        if len(re.findall(r"\b(?:AND|OR|NOT)\b", query)) > 5:
            return make(422, _json({"message": "More than five AND / OR / NOT operators were used."}), _TYPE)
        criteria = qualifiers(query)
        hits = sorted(
            (repository for repository in self.repositories if matches(repository, criteria)),
            key=lambda repository: (-repository.stars, repository.id),
        )
        page_of = hits[:1000][(page - 1) * size : page * size]
        incomplete = self.incomplete_searches > 0
        self.incomplete_searches -= incomplete
        body = {
            "total_count": len(hits),
            "incomplete_results": incomplete,
            "items": [listed(repository) for repository in (page_of[: len(page_of) // 2] if incomplete else page_of)],
        }
        headers = dict(_TYPE)
        if page * size < min(len(hits), 1000):
            following = urlencode({"q": query, "page": page + 1, "per_page": size})
            headers["Link"] = f'<{self.stand_in.url}/search/repositories?{following}>; rel="next"'
        self.on_page()
        return make(200, _json(body), headers)

    def _limit(self, account: str, resource: str) -> tuple[int, float]:
        limit, window = self.limits[resource]
        return (limit if account or self.anonymous_limit is None else self.anonymous_limit), window

    def _left(self, account: str, resource: str) -> int:
        limit, window = self._limit(account, resource)
        used = [moment for moment in self.used.get((account, resource), []) if moment > time.time() - window]
        self.used[account, resource] = used
        return limit - len(used)

    def _limit_headers(self, account: str, resource: str) -> dict[str, str]:
        limit, window = self._limit(account, resource)
        left = self._left(account, resource)
        used = self.used[account, resource]
        reset = (used[0] if used else time.time()) + window + self.stand_in.clock_ahead_seconds
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Used": str(len(used)),
            "X-RateLimit-Reset": str(int(reset) + 1),
            "X-RateLimit-Resource": resource,
        }


_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def _missing(make: Any) -> Any:
    return make(404, _json({"message": "Not Found"}), _TYPE)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()

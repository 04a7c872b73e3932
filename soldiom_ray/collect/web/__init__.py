"""Source `url`: an HTTP endpoint that gives JSON, JSON Lines, CSV or any document that files may be, page by page, once
or polled.

The endpoint is requested while planning, because its content decides whether an earlier collection can be reused. The
bytes of every page are stored by hash together with its ETag and Last-Modified, so an endpoint that did not change
costs one 304 per page. A page is counted as collected, as unchanged (its bytes came before in this collection), or
under the reason why it gave nothing; the empty page after the last one is not counted.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from soldiom_ray.artifacts import Context
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.files import data_type, parse_once
from soldiom_ray.collect.raw import raw_key, store_raw
from soldiom_ray.collect.tasks import COLLECTED, Task, TaskList, TaskResult, document_id
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.collect.web.fetch import FetchedBody, Fetcher
from soldiom_ray.domains.connections import check_endpoint, origin_of, public_address
from soldiom_ray.domains.file_types import SUPPORTED
from soldiom_ray.domains.secrets import address_of, headers_of
from soldiom_ray.domains.sources import UrlSource
from soldiom_ray.errors import InputError, SoldiomError, UnavailableError
from soldiom_ray.records import Document
from soldiom_ray.settings import Settings
from soldiom_ray.storage import Storage, open_storage

PAGES_PER_TASK = 16
RECORD_PARTS = ("row ", "record ")


@dataclass(frozen=True, slots=True)
class Page:
    """One page as it is stored: its address, the hash of its bytes, and a file name that says what they are."""

    url: str
    sha256: str
    name: str
    link: str = ""
    etag: str = ""
    modified: str = ""


@dataclass(frozen=True)
class ParsePages:
    """A task: the documents of some pages."""

    pages: tuple[Page, ...]
    declared: UrlSource
    settings: Settings
    collected_at: datetime
    local_only: bool = False

    def run(self) -> TaskResult:
        """Documents of the pages; a page that cannot be parsed is counted."""
        result, storage, declared = TaskResult(), open_storage(self.settings), self.declared
        location = _location(declared.url)
        with Sandbox() as sandbox:
            for page in self.pages:
                try:
                    data = storage.read(raw_key(page.sha256))
                    if declared.records:
                        records = _value_at(_read_json(data), declared.records)
                        data = json.dumps(records, ensure_ascii=False).encode(errors="surrogatepass")
                    texts = parse_once(page.name, data, ParseOptions(declared.columns), sandbox, storage)
                except SkippedError as skipped:
                    result.skip("user", location, _path(page.url), skipped.reason, skipped.detail)
                    continue
                documents = [_document(page, location, parsed, self.collected_at) for parsed in texts]
                result.outcomes[COLLECTED] += len(documents)
                result.documents.extend(documents)
                result.facts[f"{data_type(page.name)}_files"] += 1
                for role, column in sorted((texts[0].metadata.get("columns") or {}).items()):
                    result.facts[f"column {role}={column}"] += 1
        return result


@dataclass
class UrlPlan:
    """The pages that were received. `fingerprint` holds the hashes of their bytes, in their order, and the failures."""

    declared: UrlSource
    settings: Settings
    collected_at: datetime
    pages: Sequence[Page]
    result: TaskResult

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Which pages came, and what failed."""
        failures = {name: count for name, count in sorted(self.result.outcomes.items()) if name != "unchanged"}
        return {"pages": [page.sha256 for page in self.pages], "failed": failures}

    def list_tasks(self, report: Callable[[float, str], None]) -> TaskList:
        """A task per PAGES_PER_TASK pages."""
        starts = range(0, len(self.pages), PAGES_PER_TASK)
        tasks: list[Task] = [
            ParsePages(tuple(self.pages[s : s + PAGES_PER_TASK]), self.declared, self.settings, self.collected_at)
            for s in starts
        ]
        return TaskList(tasks, self.result)


def plan(declared: UrlSource, context: Context, collected_at: datetime) -> UrlPlan:
    """Ask the endpoint, as often as declared. Raises InputError or UnavailableError when its very first page does not
    come."""
    secret = headers_of(context.settings, context.keeper, declared.url, declared.headers)
    missing = sorted(set(declared.headers) - set(secret))
    if missing:
        raise InputError(
            f"No value is kept for the header {missing[0]!r} of {origin_of(declared.url)}.",
            remedy="give it with --header-env NAME=VARIABLE, or in the recipe's `headers`",
        )
    address = address_of(context.settings, context.keeper, declared.url)
    poller = Poller(declared.model_copy(update={"url": address}), open_storage(context.settings), secret, context)
    for number in range(declared.polls):
        if number:
            poller.pause(declared.interval_seconds)
        poller.poll()
    return UrlPlan(declared, context.settings, collected_at, list(poller.pages.values()), poller.result)


@dataclass
class Poller:
    """Requests the pages of an endpoint, whose address has its secrets here and nowhere else. `pages` holds the
    distinct ones by their hash, in the order of arrival."""

    declared: UrlSource
    storage: Storage
    secret: Mapping[str, str]
    context: Context
    pages: dict[str, Page] = field(default_factory=dict)
    result: TaskResult = field(default_factory=TaskResult)

    def __post_init__(self) -> None:
        settings, declared = self.context.settings, self.declared
        self.location = _location(declared.url)
        self.fetcher = Fetcher(
            settings.private_hosts, declared.private, declared.max_bytes, declared.timeout_seconds, self.pause
        )

    def pause(self, seconds: float) -> None:
        """Wait, and report meanwhile, which raises CancelledError when the job has to stop."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            self.context.report(0.0, f"{self.location}: {len(self.pages)} pages, waiting {remaining:.0f} s")
            time.sleep(min(remaining, 1.0))

    def poll(self) -> None:
        """Ask for the first page and those that follow it."""
        declared, urls, hashes = self.declared, set[str](), set[str]()
        url = _with_parameter(declared.url, declared.page, "1") if declared.page else declared.url
        for number in range(1, declared.max_pages + 1):
            if url in urls:
                self.result.skip("user", self.location, _path(url), "page_loop", "the pages lead back to this one")
                return
            urls.add(url)
            self.context.report(0.0, f"{self.location}: page {number}")
            try:
                page = self._page(url)
                following = self._following(page, url, number)
            except SkippedError as skipped:
                if not self.pages and not self.result.outcomes:
                    raise _as_error(self.location, skipped) from skipped
                self.result.skip("user", self.location, _path(url), skipped.reason, skipped.detail)
                return
            if page.sha256 in hashes:
                self.result.skip("user", self.location, _path(url), "page_loop", "the same page came again")
                return
            hashes.add(page.sha256)
            if page.sha256 in self.pages:
                self.result.outcomes["unchanged"] += 1
            elif following is not None:
                self.pages[page.sha256] = page
            if not following:
                return
            url = following
        self.result.facts["more_pages"] += 1

    def _page(self, url: str) -> Page:
        """The page, from the endpoint or, when it says that nothing changed, from storage."""
        identity = [self.context.tenant, url, sorted(self.secret.items())]
        key = f"kept/url/{hashlib.sha256(json.dumps(identity).encode()).hexdigest()}.json"
        cached = Page(**json.loads(self.storage.read(key))) if self.storage.exists(key) else None
        cached = replace(cached, url=public_address(cached.url)) if cached else None
        if cached is not None and not self.storage.exists(raw_key(cached.sha256)):
            cached = None
        conditions = {}
        if cached is not None:
            validators = {"If-None-Match": cached.etag, "If-Modified-Since": cached.modified}
            conditions = {name: value for name, value in validators.items() if value}
        response = self.fetcher.get(url, conditions, self.secret)
        if response.status == 304:
            if cached is None:
                raise SkippedError("damaged", "it answered 304 to a question without a condition")
            self.result.facts["not_modified"] += 1
            return cached
        page = self._store_page(url, response)
        self.storage.write(key, json.dumps(asdict(page)).encode())
        return page

    def _store_page(self, url: str, response: FetchedBody) -> Page:
        name = _file_name(response)
        declared = self.declared
        if name.endswith((".html", ".htm")) and not urlsplit(url).path.lower().endswith((".html", ".htm")):
            raise SkippedError(
                "wrong_type", "it answered with a web page where data was expected (a login or an error page?)"
            )
        if name.endswith(".json") or declared.records or declared.next or declared.page:
            _read_json(response.body)
            name = name if name.endswith(".json") else "answer.json"
        etag, modified = response.headers.get("etag", ""), response.headers.get("last-modified", "")
        link = response.headers.get("link", "")[:8000]
        return Page(public_address(url), store_raw(self.storage, response.body), name, link, etag, modified)

    def _following(self, page: Page, url: str, number: int) -> str | None:
        """The address of the page after this one at `url`, "" after the last, None when this one is empty and past the
        last."""
        declared = self.declared
        value = None
        if declared.records or declared.next or declared.page:
            value = _read_json(self.storage.read(raw_key(page.sha256)))
        records = _value_at(value, declared.records) if declared.records else value
        if declared.page:
            if not isinstance(records, list):
                raise SkippedError(
                    "wrong_records", "`page` needs a list of records: say where it stands with `records`"
                )
            if not records:
                return None if number > 1 else ""
            return _with_parameter(url, declared.page, str(number + 1))
        if declared.next:
            cursor = _value_at(value, declared.next, missing=None)
            if cursor in (None, "", False):
                return ""
            if isinstance(cursor, dict | list):
                raise SkippedError(
                    "wrong_records", f"what stands at {declared.next!r} is neither an address nor a cursor"
                )
            if declared.cursor:
                return _with_parameter(declared.url, declared.cursor, str(cursor))
            return self._same_origin(urljoin(url, str(cursor)))
        links = re.findall(r"<([^<>]*)>([^<]*)", page.link)
        is_next = re.compile(r";\s*rel\s*=\s*\"?[\w ]*\bnext\b")
        target = next((target for target, parameters in links if is_next.search(parameters)), "")
        return self._same_origin(urljoin(url, target)) if target else ""

    def _same_origin(self, url: str) -> str:
        """Pages stay at their origin, since the secrets and the declaration are for that one."""
        url = url.partition("#")[0]
        try:
            check_endpoint(url)
        except ValueError as error:
            raise SkippedError("wrong_records", "the next page's address is no http address") from error
        if origin_of(url) != origin_of(self.declared.url):
            raise SkippedError("wrong_records", f"the next page lies at another origin: {origin_of(url)[:100]}")
        return url


def _as_error(location: str, skipped: SkippedError) -> SoldiomError:
    message = f"{location} gave nothing: {skipped.detail or skipped.reason}."
    if skipped.reason in ("unavailable", "timeout"):
        return UnavailableError(message, remedy="check the address, or run it again later")
    remedies = {
        "private_address": "an administrator allows it with SOLDIOM_PRIVATE_HOSTS or `private: true`",
        "refused": "check the headers: --header-env NAME=VARIABLE",
        "too_large": "ask for smaller pages, or raise `max_bytes`",
        "wrong_records": "correct `records`, `next` or `page`",
    }
    return InputError(message, remedy=remedies.get(skipped.reason, "check the address"))


def _document(page: Page, location: str, parsed: ParsedText, collected_at: datetime) -> Document:
    """A record is identified by the endpoint and its text, so that it may move to another page; other texts by their
    page."""
    digest = hashlib.sha256(parsed.text.encode(errors="surrogatepass")).hexdigest()
    is_record = parsed.part.startswith(RECORD_PARTS)
    part = f"#{parsed.part.replace(' ', '-')}" if parsed.part else ""
    return Document(
        id=document_id("user", location if is_record else f"{page.url}{part}", digest),
        text=parsed.text,
        source="user",
        url=f"{page.url}{part}",
        path=f"{_path(page.url)}{part}",
        group=f"{location}#{digest[:16]}" if is_record else location,
        sha256=digest,
        kind="documentation" if data_type(page.name) == "text" else "other",
        language="text",
        rule="url",
        collected_at=collected_at,
        metadata=json.dumps(parsed.metadata | {"file_sha256": page.sha256}),
    )


def _file_name(response: FetchedBody) -> str:
    """A name with an ending that says what the bytes are: by what they begin with, the media type, the address."""
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    ending = PurePosixPath(urlsplit(response.url).path.lower()).suffix
    head = response.body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not response.body.strip():
        raise SkippedError("empty", "it answered with nothing")
    if head.startswith((b"<!doctype html", b"<html")) or media in ("text/html", "application/xhtml+xml"):
        return "answer.html"
    if media in ("application/jsonl", "application/x-jsonlines", "application/jsonlines", "application/ndjson"):
        return "answer.jsonl"
    if media.endswith("+json") or media == "text/json":
        return "answer.json"
    suffix_of_type = next((suffix for suffix, type_ in SUPPORTED.items() if type_ == media), "")
    if suffix_of_type and suffix_of_type != ".txt":
        return f"answer{suffix_of_type}"
    if ending in SUPPORTED:
        return f"answer{ending}"
    return "answer.json" if head.startswith((b"{", b"[")) and not suffix_of_type else "answer.txt"


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SkippedError("damaged", "it is not UTF-8, as JSON has to be") from error
    except RecursionError as error:
        raise SkippedError("damaged", "it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise SkippedError("damaged", f"it is no JSON from character {error.pos} on") from error
    except ValueError as error:
        raise SkippedError("damaged", "it holds a number that is too large") from error


_REQUIRED = object()


def _value_at(value: Any, path: str, missing: Any = _REQUIRED) -> Any:
    """The value at a dotted path; without `missing`, a list that must be there. Raises SkippedError wrong_records."""
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 9 and int(name) < len(value):
            value = value[int(name)]
        elif missing is not _REQUIRED:
            return missing
        else:
            known = ", ".join(repr(str(key)[:40]) for key in list(value)[:10]) if isinstance(value, dict) else ""
            raise SkippedError(
                "wrong_records", f"nothing stands at {path!r}" + (f"; known there: {known}" if known else "")
            )
    if missing is _REQUIRED and not isinstance(value, list):
        raise SkippedError("wrong_records", f"what stands at {path!r} is no list of records")
    return value


def _with_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    others = [(key, old) for key, old in parse_qsl(parts.query, keep_blank_values=True) if key != name]
    return urlunsplit(parts._replace(query=urlencode([*others, (name, value)]), fragment=""))


def _location(url: str) -> str:
    """The endpoint without its query, which may hold secrets."""
    return urlunsplit(urlsplit(public_address(url))._replace(query="", fragment=""))


def _path(url: str) -> str:
    parts = urlsplit(public_address(url))
    return f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"

"""A person's way through the console in Debian's Chromium, on the real services: from an upload to a rated answer, the
first half in English, the second in Arabic, and every page without barriers that axe-core finds."""

import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from api_server import serve
from conftest import Home
from login_server import LoginServer, provider

from soldiom_ray.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
JOB_MILLISECONDS = 240_000
PLACES = ("home", "data", "train", "models", "try", "specialists", "monitor", "access")
TOPICS = ("rent", "deposit", "notice", "repair", "garden", "parking", "heating", "water", "pets", "noise")

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page with storage of its own; what its console complains of fails the test. Where a test fails, what was asked
    last and what the page shows is told."""
    made = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
    complaints: list[str] = []
    calls: deque[str] = deque(maxlen=30)
    made.on("request", lambda request: calls.append(f"asked {request.method} {request.url[:200]}"))
    made.on("response", lambda response: calls.append(f"{response.status} {response.url[:200]}"))
    made.on("requestfailed", lambda request: calls.append(f"{request.failure} {request.url[:200]}"))
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)
    made.set_default_timeout(120_000)
    yield made
    print(*calls, made.url, made.inner_text("body")[:2000], sep="\n")
    made.close()
    assert complaints == []


def barriers(page: Any) -> list[tuple[str, str]]:
    """(rule, place) of what axe-core finds on the page by the rules of WCAG 2.1 AA."""
    if page.evaluate("typeof window.axe") == "undefined":
        page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    result = page.evaluate("tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", tags)
    return [(each["id"], node["html"][:200]) for each in result["violations"] for node in each["nodes"]]


def table() -> bytes:
    rows = [
        f'"What does clause {number} say about the {topic}?","The tenant settles the {topic} by day {number}."'
        for topic in TOPICS
        for number in range(1, 7)
    ]
    return "\n".join(["ask,reply", *rows]).encode()


def open_place(page: Any, home: Home, place: str) -> None:
    page.goto(f"{home.api_url}/soldiom/#/{place}")
    page.get_by_role("heading", level=1).wait_for()
    playwright.expect(page.locator(".waiting")).to_have_count(0)


def see_every_page(page: Any, home: Home) -> None:
    for place in PLACES:
        open_place(page, home, place)
        assert barriers(page) == [], place
        for width in (380, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (place, width)


def test_a_person_uploads_trains_asks_and_rates_in_both_languages(home: Home, page: Any) -> None:
    page.goto(home.api_url + "/")
    assert page.url == f"{home.api_url}/soldiom/"
    assert barriers(page) == []
    page.get_by_label("Key").fill("sld_00000000_unknown")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("unknown or has been revoked").wait_for()
    page.get_by_label("Key").fill(home.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Home").wait_for()
    assert page.evaluate("Object.keys(localStorage).length") == 0 and "sld_" not in page.url

    page.get_by_role("link", name="Data", exact=True).click()
    clauses = {"name": "clauses.csv", "mimeType": "text/csv", "buffer": table()}
    page.locator("input[type=file]").set_input_files(clauses)
    page.get_by_text("Uploaded", exact=True).wait_for()
    page.get_by_role("button", name="Read 1 file").click()
    page.get_by_role("link", name="See the documents").click(timeout=JOB_MILLISECONDS)
    page.get_by_role("combobox", name="Question", exact=True).select_option("ask")
    page.get_by_role("combobox", name="Answer", exact=True).select_option("reply")
    page.get_by_role("button", name="Read again with these columns").click()
    page.get_by_role("link", name="See the documents").click(timeout=JOB_MILLISECONDS)
    playwright.expect(page.get_by_role("combobox", name="Question", exact=True)).to_have_value("ask")
    playwright.expect(page.get_by_role("combobox", name="Answer", exact=True)).to_have_value("reply")
    assert barriers(page) == []
    page.get_by_label("Name of the dataset").fill("clauses")
    page.get_by_label("Make it searchable").uncheck()
    page.get_by_role("button", name="Make the dataset").click()
    page.get_by_role("link", name="See the dataset").click(timeout=JOB_MILLISECONDS)
    page.get_by_role("link", name="Train on it").click()

    page.get_by_role("button", name="العربية").click()
    assert page.evaluate("document.documentElement.dir") == "rtl"
    page.get_by_label("اسم النموذج").fill("clauses")
    page.get_by_label("النموذج الأساسي").select_option("builtin/tiny")
    page.get_by_label("عدد الرموز في المتتالية").fill("64")
    page.get_by_role("button", name="التالي").click()
    page.get_by_text("يتسع له هذا الجهاز").wait_for(timeout=JOB_MILLISECONDS)
    assert barriers(page) == []
    page.get_by_role("button", name="ابدأ التدريب").click()
    page.get_by_role("link", name="جرّبه").click(timeout=JOB_MILLISECONDS)
    page.get_by_label("سؤالك").fill("What does clause 2 say about the rent?")
    page.get_by_role("button", name="أرسل").click()
    page.get_by_text("رمزًا في").wait_for()
    assert len(page.locator(".turn.assistant").inner_text()) > 20
    page.get_by_role("button", name="سيئ").click()
    page.get_by_label("ماذا كان ينبغي أن يقول؟").fill("The tenant settles the rent by day 2.")
    page.get_by_role("button", name="أرسل التصحيح").click()
    page.get_by_text("سيراجعه مدرِّب").wait_for()
    [noted] = home.call("GET", "/api/feedback").json()["items"][:1]
    assert (noted["rating"], noted["status"]) == ("down", "new")
    assert barriers(page) == []

    see_every_page(page, home)
    page.goto(f"{home.api_url}/soldiom/#/models/{noted['model_id']}")
    page.locator("svg.lineage a").first.wait_for()
    lineage = page.locator("svg.lineage a").evaluate_all(
        "links => links.map(link => link.getAttribute('href').split('/')[1])"
    )
    assert lineage == ["data", "data", "models", "train", "models", "try"]
    assert barriers(page) == []
    page.get_by_role("button", name="English").click()
    see_every_page(page, home)


def sign_in(page: Any, home: Home) -> None:
    page.goto(f"{home.api_url}/soldiom/")
    page.get_by_label("Key").fill(home.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Home").wait_for()


def test_data_are_collected_by_a_form_and_a_double_click_starts_one_job(home: Home, page: Any) -> None:
    sign_in(page, home)
    before = len(home.call("GET", "/api/training/jobs?limit=200").json()["items"])
    page.goto(f"{home.api_url}/soldiom/#/data")
    for place in ("A database", "Hugging Face", "An address", "GitHub"):
        page.get_by_role("button", name=place, exact=True).click()
        assert barriers(page) == [], place
    page.get_by_label("Topics").fill("machine-learning, law")
    page.get_by_label("At most so many").fill("1")
    page.get_by_role("button", name="Collect", exact=True).dblclick()
    page.get_by_role("heading", name="collect-github").wait_for()
    jobs = home.call("GET", "/api/training/jobs?limit=200").json()["items"]
    assert len(jobs) == before + 1
    [declared] = jobs[0]["config"]["collect"]
    assert (declared["topics"], declared["max_repositories"]) == (["machine-learning", "law"], 1)
    home.call("DELETE", f"/api/training/jobs/{jobs[0]['id']}")
    page.goto(f"{home.api_url}/soldiom/#/%zz/%")
    page.get_by_role("heading", name="There is no such page.").wait_for()


def test_what_a_lost_answer_asked_for_is_made_once(home: Home, page: Any) -> None:
    sign_in(page, home)
    page.goto(f"{home.api_url}/soldiom/#/data")
    page.get_by_role("button", name="An address", exact=True).click()
    page.get_by_label("Address", exact=True).fill("https://127.0.0.1.example/none.json")
    keys: list[str] = []

    def lose(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.abort()

    page.route("**/api/training/collect/url", lose)
    for _ in range(2):
        page.get_by_role("button", name="Collect", exact=True).click()
        page.get_by_text("The API does not answer.").wait_for()
    page.get_by_label("Pages at most").fill("3")
    page.get_by_role("button", name="Collect", exact=True).click()
    playwright.expect(page.get_by_role("button", name="Collect", exact=True)).to_be_enabled()
    assert len(keys) == 3 and keys[0] == keys[1] != keys[2]


def test_keys_beyond_the_first_page_are_shown_when_asked_for(home: Home, page: Any) -> None:
    """The second page of keys is this test's own: so many real ones would be in other tests' way."""
    [own] = home.call("GET", "/api/keys?limit=1").json()["items"]

    def answer(route: Any) -> None:
        second = "cursor=" in route.request.url
        names = ["the last one"] if second else [f"key {number}" for number in range(50)]
        items = [own | {"id": f"{second} {number}", "name": name} for number, name in enumerate(names)]
        route.fulfill(json={"items": items, "next": None if second else "further"})

    page.route("**/api/keys?**", answer)
    sign_in(page, home)
    page.goto(f"{home.api_url}/soldiom/#/access")
    keys = page.get_by_role("region", name="Keys").locator("tbody tr")
    playwright.expect(keys).to_have_count(50)
    page.get_by_role("button", name="Show more").first.click()
    playwright.expect(keys).to_have_count(51)
    page.get_by_text("the last one").wait_for()


def test_a_specialist_answers_through_a_form_made_from_its_schema(home: Home, page: Any) -> None:
    sign_in(page, home)
    page.goto(f"{home.api_url}/soldiom/#/specialists/forensic/evidence")
    page.get_by_role("button", name="Use the example").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator("mark").first.wait_for()
    assert "CVE-2021-44228" in page.locator(".marked").inner_text()
    assert barriers(page) == []
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_person_logs_in_at_the_provider(page: Any, api_settings: Settings, tmp_path: Path) -> None:
    issuer, path = LoginServer(), tmp_path / "oidc.json"
    ends = {"authorization_endpoint": f"{issuer.root}/authorize", "token_endpoint": f"{issuer.root}/token"}
    path.write_text(provider(issuer, login={"client": "console", **ends}).model_dump_json())
    issuer.claims = {"preferred_username": "anna"}
    at_provider = page.get_by_role("button", name=f"Sign in at {issuer.root.removeprefix('http://')}")
    for url in serve(replace(api_settings, oidc=path)):
        page.goto(f"{url}/soldiom/#/models")
        at_provider.wait_for()
        assert barriers(page) == []
        at_provider.click()
        page.get_by_role("heading", name="Models", level=1).wait_for()
        assert page.url == f"{url}/soldiom/#/models"
        page.get_by_text("anna").wait_for()
        page.reload()
        page.get_by_text("anna").wait_for()
        assert page.evaluate("[Object.keys(localStorage).length, sessionStorage.length]") == [0, 1]
        page.get_by_role("button", name="Sign out").click()
        page.goto(f"{url}/soldiom/?code=code-0&state=forged")  # another site's answer, or one that comes twice
        page.get_by_text("The login did not succeed").wait_for()
        assert page.url == f"{url}/soldiom/" and page.evaluate("sessionStorage.length") == 0
        issuer.claims = {"groups": ["strangers"]}
        at_provider.click()
        page.get_by_text("None of the roles in the token's claim").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
    issuer.close()

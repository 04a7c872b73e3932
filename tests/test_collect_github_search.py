"""Search past its cap, with results that move, lie and repeat, against a local server that caps as GitHub does."""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from crawling import find
from stand_in import Repository, StandIn

from soldiom_ray.collect.github.search import FIRST_DAY, Slice, search_page_fields
from soldiom_ray.domains.sources import GithubSource


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        stand_in.github.limits["search"] = (60_000, 60.0)
        yield stand_in


def plant(count: int, *, first: str = "2012-01-01", days: int = 5000, seed: int = 1) -> list[Repository]:
    dice, start = random.Random(seed), date.fromisoformat(first)
    return [
        Repository(
            f"org/{first}-{n}",
            stars=1001 + int(dice.paretovariate(1.0) * 10),
            created_at=f"{start + timedelta(days=dice.randrange(days))}T00:00:00Z",
        )
        for n in range(count)
    ]


def test_every_planted_repository_is_found_past_the_cap_even_when_one_day_overflows(
    server: StandIn, tmp_path: Path
) -> None:
    planted = [*plant(1956), *plant(1500, first="2021-03-04", days=1)]
    server.add(*planted)
    repositories, result = find(server, tmp_path)
    assert {repository.id for repository in repositories} == {repository.id for repository in planted} and len(
        repositories
    ) == 3456
    facts = result.facts
    assert facts["search_expected"] == facts["search_fetched"] == 3456
    assert facts["search_cut"] == facts["search_missing"] == 0
    queries = [request.query["q"][0] for request in server.requests("^/search")]
    assert any("created:2021-03-04..2021-03-04" in query and "stars:10" in query for query in queries)
    assert len(queries) < 90 and all(len(query) <= 256 for query in queries)


def test_what_cannot_be_sliced_any_further_is_counted(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", stars=1500, created_at="2021-03-04T00:00:00Z") for n in range(1020)))
    repositories, result = find(server, tmp_path)
    assert len(repositories) == 1000 and result.facts["search_cut"] == 20


def test_only_the_best_by_stars_are_read_when_a_few_are_asked_for(server: StandIn, tmp_path: Path) -> None:
    planted = plant(1400)
    server.add(*planted)
    repositories, _ = find(server, tmp_path, max_repositories=150)
    best = sorted((repository.stars for repository in planted), reverse=True)[:150]
    assert [repository.stars for repository in repositories] == best and len(server.requests("^/search")) == 2


def test_a_limit_above_the_cap_takes_the_best_of_all_slices(server: StandIn, tmp_path: Path) -> None:
    planted = plant(2300)
    server.add(*planted)
    repositories, _ = find(server, tmp_path, max_repositories=1200)
    assert [repository.stars for repository in repositories] == sorted(
        (repository.stars for repository in planted), reverse=True
    )[:1200]


def test_stars_that_change_between_pages_lose_no_repository(server: StandIn, tmp_path: Path) -> None:
    planted, dice, pages = plant(450), random.Random(3), []
    server.add(*planted)

    def move() -> None:
        """On each of the first pages some repositories leap over others, so that pages shift."""
        pages.append(1)
        for repository in dice.sample(planted, 30) if len(pages) < 5 else ():
            repository.stars += dice.randrange(1, 500)

    server.github.on_page = move
    repositories, result = find(server, tmp_path)
    assert {repository.id for repository in repositories} == {repository.id for repository in planted}
    assert result.facts["search_read_again"] >= 1 and result.facts["search_missing"] == 0


def test_a_count_that_never_fits_is_counted_and_not_asked_for_for_ever(server: StandIn, tmp_path: Path) -> None:
    twins = [Repository("a/twin", stars=2000), Repository("a/twin", stars=1900), Repository("a/b")]
    server.add(*twins)
    repositories, result = find(server, tmp_path)
    assert len(repositories) == 2 and result.facts["search_missing"] == 1 and len(server.requests("^/search")) == 2


def test_an_incomplete_search_is_asked_again_and_then_sliced(server: StandIn, tmp_path: Path) -> None:
    planted = plant(80)
    server.add(*planted)
    server.github.incomplete_searches = 4
    repositories, result = find(server, tmp_path)
    assert len(repositories) == 80 and result.facts["search_incomplete"] == 0
    server.github.incomplete_searches = 1_000_000
    repositories, result = find(server, tmp_path / "again")
    assert result.facts["search_incomplete"] > 0 and len(server.requests("^/search")) < 200


def test_a_repository_of_several_queries_is_taken_once(server: StandIn, tmp_path: Path) -> None:
    both = Repository("a/both", topics=("ai", "deep-learning"))
    server.add(both, Repository("a/one", topics=("ai",)), Repository("a/two", topics=("deep-learning",)))
    repositories, result = find(server, tmp_path, topics=("ai", "deep-learning"))
    assert (
        sorted(repository.name for repository in repositories) == ["a/both", "a/one", "a/two"]
        and result.facts["search_repeats"] == 1
    )


def test_no_topic_or_language_means_any(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/rust", language="Rust", topics=()), Repository("a/b"))
    assert len(find(server, tmp_path, topics=(), languages=())[0]) == 2
    assert "topic" not in server.requests("^/search")[0].query["q"][0]


def test_a_result_of_another_form_is_left_out_and_a_page_of_such_is_no_answer() -> None:
    good = {"id": 1, "full_name": "a/b", "description": "half \ud800", "topics": None, "license": None}
    bad = [{"id": 2}, {"id": "x", "full_name": "a/c"}, {"id": 3, "full_name": "a/../../user"}, "text", None, 7]
    page = search_page_fields({}, {"total_count": 7, "items": [good, *bad]})
    assert [item["name"] for item in page["items"]] == ["a/b"] and page["items"][0]["description"] == "half ?"
    for wrong in ({"total_count": 1, "items": bad}, {"items": []}, {"total_count": "many", "items": []}, [], None):
        with pytest.raises((ValueError, KeyError, TypeError)):
            search_page_fields({}, wrong)


def test_slices_halve_days_then_stars_and_never_overlap() -> None:
    whole = Slice(("topic:ai",), date(2026, 1, 1), FIRST_DAY, date(2026, 11, 24), 1001)
    older, younger = whole.halves(9000) or pytest.fail("not halved")
    assert older.last + timedelta(days=1) == younger.first and "created" not in whole.query
    day = Slice(("topic:ai",), date(2026, 1, 1), FIRST_DAY, FIRST_DAY, 1001)
    low, high = day.halves(90_000) or pytest.fail("not halved")
    assert low.max_stars is not None and low.max_stars + 1 == high.min_stars and high.max_stars is None
    assert f"stars:1001..{low.max_stars}" in low.query and f"stars:>{low.max_stars}" in high.query
    assert Slice(("topic:ai",), date(2026, 1, 1), FIRST_DAY, FIRST_DAY, 1001, 1001).halves(9) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"topics": ("machine learning",)}, "machine-learning"),
        ({"topics": ("a" * 51,)}, "50"),
        ({"topics": ("ai OR stars:>0",)}, "hyphens"),
        ({"languages": ('C" stars:>0 "',)}, "quot"),
        ({"kinds": ("training", "traning")}, "traning"),
    ],
)
def test_a_filter_that_search_would_misread_is_refused(wrong: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GithubSource(**wrong)

"""Ratios of a balance sheet and an income statement, each with the cells that it is of."""

from typing import Any

import pytest

from soldiom_ray.specialists.financial_risk import assess_risk

TABLE = [
    ["(in millions)", "2019", "2018"],
    ["Inventories", "300", "200"],
    ["Total current assets", "900", "1,200"],
    ["Total assets", "5,000", "4,000"],
    ["Total current liabilities", "1,000", "800"],
    ["Total liabilities", "4,200", "2,000"],
    ["Total stockholders' equity", "800", "2,000"],
    ["Net sales", "2,000", "2,500"],
    ["Operating income", "100", "250"],
    ["Interest expense", "(80)", "(40)"],
    ["Net income (loss)", "(20)", "150"],
]


def by_name(answer: dict[str, Any], year: str) -> dict[str, Any]:
    return {each["name"]: each for each in answer["ratios"] if each["period"] == year}


def test_each_ratio_has_its_cells_and_says_where_it_is_beyond_a_rule_of_thumb() -> None:
    answer = assess_risk({"table": TABLE})
    now, before = by_name(answer, "2019"), by_name(answer, "2018")
    values = {name: each["value"] for name, each in now.items()}
    assert values == {
        "current ratio": pytest.approx(0.9),
        "quick ratio": pytest.approx(0.6),
        "equity share": pytest.approx(16),
        "assets over liabilities": pytest.approx(5000 / 4200),
        "interest coverage": pytest.approx(1.25),
        "operating margin": pytest.approx(5),
        "net margin": pytest.approx(-1),
        "revenue growth": pytest.approx(-20),
    }
    assert not now["operating margin"]["sign"] and all(
        now[name]["sign"] for name in values if name != "operating margin"
    )
    assert not any(each["sign"] for each in before.values()) and "revenue growth" not in before
    assert {cell["text"] for cell in now["net margin"]["cells"]} == {"(20)", "2,000"} and len(answer["signs"]) == 7


def test_what_a_table_lacks_is_named_and_not_estimated() -> None:
    answer = assess_risk({"table": TABLE[:4]})
    assert not answer["found"] and answer["ratios"] == [] and "revenue" in answer["missing"] and answer["problem"]
    assert "year" in assess_risk({"table": [["", "now"], ["Total assets", "5"]]})["problem"]
    twice = assess_risk({"table": [*TABLE, ["Total assets", "1", "2"]]})
    assert "total assets" in twice["missing"] and "equity share" not in by_name(twice, "2019")
    nothing = [["", "2019"], ["Total current assets", "5"], ["Total current liabilities", "0"]]
    assert not assess_risk({"table": nothing})["found"]

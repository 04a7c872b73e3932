"""Timelines: formats of logs and exports, times and what is assumed about them, nothing lost, order kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from cpu_time import assert_in_proportion

from soldiom_ray.errors import InputError
from soldiom_ray.specialists import timeline
from soldiom_ray.specialists.rules import RULES
from soldiom_ray.specialists.times import write_instant

TIMESKETCH = Path(__file__).parents[2] / "shared/data/forensic_timesketch"
AUTH_LOG = """<38>Dec 31 23:59:59 web sshd[1234]: Failed password for root
Jan  1 00:00:01 web CRON[3]: (root) CMD (x)
\tcontinued
no date at all

Jan  1 00:00:01 web su: second of the same time
"""
LINES = [
    ("<165>1 2003-08-24T05:14:15.000003-07:00 h app 8710 - - said", "2003-08-24T12:14:15.000003Z", "app", "said"),
    ('10.0.0.1 - bob [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 9', "2000-10-10T20:55:36Z", "access log", None),
    ("type=SYSCALL msg=audit(1364481363.243:24287): a", "2013-03-28T14:36:03.243Z", "log", None),
    ("1741069543 a", "2025-03-04T06:25:43Z", "log", "a"),
    ("1741069543123 b", "2025-03-04T06:25:43.123Z", "log", "b"),
    ("133855431430000000 filetime", "2025-03-04T06:25:43Z", "log", "filetime"),
    ("13385543143000000 webkit", "2025-03-04T06:25:43Z", "log", "webkit"),
    ("[2025-03-04 06:25:43,123] ERROR x", "2025-03-04T06:25:43.123Z", "log", "ERROR x"),
    ("2025/03/04 06:25:43 [error] 31#0: open", "2025-03-04T06:25:43Z", "log", "[error] 31#0: open"),
    ("20250304T062543Z x", "2025-03-04T06:25:43Z", "log", "x"),
    ("Tue, 04 Mar 2025 07:25:43 +0100 y", "2025-03-04T06:25:43Z", "text", None),
    ("On 4 March 2025 at 6:25 AM UTC they came.", "2025-03-04T06:25:00Z", "text", None),
    ("Am 4. März 2025 kamen sie.", "2025-03-04T00:00:00Z", "text", None),
    ("2025-03-04T06:25:43.1234567Z z", "2025-03-04T06:25:43.123456700Z", "log", "z"),
    ("4.3.2025 06:25 a", "2025-03-04T06:25:00Z", "log", "a"),
]


def reconstruct(text: str, **options: Any) -> dict[str, Any]:
    result = RULES["reconstruct_timeline"]({"text": text, **options})
    assert result["counts"]["records"] == result["counts"]["dated"] + result["counts"]["undated"]
    assert [event["time"] for event in result["events"]] == sorted(event["time"] for event in result["events"])
    return result


@pytest.mark.parametrize(("line", "instant", "source", "description"), LINES)
def test_a_line_gives_its_time_in_utc(line: str, instant: str, source: str, description: str | None) -> None:
    (event,) = reconstruct(line)["events"]
    assert (event["time"], event["source"]) == (instant, source)
    assert event["original"] in line and event["description"] == (description or event["description"])


def test_a_syslog_without_years_turns_the_year_and_says_so() -> None:
    result = reconstruct(AUTH_LOG, year=2023, zone="Europe/Berlin")
    assert [(event["time"], event["source"], event["line"]) for event in result["events"]] == [
        ("2023-12-31T22:59:59Z", "sshd", 1),
        ("2023-12-31T23:00:01Z", "CRON", 2),
        ("2023-12-31T23:00:01Z", "su", 6),
    ]
    assert [(item["line"], item["reason"]) for item in result["undated"]] == [(3, "continues line 2"), (4, "no date")]
    assert result["assumptions"] == ["3 records name no year: 2023 to 2024, as given"]
    assert result["events"][0]["zone_source"] == "given" and "2023 assumed" in result["events"][0]["note"]


def test_without_a_zone_utc_is_assumed_and_an_unclear_abbreviation_is_named() -> None:
    result = reconstruct("2025-03-04 06:25:43 a\n2025-03-04 06:25:43 CST b\n2025-03-04 06:25:43 EST c\n")
    assert [event["zone_source"] for event in result["events"]] == ["assumed", "assumed", "written"]
    assert result["events"][1]["note"] == "CST has several meanings"
    assert result["assumptions"] == ["2 times name no zone: read as UTC. Give zone."]


def test_a_change_of_clocks_is_told() -> None:
    events = reconstruct("2025-03-30 02:30:00 a\n2025-10-26 02:30:00 b", zone="Europe/Berlin")["events"]
    assert "does not exist" in events[0]["note"] and "comes twice" in events[1]["note"]


def test_day_and_month_follow_what_the_text_proves_else_both_are_told() -> None:
    unclear = reconstruct("03/04/2025 10:00 a")
    assert unclear["events"][0]["time"].startswith("2025-03-04") and "2025-04-03" in unclear["events"][0]["note"]
    assert "day_first" in unclear["assumptions"][0]
    assert reconstruct("03/04/2025 10:00 a", day_first=True)["events"][0]["time"].startswith("2025-04-03")
    proven = reconstruct("03/04/2025 10:00 a\n13/04/2025 10:00 b")
    assert [event["time"][:10] for event in proven["events"]] == ["2025-04-03", "2025-04-13"]


def test_prose_gives_an_event_for_each_date_with_its_sentence() -> None:
    text = "On 4 March 2025 at 06:25 UTC they logged in. They left on March 5th, 2025. Version 1.2.3 of 10.3.25.7 ran."
    result = reconstruct(text)
    assert [event["description"] for event in result["events"]] == [
        "On 4 March 2025 at 06:25 UTC they logged in.",
        "They left on March 5th, 2025.",
    ]
    assert [event["precision"] for event in result["events"]] == ["second", "day"]


TABLES = {
    "csv": '"TimeCreated","Id","Message"\r\n"3/4/2025 6:25:43 AM","4624","An account\nlogged on"\r\n',
    "EvtxECmd csv": "RecordNumber,TimeCreated,EventId,Provider,Computer,MapDescription,PayloadData1\n"
    "1,2025-03-04 06:25:43.0000000,4624,Sec,PC1,Logon,T\n",
    "l2t csv": "date,time,timezone,MACB,source,sourcetype,type,user,host,short,desc\n"
    "03/04/2025,06:25:43,UTC,MACB,EVT,WinEVTX,Creation,-,PC,s,Logon\n",
    "json lines": '{"__REALTIME_TIMESTAMP":"1741069543000000","MESSAGE":"hi","SYSLOG_IDENTIFIER":"sshd"}',
    "json": '[{"Event":{"System":{"TimeCreated":{"#attributes":{"SystemTime":"2025-03-04T06:25:43Z"}}}}}]',
}


@pytest.mark.parametrize("form", TABLES)
def test_a_table_or_json_of_known_form_is_read(form: str) -> None:
    result = reconstruct(TABLES[form])
    assert result["format"] == form
    assert [event["time"] for event in result["events"]] == ["2025-03-04T06:25:43Z"]
    assert result["undated"] == []


def test_records_without_a_time_are_kept_with_their_reason() -> None:
    result = reconstruct('{"time":"2025-03-04T06:25:43Z"}\n{"x":1}\nbroken\n{"time":"2025-02-30T00:00:00Z"}\n')
    assert result["undated_reasons"] == {"no field with a time": 1, "not a JSON object": 1, "no such date": 1}


@pytest.mark.skipif(not TIMESKETCH.is_dir(), reason="the Timesketch timelines are not here")
def test_no_event_of_the_timesketch_timelines_is_lost_or_out_of_order() -> None:
    text = (TIMESKETCH / "timeline.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    backwards = "\n".join(reversed(text.splitlines()))
    for given, expected in ((text, rows), (backwards, rows[::-1])):
        result = reconstruct(given)
        order = sorted(range(len(expected)), key=lambda number: expected[number]["timestamp"])
        assert [event["record"] - 1 for event in result["events"]] == order
        times = [write_instant(expected[number]["timestamp"] * 1000, 6) for number in order]
        assert [event["time"] for event in result["events"]] == times and result["undated"] == []
    for name, count in (
        ("evtx_part.csv", 13),
        ("evtx_direct.csv", 13),
        ("sigma_events.csv", 4),
        ("sigma_events.jsonl", 4),
    ):
        assert reconstruct((TIMESKETCH / name).read_text())["counts"]["events"] == count
    assert "1970" in reconstruct((TIMESKETCH / "sigma_events.csv").read_text())["events"][0]["note"]


@pytest.mark.parametrize(
    "unit",
    ["1", "1/", "2025-", "2025-03-04 ", "Mar 4 2025 ", "1:", '"', '",', "[", "{", '{"a":', "<34>", " ", "\x00", "Mar ",
     "12/12/2025 10:", "\n\t", "time,\n", "۱۲"],
)  # fmt: skip
def test_a_text_made_to_be_slow_takes_time_in_proportion(unit: str) -> None:
    def read(length: int) -> None:
        reconstruct("time,a\n" * (unit == '",') + unit * (length // len(unit)), year=2024)

    assert_in_proportion(read, 8_000)


def test_a_text_beyond_one_call_is_read_up_to_a_line_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "2025-03-04 06:25:43 a\n" * 10
    monkeypatch.setattr(timeline, "MAX_RECORDS", 3)
    result = reconstruct(text)
    assert not result["complete"] and result["read_to"] == 66 and result["counts"]["events"] == 3
    monkeypatch.setattr(timeline, "MAX_CHARACTERS", 30)
    assert reconstruct(text)["read_to"] == 22


@pytest.mark.parametrize(
    ("options", "named"), [({"zone": "Mars/Olympus"}, "Mars"), ({"year": "x"}, "year"), ({"day_first": 1}, "day_first")]
)
def test_an_unknown_zone_year_or_order_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        reconstruct("Mar  4 06:25:43 h a: b", **options)


def test_an_empty_text_has_no_events() -> None:
    assert reconstruct("")["counts"] == {"records": 0, "dated": 0, "undated": 0, "events": 0}


def test_a_time_of_day_in_prose_is_on_the_day_of_the_time_before_it_and_says_so() -> None:
    text = (
        "On 3 March 2025 they came in at 09:15 UTC. At 09:17 they ran powershell. The ratio was 16:10.\n"
        "Around 23:58 the first files were encrypted.\nAt 00:04 the note was written.\nNothing more was seen.\n"
    )
    result = RULES["reconstruct_timeline"]({"text": text})
    assert [event["time"] for event in result["events"]] == [
        "2025-03-03T09:15:00Z",
        "2025-03-03T09:17:00Z",
        "2025-03-03T23:58:00Z",
        "2025-03-04T00:04:00Z",
    ]
    assert "no date written" in result["events"][1]["note"] and "the day after" in result["events"][3]["note"]
    assert result["assumptions"] == ["times of prose without a date, on the day of the time before: 3"]
    assert [item["line"] for item in result["undated"]] == [4]
    assert not RULES["reconstruct_timeline"]({"text": "At 09:17 they ran powershell."})["events"]

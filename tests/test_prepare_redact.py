"""Personal data: contacts, names, birth dates and numbers with check digits become placeholders; look-alikes stay."""

from pathlib import Path

import pytest

from soldiom_ray.redaction import FINDERS, redact

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "text", "redacted"),
    [
        ("email", "Jane <jane.doe@uni-x.museum>, x@y.z", "Jane <<EMAIL>>, x@y.z"),
        ("email", "stanis\u0142aw.w\u00f3jcik@wp.pl, jane@b\u00fccher.de", "<EMAIL>, <EMAIL>"),
        ("ip", "from 93.184.216.34 port 22", "from <IP> port 22"),
        ("ip", "server: 1.1.1.1", "server: <IP>"),
        ("phone", "+1 (415) 555-0132, +44 20 7946 0958", "<PHONE>, <PHONE>"),
        ("phone", "Tel.: 030 901820", "Tel.: <PHONE>"),
        ("phone", "Phone: (020) 7946 0958", "Phone: <PHONE>"),
        ("card", "5500-0000-0000-0004, 3782 822463 10005", "<CARD>, <CARD>"),
        ("iban", "GB82 WEST 1234 5698 7654 32 is paid", "<IBAN> is paid"),
        ("iban", "NO9386011117947", "<IBAN>"),
        ("national_number", "SSN 219-09-9999", "SSN <NATIONAL_NUMBER>"),
        (
            "national_number",
            "National Insurance: QQ123456C, AB123456C",
            "National Insurance: QQ123456C, <NATIONAL_NUMBER>",
        ),
        ("national_number", "Steuer-ID: 86095742719", "Steuer-ID: <NATIONAL_NUMBER>"),
        ("national_number", "n\u00b0 2 55 08 14 168 025 38", "n\u00b0 <NATIONAL_NUMBER>"),
        ("national_number", "DNI 12345678Z, NIE X1234567L", "DNI <NATIONAL_NUMBER>, NIE <NATIONAL_NUMBER>"),
        ("national_number", "RSSMRA85T10A562S", "<NATIONAL_NUMBER>"),
        ("national_number", "BSN: 111222333", "BSN: <NATIONAL_NUMBER>"),
        ("national_number", "rijksregisternummer 85.07.30-033.28", "rijksregisternummer <NATIONAL_NUMBER>"),
        ("national_number", "CPF 529.982.247-25", "CPF <NATIONAL_NUMBER>"),
        ("national_number", "Aadhaar 2341 2341 2346", "Aadhaar <NATIONAL_NUMBER>"),
        ("national_number", "PESEL 44051401359", "PESEL <NATIONAL_NUMBER>"),
        ("national_number", "born 131052-308T", "born <NATIONAL_NUMBER>"),
        ("national_number", "AHV 756.9217.0769.85", "AHV <NATIONAL_NUMBER>"),
        ("national_number", "11010519491231002X", "<NATIONAL_NUMBER>"),
        ("national_number", "TFN 123 456 782", "TFN <NATIONAL_NUMBER>"),
        ("national_number", "SIN: 046 454 286", "SIN: <NATIONAL_NUMBER>"),
        ("national_number", "T.C. Kimlik No 10000000146", "T.C. Kimlik No <NATIONAL_NUMBER>"),
        ("national_number", "rodn\u00e9 \u010d\u00edslo 780123/3540", "rodn\u00e9 \u010d\u00edslo <NATIONAL_NUMBER>"),
        ("national_number", "CURP BOXW310820HNERXN09", "CURP <NATIONAL_NUMBER>"),
        ("national_number", "CNP 1630615123457", "CNP <NATIONAL_NUMBER>"),
        ("person_name", "Mr. Jane Q. Public and Dr. O'Neill met.", "Mr. <PERSON_NAME> and Dr. <PERSON_NAME> met."),
        ("person_name", "Frau Prof. Dr. M\u00fcller-L\u00fcdenscheidt kam", "Frau Prof. Dr. <PERSON_NAME> kam"),
        ("person_name", "Mr Bush's wife", "Mr <PERSON_NAME>'s wife"),
        ("person_name", "Patient: Ludwig van Beethoven, 57", "Patient: <PERSON_NAME>, 57"),
        ("person_name", "Kind regards,\n\nJane Doe\nSales", "Kind regards,\n\n<PERSON_NAME>\nSales"),
        ("person_name", '"first_name": "Jane", "age": 3', '"first_name": "<PERSON_NAME>", "age": 3'),
        ("person_name", "From: Jane Doe <jane@corp-mail.com>", "From: <PERSON_NAME> <jane@corp-mail.com>"),
        ("birth_date", "born on 3 March 1980 in Ulm", "born on <BIRTH_DATE> in Ulm"),
        ("birth_date", "DOB: 1980-03-01; geb. 01.03.1980", "DOB: <BIRTH_DATE>; geb. <BIRTH_DATE>"),
        ("birth_date", '"date of birth": "03/01/1980"', '"date of birth": "<BIRTH_DATE>"'),
    ],
)
def test_what_is_personal_becomes_a_placeholder(name: str, text: str, redacted: str) -> None:
    found, counts = redact(text, [name])
    assert found == redacted
    assert counts[name] == redacted.count(f"<{name.upper()}>")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ip", "ObjectIdentifier('2.5.29.35'), sections 5.2.4 and 6.2.2.3, {Cidr: 52.94.0.0/22}"),
        ("ip", "sqlite 3.46.0.6 127.0.0.1 10.0.0.1 256.256.256.256 1.2.3.4.5"),
        ("phone", "2024-01-02 10:20:30, +1980-02-29 01:02:03, 0.123456789, 123-45-6789, a+12345678"),
        ("phone", "call_id = 1234567"),
        ("card", "4111 1111 1111 1112, 1234567890123456, 0000000000000000, 4220315081820346526, 4400500053002"),
        ("iban", "DE89 3704 0044 0532 0130 01, AB12 3456 7890 1234, SHA1 DE89"),
        ("national_number", "1111 2222 3333 4444, 123456789, 10000000146, 2020 2021 2022, 666-12-1234, 12345678A"),
        ("national_number", "SSN 000-12-3456, CPF 529.982.247-26, PESEL 44051401358"),
        ("national_number", "CNP 1632215123457, CURP BOXW310820HXXRXN01, 02063162448 is no PESEL"),
        ("person_name", "Copyright (c) 2020 Jane Doe <jane@corp-mail.com>"),
        ("person_name", "client: System, self.client = GcsClient(x), Mr. President, Dr. Who"),
        ("person_name", "MR Diagnosis of the knee, LC MS Data"),
        ("birth_date", "born to run 12, released 2020-01-01, stillborn 01.02.2003"),
    ],
)
def test_what_only_looks_personal_stays(name: str, text: str) -> None:
    assert redact(text, [name])[0] == text


def test_places_that_overlap_are_counted_once() -> None:
    text = "https://jane:s3cr3tpw@mail.corp-x.com"
    found, counts = redact(text, list(FINDERS))
    assert counts.total() == 1
    assert "s3cr3tpw" not in found


def test_places_are_the_same_in_any_script() -> None:
    text = "\u7530\u4e2d \U0001f600 mail jane@corp-mail.com \u0130stanbul +49 30 901820 \u20ac Mr. Jane Public"
    found, counts = redact(text, ["email", "phone", "person_name"])
    assert found == "\u7530\u4e2d \U0001f600 mail <EMAIL> \u0130stanbul <PHONE> \u20ac Mr. <PERSON_NAME>"
    assert counts == {"email": 1, "phone": 1, "person_name": 1}


def test_an_empty_text_and_no_finder_do_nothing() -> None:
    for text in ("", "a", "ab\n", "\ud800 lone"):
        assert redact(text, list(FINDERS)) == (text, {})
    assert redact("jane@corp-mail.com", []) == ("jane@corp-mail.com", {})


@pytest.mark.skipif(not (DATA / "medical_acibench").is_dir(), reason=f"{DATA} is not there")
def test_names_are_found_in_real_conversations_of_doctors() -> None:
    texts = [p.read_text(errors="replace") for p in sorted((DATA / "medical_acibench").rglob("*")) if p.is_file()]
    _, counts = redact("\n".join(texts), ["person_name"])
    assert counts["person_name"] >= 10

"""Evidence in texts: what is found, what only looks like it, and time on texts made to be slow."""

from typing import Any

import pytest
from cpu_time import assert_in_proportion

from soldiom_ray.errors import InputError
from soldiom_ray.specialists import evidence
from soldiom_ray.specialists.checksums import ethereum_checksum, is_base58_address, is_onion_service, keccak_256
from soldiom_ray.specialists.rules import RULES

INCIDENT = r"""On 4 March user CORP\bob opened invoice.docm. It ran C:\Program Files\Foo Bar\loader v2\evil.dll, then
"C:\Users\bob\My Docs\x y" and set HKLM\Software\Microsoft\Windows NT\CurrentVersion\Run for NT AUTHORITY\SYSTEM.
C2: hxxps://login.evil[.]co[.]uk:8443/gate.php?id=1, (see https://www.cisa.gov/a_(b)). Mail mule(at)evil[.]com.
10.0.0.5:443 scanned 192.168.0.0/16 and 2001:db8::1; MAC 00-1A-2B-3C-4D-5E; S-1-5-21-1-2-3-500; CVE‑2021‑44228,
T1059.001. SHA256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 in ~/.ssh/id_rsa and /etc/passwd,
mutex "Global\qq1".
Pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa or 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed or DE89 3704 0044 0532 0130 00.
IMEI: 490154203237518, call +49 30 1234567.
Mar  4 06:25:43 web sshd[1234]: Failed password for root from ::ffff:203.0.113.5
"""
NOTHING = r"""Version 1.2.3.4 of Chrome/100.0.4896.127, v10.2.3.4, section 3.2.1.4, 256.1.1.1, 1.2.3.4.5, 01.02.03.04.
System.Net and ASP.NET and Node.js, e.g.this, end.The next. std::vector a::b 10:20:30 at 12:34:56.
9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a0 00000000000000000000000000000000
and/or TCP/IP, cmd /all
1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD DE89 3704 0044 0532 0130 01
IMEI 490154203237519
54006800690073002000690073002000610020007400650078007400200069006E00200055005400
T123 CVE-21-1 System32\drivers +999 1234567
"""


def found_in(text: str) -> list[tuple[str, str]]:
    return [(item["kind"], item["normalised"]) for item in evidence.extract_evidence({"text": text})["items"]]


def test_an_incident_report_gives_its_evidence_with_exact_spans_and_parts() -> None:
    result = RULES["extract_evidence"]({"text": INCIDENT})
    items = result["items"]
    assert all(INCIDENT[item["start"] : item["end"]] == item["value"] for item in items)
    assert [item["id"] for item in items] == list(range(1, len(items) + 1))
    parts = {item["normalised"]: items[item["part_of"] - 1]["kind"] for item in items if item["part_of"]}
    assert parts["login.evil.co.uk"] == "url" and parts["8443"] == "url" and parts["443"] == "socket_address"
    assert result["complete"] and result["read_to"] == len(INCIDENT)
    assert [(item["kind"], item["normalised"]) for item in items if not item["part_of"]] == [
        ("account", "CORP\\bob"),
        ("file_name", "invoice.docm"),
        ("windows_path", r"C:\Program Files\Foo Bar\loader v2\evil.dll"),
        ("windows_path", r"C:\Users\bob\My Docs\x y"),
        ("registry_key", r"HKEY_LOCAL_MACHINE\Software\Microsoft\Windows NT\CurrentVersion\Run"),
        ("account", r"NT AUTHORITY\SYSTEM"),
        ("url", "https://login.evil.co.uk:8443/gate.php?id=1"),
        ("url", "https://www.cisa.gov/a_(b)"),
        ("email", "mule@evil.com"),
        ("socket_address", "10.0.0.5:443"),
        ("ipv4_network", "192.168.0.0/16"),
        ("ipv6", "2001:db8::1"),
        ("mac", "00:1a:2b:3c:4d:5e"),
        ("sid", "S-1-5-21-1-2-3-500"),
        ("cve", "CVE-2021-44228"),
        ("attack_technique", "T1059.001"),
        ("sha256", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ("posix_path", "~/.ssh/id_rsa"),
        ("posix_path", "/etc/passwd"),
        ("mutex", r"Global\qq1"),
        ("bitcoin_address", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("ethereum_address", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
        ("iban", "DE89370400440532013000"),
        ("imei", "490154203237518"),
        ("phone", "+49301234567"),
        ("process_id", "1234"),
        ("account", "root"),
        ("ipv6", "::ffff:203.0.113.5"),
    ]


def test_what_only_looks_like_evidence_is_not_found() -> None:
    assert found_in(NOTHING) == []


@pytest.mark.parametrize(
    ("written", "kind", "normalised"),
    [
        ("evil(.)com", "domain", "evil.com"),
        ("evil [.] com", "domain", "evil.com"),
        ("evil[dot]example", "domain", "evil.example"),
        ("1.2.3[.]4", "ipv4", "1.2.3.4"),
        ("hxxp[:]//1.2.3[.]4/a", "url", "http://1.2.3.4/a"),
        ("bücher.de", "domain", "bücher.de"),
        (r"C:\\Windows\\System32\\cmd.exe", "windows_path", r"C:\Windows\System32\cmd.exe"),
        (r"\\dc01\SYSVOL\x.bat", "windows_path", r"\\dc01\SYSVOL\x.bat"),
        (r"%APPDATA%\x\y.exe", "windows_path", r"%APPDATA%\x\y.exe"),
        (r"C:\Users\<user>\AppData\Local\Temp", "windows_path", r"C:\Users\<user>\AppData\Local\Temp"),
        (r"C:\Windows\* as", "windows_path", r"C:\Windows\*"),
        (r"C:\Program Files\Common Files (see", "windows_path", r"C:\Program Files\Common Files"),
        (r"SOFTWARE\Microsoft\Windows\CurrentVersion", "registry_key", r"SOFTWARE\Microsoft\Windows\CurrentVersion"),
        (r"Software\SimonTatham\Putty\Sessions", "registry_key", r"Software\SimonTatham\Putty\Sessions"),
        (r"\SOFTWARE\Microsoft\Run", "registry_key", r"SOFTWARE\Microsoft\Run"),
        ("UTMCVE-2021-42013ApacheCVE-2022-31137Roxy", "cve", "CVE-2022-31137"),
        ("192:abcABC+/abc:defDEFdef", "ssdeep", "192:abcABC+/abc:defDEFdef"),
        ("445/tcp", "port", "445"),
        ("process id 0x1a4", "process_id", "420"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "bitcoin_address", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
        ("用户 a@例え.jp 在", "email", "a@例え.jp"),
        ("файл C:\\Папка\\отчёт.docx удалён", "windows_path", "C:\\Папка\\отчёт.docx"),
    ],
)
def test_forms_of_writing_are_read(written: str, kind: str, normalised: str) -> None:
    assert (kind, normalised) in found_in(f"x: {written} .")


def test_two_paths_in_a_sentence_are_two_and_a_registry_key_after_a_path_is_no_part_of_it() -> None:
    kinds = found_in(r"copied C:\Windows\a.dll into HKLM\Software\X and C:\Temp to D:\out now")
    assert kinds == [
        ("windows_path", r"C:\Windows\a.dll"),
        ("file_name", "a.dll"),
        ("registry_key", r"HKEY_LOCAL_MACHINE\Software\X"),
        ("windows_path", r"C:\Temp"),
        ("windows_path", r"D:\out"),
    ]


@pytest.mark.parametrize(
    "unit",
    [
     "a", "a.", "1.", "a@", "[.]", "http://", "C:\\", "\\\\", "a\\", "::", "f", "%A%\\", "/tmp",
     "HKLM\\", "\x00", "+1 ",
     "port 1,", "0x" + "5aAeb6053F3E94C9b9A0" * 2 + " ", "user=", "٣.", "mutex ", "A1 ",
     "pid ",
    ],
)  # fmt: skip
def test_a_text_made_to_be_slow_takes_time_in_proportion(unit: str) -> None:
    assert_in_proportion(lambda length: evidence.extract_evidence({"text": unit * (length // len(unit))}), 20_000)


def test_a_text_beyond_one_call_is_read_up_to_a_line_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_CHARACTERS", 100)
    text = "see 10.0.0.1 and more\n" * 10
    result = evidence.extract_evidence({"text": text})
    assert not result["complete"] and result["read_to"] == 88 and len(result["items"]) == 4
    monkeypatch.setattr(evidence, "MAX_ITEMS", 2)
    assert evidence.extract_evidence({"text": text})["read_to"] == text.index("10.0.0.1", 30)


@pytest.mark.parametrize("document", [{}, {"text": None}, {"text": 5}])
def test_no_text_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not a text"):
        evidence.extract_evidence(document)


def test_an_empty_text_has_no_evidence() -> None:
    assert evidence.extract_evidence({"text": ""}) == {"items": [], "counts": {}, "read_to": 0, "complete": True}


def test_checksums_are_those_of_the_standards() -> None:
    assert keccak_256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    address = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
    assert ethereum_checksum(address.lower()) == address
    assert is_base58_address("3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy")
    assert is_onion_service("duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad")

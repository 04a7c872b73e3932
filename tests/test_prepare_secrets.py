"""Secrets: every published shape is found where people write it, and code that only looks like one stays."""

import random
import string
from pathlib import Path

import pytest
from cpu_time import cpu_seconds

from soldiom_ray.redaction import redact
from soldiom_ray.redaction.scan import LiteralIndex, Literals, Scan
from soldiom_ray.redaction.secret_patterns import SECRET_PATTERNS

DRAW = random.Random(3)
ALNUM = string.ascii_letters + string.digits
PEM = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n-----END OPENSSH PRIVATE KEY-----"
)


def of(alphabet: str, length: int) -> str:
    return "".join(DRAW.choices(alphabet, k=length))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f'key_id = "AKIA{of(string.ascii_uppercase, 16)}"', 'key_id = "<SECRET>"'),
        (f"curl -H 'PRIVATE-TOKEN: glpat-{of(ALNUM, 19)}7'", "curl -H 'PRIVATE-TOKEN: <SECRET>'"),
        (f"git clone https://ghp_{of(ALNUM, 36)}@github.com/a/b", "git clone https://<SECRET>@github.com/a/b"),
        (f'Client("SK{of("0123456789abcdef", 32)}")', 'Client("<SECRET>")'),
        (f'Client("{of("0123456789abcdef", 32)}-us12")', 'Client("<SECRET>")'),
        (f'Bot("123456789:AA{of(ALNUM, 33)}")', 'Bot("<SECRET>")'),
        (f'run("M{of(ALNUM, 22)}1.{of(ALNUM, 6)}.{of(ALNUM, 27)}")', 'run("<SECRET>")'),
        (f"AccountName=x;AccountKey={of(ALNUM, 86)}==;", "AccountName=x;AccountKey=<SECRET>;"),
        (f'"line\\nghp_{of(ALNUM, 36)}"', '"line\\n<SECRET>"'),
        (f"Authorization: Bearer {of(ALNUM, 30)}9x", "Authorization: Bearer <SECRET>"),
        ("  password: tiger-368XIe", "  password: <SECRET>"),
        ("DB_PASS='w1nter!garden'", "DB_PASS='<SECRET>'"),
        ("export SERVICE_TOKEN=q8Zr2Lw0Xv5Tn9BcYf7K", "export SERVICE_TOKEN=<SECRET>"),
        ("<password>Zx81Spectrum9</password>", "<password><SECRET></password>"),
        ('connect("kR7vX2mQ9tB4nW8yL3pD6sF1gH5jK0zC+aEu/iOx")', 'connect("<SECRET>")'),
        (f"a\n{PEM}\nb", "a\n<SECRET>\nb"),
        (PEM.partition("\n-----END")[0], "<SECRET>"),
        ("mongodb+srv://app:pA55word9@cluster0.mongodb.net", "mongodb+srv://app:<SECRET>@cluster0.mongodb.net"),
    ],
)
def test_a_secret_is_redacted_and_what_is_around_it_stays(text: str, redacted: str) -> None:
    found, counts = redact(text, ["secret"])
    assert found == redacted
    assert counts == {"secret": 1}


@pytest.mark.parametrize(
    "text",
    [
        'token = "<|endoftext|>"',
        'if "-----BEGIN PRIVATE KEY-----" in text:',
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        'password = os.environ["DB_PASSWORD_1"]',
        'secret = "projects/12/secrets/db-1/versions/latest"',
        '"AWS::SecretsManager::Secret": "f6b785ff8e74d121"',
        '"torch._C._jit_pass_lower_all_tuples", "torch._C._jit_pass_transform_conv1d_to_conv2d"',
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        'digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"',
        'x = (\n "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNb"\n "HElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4O"\n)',
        "tokens = tokenizer(text, max_length=512)",
        "task-1234567890 risk-assessment-2024-01-01-final-report",
        "from_pretrained('hf_internal_testing_tiny_random_model_x')",
        "key-value store, :AAA battery, :AA",
        "https://user:password@host/ and https://{user}:{secret1}@host/",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact(text, ["secret"])[0] == text


def test_redacting_again_changes_nothing() -> None:
    text = f'token = "ghp_{of(ALNUM, 36)}"; mail jane@corp-mail.com, 93.184.216.34, password: tiger-368XIe\n'
    names = ["secret", "email", "ip", "phone", "card", "iban", "national_number", "person_name", "birth_date"]
    once, counts = redact(text, names)
    assert counts == {"secret": 2, "email": 1, "ip": 1}
    assert redact(once, names) == (once, {})


def test_literals_of_shapes_are_long_enough_to_be_searched_for() -> None:
    assert {literal for literal in SECRET_PATTERNS if len(literal) < 3} == set()
    assert {literal for literal, kinds in SECRET_PATTERNS.items() if any(back for back, _ in kinds)} == {
        ".atlasv1.",
        ":AA",
        "-us",
    }


def test_literals_are_found_wherever_they_stand() -> None:
    anchors = LiteralIndex({"a": Literals(exact=("sk-", "AKIA"), words=("password",)), "b": Literals(words=("mr ",))})
    text = "\u20ac PassWord akia AKIA sk-a sk- Mr Bond \U0001f600 password"
    scan = Scan(text, anchors)
    assert scan.literals("a") == [(2, "password"), (16, "AKIA"), (21, "sk-"), (40, "password")]
    assert scan.literals("b") == [(30, "mr ")]
    assert Scan("ab", anchors).literals("a") == []


def test_groups_of_digits_are_found_with_their_separators() -> None:
    scan = Scan("12 345-6789, x 1 2 3 4 5 6 7\n+49 (0)30 901820 0", LiteralIndex({}))
    assert [(scan.text[start:end], count) for start, end, count in scan.numbers] == [
        ("12 345-6789", 9),
        ("1 2 3 4 5 6 7", 7),
        ("49 (0)30 901820 0", 12),
    ]


@pytest.mark.parametrize(
    "unit",
    [
        *("a@", "1-1-1-", "\"'", 'password="', "password: ", "token=", "token ", "-us1", "xoxb-", "eyJaaaaaaaaa."),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n",
            "://a:b",
            "AA11",
            "DE89 ",
            "Mr. Bb ",
            "born 1",
        ),
        *(
            "+49 ",
            "2a00:",
            "1.",
            "0",
            "ssn 123",
            "Aa Bb <a@b.co>",
            "regards\n\n",
            "\U0001f600a@",
            "patient: Aa Bb ",
            "tel 1 ",
        ),
    ],
)
def test_hostile_repetitions_take_linear_time(unit: str) -> None:
    names = ["secret", "email", "ip", "phone", "card", "iban", "national_number", "person_name", "birth_date"]
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    redact("import numpy", names)
    assert cpu_seconds(lambda: redact(text, names)) < 6


def test_the_code_of_this_package_holds_no_secret() -> None:
    for path in sorted((Path(__file__).parents[1] / "soldiom_ray" / "prepare").rglob("*.py")):
        text = path.read_text()
        assert redact(text, ["secret", "card", "iban", "ip"])[0] == text, path.name

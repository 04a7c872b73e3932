"""Secrets in real files: recall on planted ones, other places found, MB/s; ours and detect-secrets.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install detect-secrets==1.5.0
    python benchmarks/secrets.py --peers /tmp/peers

Input: text files of the packages installed beside this interpreter. Into each of a seeded choice one generated secret
is written, in a line as people write it, every shape equally often. A secret counts as found when the place found
covers it (ours), or when its line is reported (detect-secrets, which gives lines). Both run on one core, in turns.
"""

import argparse
import base64
import json
import random
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

from soldiom_ray.prepare.redact import FINDERS, anchors
from soldiom_ray.prepare.scan import Scan

SUFFIXES = {".py", ".md", ".rst", ".txt", ".json", ".yaml", ".yml", ".toml", ".cfg", ".js", ".sh"}
ALNUM = string.ascii_letters + string.digits
URLSAFE = ALNUM + "-_"
HEX = "0123456789abcdef"
PEER = """
import json, sys, time
from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
found, start = {}, time.perf_counter()
with default_settings():
    for path in json.load(sys.stdin):
        secrets = SecretsCollection()
        secrets.scan_file(path)
        found[path] = [one.line_number for _, one in secrets]
print(json.dumps([time.perf_counter() - start, found]))
"""


def shapes(draw: random.Random) -> dict[str, str]:
    """Kind -> a line with a generated secret, which stands between the marks."""

    def of(alphabet: str, length: int) -> str:
        return "".join(draw.choices(alphabet, k=length))

    word = draw.choice(("tiger", "winter", "Falcon", "orchid", "Metro", "garnet"))
    password = f"{word}{draw.choice('!$#%_-')}{of(string.digits, 3)}{of(string.ascii_letters, 3)}"
    claims = json.dumps({"sub": of(string.digits, 10), "iat": draw.randint(10**9, 2 * 10**9)})
    jwt = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in ('{"alg":"HS256"}', claims))
    pem = "\\n".join(of(ALNUM + "+/", 64) for _ in range(3))
    return {
        "AWS key id": f'key_id = "«AKIA{of(string.ascii_uppercase + string.digits, 16)}»"',
        "AWS secret": f"aws_secret_access_key = «{of(ALNUM + '+/', 40)}»",
        "GitHub": f'headers = {{"Authorization": "token «ghp_{of(ALNUM, 36)}»"}}',
        "GitHub, fine": f"git clone https://«github_pat_{of(ALNUM, 22)}_{of(ALNUM, 59)}»@github.com/org/repo",
        "GitLab": f"curl -H 'PRIVATE-TOKEN: «glpat-{of(URLSAFE, 20)}»' https://gitlab.corp/api",
        "Slack": f'client = WebClient("«xoxb-{of(string.digits, 12)}-{of(string.digits, 12)}-{of(ALNUM, 24)}»")',
        "Slack hook": f'post("https://«hooks.slack.com/services/T{of(ALNUM, 8)}/B{of(ALNUM, 8)}/{of(ALNUM, 24)}»")',
        "Google": f'maps = Client(key="«AIza{of(URLSAFE, 35)}»")',
        "Stripe": f'stripe.api_key = "«sk_live_{of(ALNUM, 24)}»"',
        "OpenAI": f'client = OpenAI("«sk-{of(ALNUM, 20)}T3BlbkFJ{of(ALNUM, 20)}»")',
        "Anthropic": f'client = Anthropic("«sk-ant-api03-{of(URLSAFE, 92)}AA»")',
        "Hugging Face": f'login("«hf_{of(ALNUM, 34)}»")',
        "npm": f"//registry.npmjs.org/:_authToken=«npm_{of(ALNUM, 36)}»",
        "PyPI": f"password = «pypi-AgEIcHlwaS5vcmc{of(URLSAFE, 80)}»",
        "SendGrid": f'mail = SendGrid("«SG.{of(URLSAFE, 22)}.{of(URLSAFE, 43)}»")',
        "Twilio": f'twilio = Client("«SK{of(HEX, 32)}»")',
        "Mailchimp": f'chimp = Client("«{of(HEX, 32)}-us{draw.randint(1, 20)}»")',
        "Square": f'square = Client("«sq0csp-{of(URLSAFE, 43)}»")',
        "Telegram": f'bot = Bot("«{of("123456789", 10)}:AA{of(URLSAFE, 33)}»")',
        "Discord": f'bot.run("«M{of(ALNUM, 23)}.{of(URLSAFE, 6)}.{of(URLSAFE, 27)}»")',
        "Azure": f'"DefaultEndpointsProtocol=https;AccountName=x;AccountKey=«{of(ALNUM + "+/", 86)}==»"',
        "JWT": f'jwt = "«{jwt}.{of(URLSAFE, 43)}»"',
        "Private key": f'"«-----BEGIN RSA PRIVATE KEY-----\\n{pem}\\n-----END RSA PRIVATE KEY-----»"',
        "URL": f"postgresql://app:«{of(ALNUM, 12)}»@db.corp.net:5432/app",
        "Password": f'DB_PASSWORD = "«{password}»"',
        "Password, YAML": f"  password: «{password}»",
        "API key": f'api_key = "«{of(ALNUM, 32)}»"',
        "API key, hex": f'"apiKey": "«{of(HEX, 32)}»"',
        "Token, env": f"export SERVICE_TOKEN=«{of(ALNUM, 40)}»",
        "Base64 alone": f'session = connect("«{of(ALNUM + "+/", 40)}»")',
    }


def plant(files: list[Path], folder: Path, per_shape: int, draw: random.Random) -> dict[str, tuple[str, str, int]]:
    """Copies of files, each with one secret: path -> (kind, secret, line number)."""
    planted: dict[str, tuple[str, str, int]] = {}
    kinds = [kind for kind in shapes(draw) for _ in range(per_shape)]
    for at, (kind, source) in enumerate(zip(kinds, files, strict=False)):
        line = shapes(draw)[kind]
        lines = source.read_text(errors="replace").split("\n")
        number = draw.randrange(len(lines) + 1)
        lines.insert(number, line.replace("«", "").replace("»", ""))
        path = folder / f"{at:05d}{source.suffix}"
        path.write_text("\n".join(lines))
        planted[str(path)] = (kind, line.partition("«")[2].partition("»")[0], number + 1)
    return planted


def ours(paths: list[str]) -> tuple[float, dict[str, list[tuple[int, int]]]]:
    known, found = anchors(("secret",)), {}
    list(FINDERS["secret"](Scan("import numpy", known)))
    start = time.perf_counter()
    for path in paths:
        found[path] = list(FINDERS["secret"](Scan(Path(path).read_text(errors="replace"), known)))
    return time.perf_counter() - start, found


def theirs(peers: Path, paths: list[str]) -> tuple[float, dict[str, list[int]]]:
    run = subprocess.run([peers / "bin/python", "-c", PEER], input=json.dumps(paths), capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    seconds, found = json.loads(run.stdout)
    return seconds, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with detect-secrets")
    parser.add_argument("--per-shape", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    draw = random.Random(17)
    files = sorted(p for p in Path(sysconfig.get_path("purelib")).rglob("*") if p.suffix in SUFFIXES and p.is_file())
    files = [path for path in files if 200 < path.stat().st_size < 100_000]
    draw.shuffle(files)
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(files, Path(folder), 2 if options.quick else options.per_shape, draw)
        size = sum(Path(path).stat().st_size for path in planted) / 1e6
        runs = [
            (ours(list(planted)), theirs(options.peers, list(planted)) if options.peers else None)
            for _ in range(1 if options.quick else 3)
        ]
        report(planted, size, runs)


def report(planted: dict, size: float, runs: list) -> None:
    mine, peer = runs[-1][0][1], runs[-1][1][1] if runs[-1][1] else {}
    missed = {"ours": Counter(), "detect-secrets": Counter()}
    other = Counter()
    for path, (kind, secret, number) in planted.items():
        start = Path(path).read_text(errors="replace").index(secret)
        hits = [one for one in mine[path] if one[0] < start + len(secret) and one[1] > start]
        missed["ours"][kind] += not any(a <= start and b >= start + len(secret) for a, b in hits)
        missed["detect-secrets"][kind] += number not in peer.get(path, [])
        other["ours"] += len(mine[path]) - len(hits)
        other["detect-secrets"] += len(set(peer.get(path, [])) - {number})
    seconds = {"ours": min(own[0] for own, _ in runs)}
    if peer:
        seconds["detect-secrets"] = min(other[0] for _, other in runs)
    print(f"{len(planted)} files, {size:.1f} MB, one planted secret each\n")
    print("| | MB/s | recall | other places per MB | missed |\n|---|---|---|---|---|")
    for name, took in seconds.items():
        lost = ", ".join(f"{kind} {count}" for kind, count in missed[name].items() if count) or "-"
        recall = 1 - missed[name].total() / len(planted)
        print(f"| {name} | {size / took:.2f} | {recall:.1%} | {other[name] / size:.2f} | {lost} |")
    ratio = f"ours / detect-secrets: {seconds['detect-secrets'] / seconds['ours']:.0f} times as fast" if peer else ""
    print(f"\n{ratio or 'no peer: own figures only'}")


if __name__ == "__main__":
    main()

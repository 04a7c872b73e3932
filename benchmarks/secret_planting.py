"""Generated secrets of the usual services in lines as people write them, and files with one of them each."""

import base64
import json
import random
import string
from pathlib import Path

ALNUM = string.ascii_letters + string.digits
URLSAFE = ALNUM + "-_"
HEX = "0123456789abcdef"


def secret_lines(draw: random.Random) -> dict[str, str]:
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


def plant(files: list[Path], folder: Path, per_kind: int, draw: random.Random) -> dict[str, tuple[str, str, int]]:
    """Copies of files, each with one secret: path -> (kind, secret, line number)."""
    planted: dict[str, tuple[str, str, int]] = {}
    kinds = [kind for kind in secret_lines(draw) for _ in range(per_kind)]
    for file_number, (kind, source) in enumerate(zip(kinds, files, strict=False)):
        line = secret_lines(draw)[kind]
        lines = source.read_text(errors="replace").split("\n")
        number = draw.randrange(len(lines) + 1)
        lines.insert(number, line.replace("«", "").replace("»", ""))
        path = folder / f"{file_number:05d}{source.suffix}"
        path.write_text("\n".join(lines))
        planted[str(path)] = (kind, line.partition("«")[2].partition("»")[0], number + 1)
    return planted

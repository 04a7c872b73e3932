"""Logins of an OpenID Connect provider: a local server that behaves as an issuer, rotated keys, forged tokens."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import problem, serve
from joserfc import jwk, jwt
from login_server import AUDIENCE, ISSUER, LoginServer, provider

from soldiom_ray.api import oidc
from soldiom_ray.api.oidc import Issuer, read_provider
from soldiom_ray.errors import DeniedError, InputError, UnauthenticatedError, UnavailableError
from soldiom_ray.settings import Settings, load_settings


@pytest.fixture
def login() -> Iterator[LoginServer]:
    made = LoginServer()
    yield made
    made.close()


def test_good_tokens_name_the_caller_and_the_highest_of_his_roles(login: LoginServer) -> None:
    issuer = Issuer(provider(login))
    first, name, role = issuer.identify(login.token(preferred_username="anna"))
    assert (name, role) == ("anna", "user") and first.startswith("oidc-")
    again = issuer.identify(login.token(login.keys["ec"], groups=["readers", "ml-admins", 7, "other"]))
    assert again == (first, "u-1", "admin")
    assert issuer.identify(login.token(groups="readers other", aud=["x", AUDIENCE], sub="u-2"))[0] != first
    assert login.requests == 1
    with pytest.raises(DeniedError, match="groups"):
        issuer.identify(login.token(groups=["strangers"]))


def test_tokens_that_are_not_good_are_refused(login: LoginServer) -> None:
    issuer, now = Issuer(provider(login)), int(time.time())
    good = login.token()
    stranger = jwk.RSAKey.generate_key(2048, parameters={"kid": "rsa"})
    head, body, signature = good.split(".")

    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    secret = jwk.OctKey.import_key(b"x" * 40)
    bad = {
        "expired": login.token(exp=now - 61),
        "without an end": login.token(exp=None),
        "not yet": login.token(nbf=now + 3600),
        "another issuer": login.token(iss=f"{ISSUER}.evil.example"),
        "without issuer": login.token(iss=None),
        "another audience": login.token(aud="other"),
        "without audience": login.token(aud=None),
        "nobody": login.token(sub=None),
        "a stranger's key": login.token(stranger),
        "no kid": login.token(header={"kid": None}),
        "an unknown kid": login.token(header={"kid": "other"}),
        "no signature": f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}.",
        "a shared secret": jwt.encode({"alg": "HS256", "kid": "rsa"}, claims, secret, algorithms=["HS256"]),
        "changed claims": f"{head}.{part(claims | {'groups': ['ml-admins']})}.{signature}",
        "cut": good[:-6],
        "no token": "a.b.c",
        "dots": "...",
        "no letters": "\u00e9.\u00e9.\u00e9",
        "long": "a" * 20_000,
    }
    for name, token in bad.items():
        with pytest.raises(UnauthenticatedError):
            print(name, issuer.identify(token))
    assert issuer.identify(login.token(exp=now - 30))  # clocks differ by a little
    assert login.requests == 1  # an unknown kid asks again only after a while


def test_keys_are_rotated_and_an_issuer_that_is_away_is_waited_for(
    login: LoginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer(provider(login))
    old = login.token()
    issuer.identify(old)
    login.keys["rsa"] = jwk.RSAKey.generate_key(2048, parameters={"kid": "new"})
    with pytest.raises(UnauthenticatedError):
        issuer.identify(login.token())
    monkeypatch.setattr(oidc, "REFRESH_SECONDS", 0.0)
    assert issuer.identify(login.token()) and login.requests == 2
    with pytest.raises(UnauthenticatedError):
        issuer.identify(old)
    login.broken = True
    assert issuer.identify(login.token())
    monkeypatch.setattr(oidc, "OLDEST_SECONDS", -1.0)
    with pytest.raises(UnavailableError):
        issuer.identify(login.token())
    with pytest.raises(UnavailableError):
        Issuer(provider(login)).identify(login.token())


def test_a_file_of_keys_will_do_and_mistakes_in_the_settings_are_named(login: LoginServer, tmp_path: Path) -> None:
    keys, path = tmp_path / "keys.json", tmp_path / "oidc.yaml"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in login.keys.values()]}))
    path.write_text(f"{{issuer: {ISSUER}, audience: soldiom, jwks: {keys}, role_claim: groups, roles: {{ml: user}}}}")
    assert Issuer(read_provider(path)).identify(login.token())[2] == "user" and login.requests == 0
    assert load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_OIDC": str(path)}).oidc == path
    path.write_text("{issuer: x, audience: y, jwks: 'http://login.example.org/keys', roles: {ml: owner}}")
    with pytest.raises(InputError, match=r"(?s)roles\.ml"):
        read_provider(path)
    path.write_text("{issuer: x, audience: y, jwks: 'http://login.example.org/keys', roles: {ml: user}}")
    with pytest.raises(InputError, match="https"):
        read_provider(path)
    ends = "authorization_endpoint: 'https://x', token_endpoint: 'http://login.example.org/token'"
    path.write_text(f"{{issuer: x, audience: y, jwks: 'https://x', roles: {{ml: user}}, login: {{client: c, {ends}}}}}")
    with pytest.raises(InputError, match=r"(?s)login.*endpoints are https"):
        read_provider(path)
    with pytest.raises(InputError, match="SOLDIOM_OIDC"):
        load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_OIDC": str(tmp_path / "missing")})


def test_the_api_takes_tokens_beside_keys(
    login: LoginServer, api_settings: Settings, api_keys: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "oidc.json"
    path.write_text(provider(login).model_dump_json())
    for url in serve(replace(api_settings, oidc=path)):
        with httpx.Client(base_url=url) as client:

            def get(token: str, place: str = "/api/keys/current") -> httpx.Response:
                return client.get(place, headers={"Authorization": f"Bearer {token}"})

            assert client.get("/api/sign-in").json() == {"login": None}
            assert login.root not in client.get("/soldiom/").headers["Content-Security-Policy"]
            caller = get(login.token(email="anna@example.org")).json()
            assert (caller["name"], caller["role"], caller["tenant"]) == ("anna@example.org", "user", "default")
            assert get(login.token(groups=["ml-admins"]), "/api/keys").status_code == 200
            problem(get(login.token(), "/api/keys"), 403)
            problem(get(login.token(groups=[])), 403)
            problem(get(login.token(exp=1)), 401)
            assert get(api_keys["user"]).json()["role"] == "user"
            unknown, roleless, refused = get(api_keys["admin"], "/api/audit").json()["items"][:3]
            assert {row["decision"] for row in (unknown, roleless, refused)} == {"deny"}
            assert refused["actor"] == roleless["actor"] == caller["id"] and roleless["action"] == "log in"
            assert (unknown["actor"], unknown["action"]) == ("unknown", "log in")
            for _ in range(oidc.TOLD_PER_MINUTE):
                problem(get("not.a.token"), 401)
            told = [row["action"] for row in get(api_keys["admin"], "/api/audit?limit=100").json()["items"]]
            assert told.count("log in") == oidc.TOLD_PER_MINUTE

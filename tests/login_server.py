"""A local server that behaves as an issuer of OpenID Connect: keys, logins with PKCE, signed tokens."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwk, jwt

from soldiom_ray.api.oidc import Provider

ISSUER, AUDIENCE = "https://login.example.org", "soldiom"


class LoginServer:
    """An issuer: its keys at /keys, tokens that it signs, and logins at /authorize, where everybody is `claims`, whose
    codes /token takes once, from who has the secret of the challenge (RFC 7636)."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "rsa": jwk.RSAKey.generate_key(2048, parameters={"kid": "rsa"}),
            "ec": jwk.ECKey.generate_key("P-256", parameters={"kid": "ec"}),
        }
        self.requests, self.broken = 0, False
        self.claims: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        login = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/authorize?"):
                    self.send_response(302)
                    self.send_header("Location", login.authorize(first_values(urlsplit(self.path).query)))
                    self.end_headers()
                    return
                login.requests += 1
                body = json.dumps({"keys": [key.as_dict(private=False) for key in login.keys.values()]}).encode()
                self.send_response(500 if login.broken else 200)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                asked = first_values(self.rfile.read(int(self.headers["Content-Length"])).decode())
                token = login.redeem(asked)
                self.send_response(200 if token else 400)
                self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "null"))
                self.end_headers()
                self.wfile.write(json.dumps({"access_token": token} if token else {"error": "invalid_grant"}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.root}/keys"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def authorize(self, asked: dict[str, str]) -> str:
        """Where a browser is led after the login."""
        if asked["client_id"] != "console" or asked["code_challenge_method"] != "S256":
            answer = {"error": "unauthorized_client", "error_description": "this client is not known"}
        else:
            answer = {"code": f"code-{len(self.codes)}"}
            self.codes[answer["code"]] = asked
        return f"{asked['redirect_uri']}?{urlencode(answer | {'state': asked['state']})}"

    def redeem(self, given: dict[str, str]) -> str | None:
        """The token for a code, once, and only for who began that login."""
        asked = self.codes.pop(given.get("code", ""), None)
        if asked is None or any(asked[name] != given.get(name) for name in ("redirect_uri", "client_id")):
            return None
        digest = hashlib.sha256(given["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return self.token(**self.claims) if challenge == asked["code_challenge"] else None

    def token(self, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        key = key or self.keys["rsa"]
        algorithm = "ES256" if key.key_type == "EC" else "RS256"
        content = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u-1", "exp": int(time.time()) + 300, "groups": ["ml"]}
        content = {name: value for name, value in (content | claims).items() if value is not None}
        head = {"alg": algorithm, "kid": key.kid} | (header or {})
        return jwt.encode({name: value for name, value in head.items() if value}, content, key)


def first_values(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text).items()}


def provider(server: LoginServer, /, **values: Any) -> Provider:
    roles = {"ml": "user", "ml-admins": "admin", "readers": "viewer"}
    content = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": server.url, "role_claim": "groups", "roles": roles}
    return Provider.model_validate(content | values)

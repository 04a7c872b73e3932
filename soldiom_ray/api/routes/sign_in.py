"""How to sign in, told to whoever has not done so yet."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from soldiom_ray.api.auth import ANYONE, GuardedRoute, login_of, needs

router = APIRouter(route_class=GuardedRoute, tags=["keys"])


@router.get("/api/sign-in", openapi_extra=needs(ANYONE))
async def show_sign_in(request: Request) -> dict[str, Any]:
    """Where a person logs in (OpenID Connect, authorization code with PKCE); null where only keys are taken."""
    login = login_of(request)
    return {"login": login.model_dump() if login else None}

"""One way of building an HTTP application for all services: routes, error envelope, roles, health, metrics.

The order of checks is the contract's: the token first, then the body. So a route whose handler asks for a
``Principal`` is authenticated before its body is read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from weelo_common.api_errors import ApiError, ErrorCode, FieldProblem, success, to_json
from weelo_common.auth import InvalidToken, Principal, Role, TokenVerifier
from weelo_common.health import Health
from weelo_common.http_middleware import MAX_BODY_BYTES, HttpMetrics, RequestMiddleware, RequestRules
from weelo_common.http_unavailable import UnavailableLog
from weelo_common.ids import well_formed_id
from weelo_common.openapi import INTRODUCTION, DescribedApp, docs_router, told_by_route

__all__ = [
    "ApiError",
    "Body",
    "ErrorCode",
    "FieldProblem",
    "PathId",
    "Principal",
    "Role",
    "api_router",
    "create_app",
    "principal",
    "success",
]

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
BODY_DEADLINE_S = 10.0  # 64 KiB on the slowest of phones; who sends nothing holds a task no longer than this
# FastAPI's own spans tell each path as it came, and its log records what a validation refused: both may hold anything.
NOT_FASTAPIS: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
MAX_PATH = 200  # characters of a field's path that an error tells; deep nesting would make it long
_NUMBERS = frozenset(
    {"int", "float"}
)  # what pydantic calls the members of a union of them; no field is called so
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")  # NUL, or a surrogate that may stand alone


class Body(BaseModel):
    """A request's body: camelCase, unknown fields ignored, numbers never from text."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=False,
        allow_inf_nan=False,
        strict=True,
    )


PathId = Annotated[
    str, Path(description="A UUID", json_schema_extra={"format": "uuid"}), AfterValidator(well_formed_id)
]
"""An id in a path that one of the services made; a malformed one is a 400."""


class RequireRole:
    """A dependency that gives the caller, who must have one of the roles."""

    def __init__(self, *roles: Role) -> None:
        self._roles = frozenset(roles) or frozenset(Role)

    @property
    def roles(self) -> frozenset[Role]:
        """Who may call."""
        return self._roles

    async def __call__(self, request: Request) -> Principal:
        caller: Principal = request.state.principal
        return caller

    async def authenticate(self, request: Request) -> Principal:
        """Check the bearer token.

        Raises:
            ApiError: 401 without a good token, 403 with the wrong role.
            KeysUnavailable: no key was fetched yet.
        """
        verifier: TokenVerifier = request.app.state.verifier
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("A bearer token is needed.")
        try:
            caller = await verifier.authenticate(token.strip())
        except InvalidToken as error:
            raise _unauthenticated(f"{error}.".capitalize()) from None
        if caller.role not in self._roles:
            raise ApiError(ErrorCode.FORBIDDEN, f"Not for the role {caller.role}.")
        return caller


def principal(*roles: Role) -> RequireRole:
    """What to depend on for the caller: ``Annotated[Principal, Depends(principal(Role.CUSTOMER))]``."""
    return RequireRole(*roles)


class ApiRoute(APIRoute):
    """A route that checks the token before it reads the body, then the body's kind, size and text."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        guard = self._guard()
        self.openapi_extra = told_by_route(self, guard.roles if guard else None)

    def _guard(self) -> RequireRole | None:
        return next((d.call for d in self.dependant.dependencies if isinstance(d.call, RequireRole)), None)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        guard = self._guard()

        async def guarded(request: Request) -> Response:
            if guard is not None:
                request.state.principal = await guard.authenticate(request)
            if request.method in _METHODS_WITH_BODY:
                await _check_body(request)
            return await handle(request)

        return guarded


def api_router(prefix: str = "/api/v1") -> APIRouter:
    """A router whose routes follow the contract's order of checks."""
    return APIRouter(prefix=prefix, route_class=ApiRoute)


def create_app(
    service: str,
    *,
    routers: Sequence[APIRouter],
    health: Health,
    registry: CollectorRegistry,
    request_deadline_s: float,
    verifier: TokenVerifier | None = None,
) -> FastAPI:
    """The application of a service: its routers, and what every service has.

    A request that is not answered within ``request_deadline_s`` gets a 503 then, and its work is cancelled.
    """
    app = DescribedApp(
        title=f"Weelo {service}",
        version="1",
        description=INTRODUCTION,
        separate_input_output_schemas=False,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        telemetry=NOT_FASTAPIS,
    )
    app.state.verifier = verifier
    app.state.request_rules = RequestRules(HttpMetrics(registry), request_deadline_s, UnavailableLog())
    app.add_middleware(RequestMiddleware, rules=app.state.request_rules)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    served = [_operations_router(service, health, registry), docs_router(app.title), *routers]
    for router in served:
        app.include_router(router)
    app.state.routes = [route for router in served for route in router.routes]
    return app


def _operations_router(service: str, health: Health, registry: CollectorRegistry) -> APIRouter:
    """Health and metrics. They answer from memory, so they stay quick when everything else is away."""
    router = APIRouter(include_in_schema=False)

    @router.get("/health")
    async def overall() -> Response:
        reasons = health.not_ready()
        return _json(
            {"status": "degraded" if reasons else "ok", "service": service, "checks": health.report()}
        )

    @router.get("/health/live")
    async def live() -> Response:
        return _json({"status": "ok"})

    @router.get("/health/started")
    async def started() -> Response:
        return _json({"status": "ok"}) if health.was_ready() else _json({"status": "starting"}, 503)

    @router.get("/health/ready")
    async def ready() -> Response:
        reasons = health.not_ready()
        if reasons:
            return _json({"status": "not ready", "reasons": reasons}, 503)
        return _json({"status": "ok"})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


async def _check_body(request: Request) -> None:
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            body = await request.body()
    except TimeoutError:
        raise ApiError(
            ErrorCode.VALIDATION_ERROR,
            "The request is not valid.",
            details=[FieldProblem("body", f"did not come within {BODY_DEADLINE_S:.0f} s")],
            headers={"Connection": "close"},  # what else comes on it is no request
        ) from None
    if not body:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    if b"\x00" in body:  # as in UTF-16 and UTF-32, which the parser would take; RFC 8259 has UTF-8 alone
        raise ApiError(
            ErrorCode.VALIDATION_ERROR,
            "The request is not valid.",
            details=[FieldProblem("body", "must be JSON in UTF-8")],
        )
    if may_be_unstorable(body):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return  # the parser that follows says what is wrong
        problem = _unstorable(value)
        if problem is not None:
            raise ApiError(
                ErrorCode.VALIDATION_ERROR,
                "The request is not valid.",
                details=[FieldProblem(problem, "holds a character that is no text")],
            )


def may_be_unstorable(body: bytes) -> bool:
    """Whether a body of JSON could hold a text that PostgreSQL cannot store: a quick look before a thorough one."""
    return b"\\u" in body and _UNSTORABLE.search(body) is not None


def _unstorable(body: object) -> str | None:
    """The path of a text that PostgreSQL could not store (NUL, a lone surrogate), or None.

    Without recursion: how deep a body is nested is the caller's choice.
    """
    left: list[tuple[object, str]] = [(body, "")]
    while left:
        value, path = left.pop()
        children: list[tuple[str, object]] = []
        match value:
            case str():
                if "\x00" in value or _SURROGATE.search(value):
                    return path.encode(errors="replace").decode() or "body"
            case dict():
                children = [(str(name), child) for name, child in value.items()]
            case list():
                children = [(str(index), child) for index, child in enumerate(value)]
        left.extend(
            (child, f"{path}.{name}"[-MAX_PATH:] if path else name) for name, child in reversed(children)
        )
    return None


def _methods_of(request: Request) -> list[str]:
    """All methods of a path. Each is a route of its own, and Starlette's answer tells those of the first alone."""
    return sorted(
        method
        for route in request.app.state.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods
    )


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")


def _unauthenticated(message: str) -> ApiError:
    return ApiError(ErrorCode.UNAUTHENTICATED, message, headers={"WWW-Authenticate": 'Bearer realm="weelo"'})


def _too_large() -> ApiError:
    return ApiError(ErrorCode.PAYLOAD_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB.")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class
    return error.response()


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    # By field: one that takes whole and other numbers is refused once as each.
    problems = {_field(one["loc"]): one["msg"].removeprefix("Value error, ") for one in error.errors()[:20]}
    details = [FieldProblem(field, message) for field, message in problems.items()]
    return ApiError(ErrorCode.VALIDATION_ERROR, "The request is not valid.", details=details).response()


def _field(location: Sequence[object]) -> str:
    """``("body", "pickup", "latitude")`` → ``pickup.latitude``; where there is no more, the place itself."""
    where, *rest = (str(part) for part in location)
    if rest and rest[-1] in _NUMBERS:
        rest.pop()
    return ".".join(rest) if rest and not rest[0].isdigit() else where


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            answer = ApiError(ErrorCode.NOT_FOUND, "There is nothing here.", headers=headers)
        case 405:
            answer = ApiError(
                ErrorCode.METHOD_NOT_ALLOWED,
                f"{request.method} is not for this path.",
                headers={"Allow": ", ".join(_methods_of(request))},
            )
        case 413:
            answer = _too_large()
        case 400 | 422:
            answer = ApiError(
                ErrorCode.VALIDATION_ERROR,
                "The request is not valid.",
                details=[FieldProblem("body", "cannot be read as JSON")],
            )
        case _:
            raise error
    return answer.response()

"""What every service says of its own HTTP: an exact OpenAPI document, and ``/docs`` that needs no internet.

A route names what it answers with ``documented(...)``; the rest (security, the codes that its token, its parameters
and its body can lead to, headers, examples) follows from the route itself. All of it is documentation: nothing here
may stand in a request's way, and answers are still the bytes that the handlers return.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from weelo_common.api_errors import STATUS, ErrorCode
from weelo_common.openapi_errors import HEADERS, error_response, error_schema, header, ref, schema_name

CODES = "x-error-codes"
"""The extension of an operation that lists every code it can answer with."""
ROLES = "x-roles"
"""The extension of an operation that lists the roles it is for."""
_SECURITY = "userToken"
_ANY_SUCCESS = "AnySuccess"  # the answer of a route that does not tell more
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
DataT = TypeVar("DataT")

INTRODUCTION = """\
Every answer is an envelope: `{"success": true, "data": {...}}`, or `{"success": false, "error": {"code", "message",
"details"?, "data"?}}`. `code` is stable, `message` is for people. Names are camelCase, times are RFC 3339 in UTC with
milliseconds, money is whole rupees. Unknown fields of a request are ignored; readers must ignore unknown fields of an
answer and survive unknown values. A body may have 64 KiB. A path that is not here answers `NOT_FOUND`, a method that a
path does not have `METHOD_NOT_ALLOWED` with `Allow`.
"""


class Answer(BaseModel):
    """A part of an answer, as it is documented: camelCase; a field that may be left out has a default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Success(BaseModel, Generic[DataT]):
    """The envelope of a success."""

    success: Literal[True]
    data: DataT


REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "1 to 128 letters, digits and `._:/+=-`. Anything else is replaced, and so is what may hold a "
    "phone number: ten digits in a row, except in a UUID or 32 hex digits.",
    "schema": {"type": "string"},
}


def documented(
    model: type[BaseModel],
    *,
    summary: str,
    says: str = "",
    status: int = 200,
    fails: Iterable[ErrorCode] = (),
    headers: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: Iterable[Mapping[str, Any]] = (),
    example: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a route's decorator takes to be documented.

    ``model`` is the ``data`` of a success of that ``status``, ``says`` tells more than ``summary``, ``fails`` are the
    codes that only this route knows of, ``headers`` those of the success, ``parameters`` header parameters that the
    handler reads by itself, ``example`` an example of ``data``.
    """
    content = {"application/json": {"example": {"success": True, "data": example}}} if example else {}
    success: dict[str, Any] = {
        "model": cast(Any, Success)[model],  # mypy knows no type made at run time
        "description": (model.__doc__ or "Done.").splitlines()[0],
        "headers": dict(headers or {}),
    }
    if content:
        success["content"] = content
    extra: dict[str, Any] = {CODES: [code.value for code in fails]}
    if parameters := [dict(parameter) for parameter in parameters]:
        extra["parameters"] = parameters
    return {
        "status_code": status,
        "summary": summary,
        "description": says or f"{summary}.",
        "responses": {status: success},
        "openapi_extra": extra,
    }


def told_by_route(route: APIRoute, roles: Iterable[str] | None) -> dict[str, Any]:
    """The route's ``openapi_extra`` with what follows from the route: its codes, and its security.

    ``roles`` are those its token may have; None where it asks for none. Telling it twice changes nothing.
    """
    extra = dict(route.openapi_extra or {})
    codes = {ErrorCode(code) for code in extra.get(CODES, ())}
    takes_body = bool(route.methods & _WITH_BODY) if route.methods else False
    if route.dependant.path_params or route.dependant.query_params or route.body_field is not None:
        codes.add(ErrorCode.VALIDATION_ERROR)
    if extra.get("parameters"):
        codes.add(ErrorCode.VALIDATION_ERROR)
    if takes_body:
        codes |= {
            ErrorCode.VALIDATION_ERROR,
            ErrorCode.PAYLOAD_TOO_LARGE,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        }
    if roles is not None:
        codes |= {ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN}
        extra["security"] = [{_SECURITY: []}]
        extra[ROLES] = sorted(roles)
    codes |= {ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.INTERNAL_ERROR}
    extra[CODES] = [code.value for code in ErrorCode if code in codes]
    return extra


class DescribedApp(FastAPI):
    """An application whose OpenAPI document is the contract's."""

    def openapi(self) -> dict[str, Any]:
        """The document; made once, when somebody asks for it."""
        if self.openapi_schema is None:
            self.openapi_schema = described(super().openapi())
        return self.openapi_schema


def described(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with our errors, headers and security in place of its own."""
    components: dict[str, Any] = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    used: set[ErrorCode] = set()
    for operations in document.get("paths", {}).values():
        for method, operation in operations.items():
            if method in _METHODS:
                used |= _describe(operation)
    for code in used:
        schemas[schema_name(code)] = error_schema(code)
    schemas[_ANY_SUCCESS] = {
        "type": "object",
        "required": ["success", "data"],
        "properties": {"success": {"const": True}, "data": {"type": "object"}},
    }
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["schemas"] = dict(sorted(schemas.items()))
    components["headers"] = {name: dict(header) for name, header in HEADERS.items()}
    components["securitySchemes"] = {
        _SECURITY: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The user's token, with `sub`, `role`, `exp`, `iss` and `aud`. `make token` makes one "
            "for the local stack.",
        }
    }
    whole: dict[str, Any] = _without_null_defaults(document)
    return whole


def _describe(operation: dict[str, Any]) -> set[ErrorCode]:
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)  # FastAPI's own; ours comes back below, where the operation has it
    codes = [ErrorCode(code) for code in operation.get(CODES, ())]
    for answer in responses.values():
        answer["headers"] = {**answer.get("headers", {}), "X-Request-Id": header("X-Request-Id")}
        content = answer.setdefault("content", {}).setdefault("application/json", {})
        if not content.get("schema"):
            content["schema"] = {"$ref": ref(_ANY_SUCCESS)}
    by_status: dict[int, list[ErrorCode]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    for status, group in sorted(by_status.items()):
        responses[str(status)] = error_response(group)
    operation["responses"] = dict(sorted(responses.items()))
    operation["parameters"] = [*operation.get("parameters", []), REQUEST_ID]
    if roles := operation.get(ROLES):
        said = operation.get("description", "")
        operation["description"] = f"{said}\n\nFor the roles: {', '.join(roles)}.".strip()
    return set(codes)


def _without_null_defaults(value: Any) -> Any:
    """``"default": null`` says of a field that may be left out that it is null; it is not there."""
    if isinstance(value, dict):
        return {
            name: _without_null_defaults(inner)
            for name, inner in value.items()
            if not (name == "default" and inner is None)
        }
    if isinstance(value, list):
        return [_without_null_defaults(inner) for inner in value]
    return value


def docs_router(title: str) -> APIRouter:
    """``/docs``: Swagger UI from files that come with the service; a browser asks nobody else for anything."""
    router = APIRouter(include_in_schema=False)
    folder = Path(str(importlib.resources.files("fastapi_offline"))) / "static"

    @router.get("/docs")
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # else it asks a validator on the internet
        )

    for name in _ASSETS:
        router.add_api_route(f"/docs/{name}", _file(folder / name), methods=["GET"])
    return router


def _file(path: Path) -> Callable[[], FileResponse]:
    def answer() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "public, max-age=3600"})

    return answer

"""Errors as a client sees them: one envelope, `{"error": {"message", "type", "param", "code"}}`, whatever went wrong.

What a client sent is echoed only through `echo`, which cuts it and escapes what a terminal would act upon.
"""

import difflib
import inspect
import json
import logging
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType
from starlette.exceptions import HTTPException

from engine.errors import EngineError, EngineUnavailableError, QueueFullError, RequestCutError, RequestRefusedError

logger = logging.getLogger("headcount.server")

MAX_ECHO_CHARS = 200
PYDANTIC_ERROR_TYPES = frozenset(typing.get_args(ErrorType))

_Path = tuple[str | int, ...]
_Problem = tuple[_Path, dict[str, Any]]
"""Where, and what pydantic says about it."""


@dataclass(eq=False)
class APIError(Exception):
    """An error as it goes to the client.

    Attributes:
        status: HTTP status.
        message: what is wrong, the limit, what was given, what to do.
        type: the family, such as `invalid_request_error`.
        code: the case, such as `unknown_field`; fixed, for programs.
        param: the request's field at fault, such as `messages[0].content`.
        headers: more response headers.
    """

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


def invalid_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> APIError:
    """400: the client has to change the request."""
    return APIError(400, message, "invalid_request_error", code, param)


def invalid_api_key(message: str) -> APIError:
    """401: the key is missing or wrong."""
    return APIError(401, message, "authentication_error", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def admin_key_required(message: str) -> APIError:
    """403: the key opens other routes, and not this one."""
    return APIError(403, message, "permission_error", "admin_key_required")


def model_not_found(name: str, known: Iterable[str]) -> APIError:
    """404: no model of that name is served."""
    names = sorted(known)
    hint = f" (did you mean {echo(close[0])}?)" if (close := difflib.get_close_matches(name, names, n=1)) else ""
    served = ", ".join(echo(known_name) for known_name in names) or "none"
    message = f"the model {echo(name)} is not served here{hint}; served models: {served}"
    return APIError(404, message, "not_found_error", "model_not_found", "model")


def request_not_found(name: str) -> APIError:
    """404: nothing of that name runs or waits."""
    message = f"no request {echo(name)} runs or waits here; it may have ended: its usage has the receipt"
    return APIError(404, message, "not_found_error", "request_not_found")


def comparison_not_found(name: str) -> APIError:
    """404: no comparison of that name runs or is kept."""
    message = f"no comparison {echo(name)} runs or is kept here; GET /v1/compare lists them"
    return APIError(404, message, "not_found_error", "comparison_not_found")


def comparison_running(name: str) -> APIError:
    """409: only one comparison runs at a time."""
    message = f"the comparison {name} is running, and one runs at a time: wait for its end, or stop it with DELETE"
    return APIError(409, message, "conflict_error", "comparison_running")


def body_too_large(max_body_bytes: int) -> APIError:
    """413: the request body is over the limit."""
    message = f"the request body may hold at most {max_body_bytes} bytes; send a shorter one"
    return APIError(413, message, "invalid_request_error", "body_too_large")


def headers_too_large(max_header_bytes: int) -> APIError:
    """431: the request line and the headers are over the limit."""
    message = f"the request line and its headers may hold at most {max_header_bytes} bytes; send shorter ones"
    return APIError(431, message, "invalid_request_error", "headers_too_large")


def too_slow(receive_timeout_s: float) -> APIError:
    """408: the request did not arrive in time. The connection is not used again: the rest may still come."""
    message = f"the request did not arrive within {receive_timeout_s:g} s; send it again, faster"
    return APIError(408, message, "invalid_request_error", "receive_timeout", headers={"Connection": "close"})


def cut_off(message: str, *, code: str) -> APIError:
    """408: the request was ended before its output was complete. The header keeps clients from trying again by themselves."""
    return APIError(408, message, "timeout_error", code, headers={"X-Should-Retry": "false"})


def too_many_connections(max_num_connections: int) -> APIError:
    """503: as many connections are open as there may be."""
    message = f"{max_num_connections} connections are open, which is the limit; close some, or try again later"
    return APIError(503, message, "server_error", "too_many_connections", headers=_retry_after(1.0))


def queue_full(message: str, *, retry_after_s: float) -> APIError:
    """429: too many requests wait already."""
    return APIError(429, message, "rate_limit_error", "queue_full", headers=_retry_after(retry_after_s))


def unavailable(message: str, *, retry_after_s: float, code: str = "engine_unavailable") -> APIError:
    """503: the engine is down or loading, or the server drains (code `draining`)."""
    return APIError(503, message, "server_error", code, headers=_retry_after(retry_after_s))


def internal_error() -> APIError:
    """500: a bug. Says nothing about it: the log does."""
    return APIError(500, "the server failed to handle this request", "server_error", "internal_error")


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def echo(value: object) -> str:
    """What a client sent, fit to be shown: cut, on one line, and nothing in it that a terminal would act upon."""
    match value:
        case str():
            return f"'{printable(value[:MAX_ECHO_CHARS])}'" + ("…" if len(value) > MAX_ECHO_CHARS else "")
        case bytes():
            return echo(value[: 4 * MAX_ECHO_CHARS].decode("utf-8", "replace"))
        case None | bool() | float():
            return json.dumps(value)
        case int():
            return str(value) if value.bit_length() < 3 * MAX_ECHO_CHARS else "a number of very many digits"
        case Mapping():
            return "an object"
        case Sequence():
            return f"an array of {len(value)}"
        case _:
            return printable(str(value)[:MAX_ECHO_CHARS])


def printable(text: str) -> str:
    r"""`text` with every character that is not printable escaped: a newline becomes `\n`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def error_body(error: APIError) -> dict[str, dict[str, str | None]]:
    """The envelope."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: APIError) -> JSONResponse:
    """The envelope as a response."""
    return JSONResponse(error_body(error), error.status, dict(error.headers))


def error_of(exception: BaseException) -> APIError:
    """What a client is told about `exception`. What nobody expected is logged with its trace."""
    match exception:
        case APIError():
            return exception
        case RequestRefusedError():
            return invalid_request(str(exception), code=exception.code, param=exception.param)
        case RequestCutError():
            return cut_off(str(exception), code=exception.code)
        case QueueFullError():
            return queue_full(str(exception), retry_after_s=exception.retry_after_s)
        case EngineUnavailableError():
            return unavailable(str(exception), retry_after_s=exception.retry_after_s, code=exception.code)
        case RequestValidationError():
            return from_validation(exception)
        case HTTPException():
            return _from_http(exception)
    logger.error("a request failed with an error that nobody expected", exc_info=exception)
    return internal_error()


def _from_http(exception: HTTPException) -> APIError:
    """The framework's own refusals: an unknown route, a wrong method, a body that is no text."""
    status, headers = exception.status_code, exception.headers or {}
    message = printable(str(exception.detail)[:MAX_ECHO_CHARS])
    if status == HTTPStatus.NOT_FOUND:
        return APIError(404, "there is no such route; /docs lists them all", "not_found_error", "route_not_found")
    if status == HTTPStatus.BAD_REQUEST:
        return invalid_request("the request body cannot be read as JSON", code="invalid_json")
    family = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return APIError(status, message, family, HTTPStatus(status).name.lower(), headers=headers)


def from_validation(
    error: RequestValidationError | ValidationError, *, body: object = None, model: type[BaseModel] | None = None
) -> APIError:
    """The first problem that pydantic found: what, the limit, what was given.

    Args:
        error: what pydantic says.
        body: the parsed request, to tell its fields from the names of union members; a RequestValidationError has it.
        model: what the body was read as, to suggest the right name for an unknown field.
    """
    body = error.body if isinstance(error, RequestValidationError) else body
    problems = [(_path(problem, body), problem) for problem in cast(list[dict[str, Any]], error.errors())]
    first_path, first = _most_telling(problems)
    if first["type"] == "json_invalid":
        reason, position = first.get("ctx", {}).get("error", "cannot be read"), first["loc"][-1]
        return invalid_request(
            f"the request body is not valid JSON: {reason} (character {position})", code="invalid_json"
        )
    if isinstance(first["input"], bytes):
        message = "the request body must be JSON; send it with the header Content-Type: application/json"
        return invalid_request(message, code="invalid_json")
    # A field of several types fails once for each of them. The member that came furthest is what the client meant.
    related = [path for path, _ in problems if path[: len(first_path)] == first_path]
    deepest = max(related, key=len)
    found = [problem for path, problem in problems if path == deepest]
    # Where one member has the right type, what is wrong with the value there is all that counts.
    return _field_error(deepest, [problem for problem in found if not _is_of_type(problem)] or found, model)


def _is_of_type(problem: Mapping[str, Any]) -> bool:
    """True where the value has the wrong type, not the wrong contents."""
    return bool(re.search(r"_(type|parsing|from_float)$", problem["type"]))


def _most_telling(problems: list[_Problem]) -> _Problem:
    """The first problem; where it is a missing field, an unknown one beside it, which is likely the same misspelt."""
    path, first = problems[0]
    if first["type"] == "missing":
        for other_path, other in problems:
            if other["type"] == "extra_forbidden" and other_path[:-1] == path[:-1]:
                return other_path, other
    return path, first


def _field_error(path: _Path, problems: list[dict[str, Any]], model: type[BaseModel] | None) -> APIError:
    """One field's problem; several mean that each would do if it held."""
    first = problems[0]
    param = _dotted(path)
    name = param or "the request body"
    if first["type"] == "missing":
        return invalid_request(f"{name} is required, but it is missing", code="missing_field", param=param)
    if first["type"] == "extra_forbidden":
        return invalid_request(_unknown_field(path, model), code="unknown_field", param=param)
    if first["type"] not in PYDANTIC_ERROR_TYPES:  # a PydanticCustomError of ours: its type is the code
        return invalid_request(first["msg"], code=first["type"], param=param)
    if "error" in first.get("ctx", {}):  # a ValueError of a validator of ours
        return invalid_request(str(first["ctx"]["error"]), param=param)
    requirement = " or ".join(dict.fromkeys(_requirement(problem["msg"]) for problem in problems))
    requirement = requirement.replace(" or must be ", " or ")
    code = "invalid_type" if _is_of_type(first) else "invalid_value"
    return invalid_request(f"{name} {requirement}, got {echo(first['input'])}", code=code, param=param)


def _requirement(message: str) -> str:
    """`Input should be a valid list` -> `must be an array`."""
    message = re.sub(r" after validation, not \d+$", "", message)
    message = message.replace("a valid list", "an array").replace("a valid dictionary", "an object")
    message = message.replace("a valid string, unable to parse raw data as a unicode string", "valid Unicode")
    message = message.replace(" or object to extract fields from", "").replace("a valid ", "a ")
    return re.sub(r"^\w+ should ", "must ", message).replace("a integer", "an integer")


def _unknown_field(path: _Path, model: type[BaseModel] | None) -> str:
    *parents, name = path
    close = difflib.get_close_matches(str(name), _fields_at(model, parents), n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "remove it"
    return f"there is no field {echo(name)}{f' in {_dotted(tuple(parents))}' if parents else ''}; {remedy}"


def _path(problem: Mapping[str, Any], body: object) -> _Path:
    """The part of pydantic's location that names fields of `body`: no source (`body`), no names of union members."""
    loc: _Path = problem["loc"]
    if not loc or loc[0] != "body":
        return tuple(loc[1:] if loc and loc[0] in ("query", "path", "header") else loc)
    path: list[str | int] = []
    value = body
    for position, part in enumerate(loc[1:], 2):
        is_missing = problem["type"] in ("missing", "missing_field") and position == len(loc)
        if isinstance(value, dict) and (part in value or is_missing):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _dotted(path: _Path) -> str | None:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{printable(part[:MAX_ECHO_CHARS])}" for part in path)
    return "".join(parts).removeprefix(".") or None


def _fields_at(model: type[BaseModel] | None, path: Sequence[str | int]) -> list[str]:
    """The field names that are allowed at `path`."""
    models = _models_in(model)
    for part in path:
        if isinstance(part, str):
            kinds = [kind.model_fields[part].annotation for kind in models if part in kind.model_fields]
            models = [found for kind in kinds for found in _models_in(kind)]
    return list(dict.fromkeys(name for kind in models for name in kind.model_fields))


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models in a type: `list[A | B]` -> A, B."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models_in(part)]


def _body_model(request: Request) -> type[BaseModel] | None:
    """What the route of `request` reads its body as."""
    hints = typing.get_type_hints(request.scope.get("endpoint"))
    return next((found for name, hint in hints.items() if name != "return" for found in _models_in(hint)), None)


async def _handle(request: Request, exception: Exception) -> JSONResponse:
    if isinstance(exception, RequestValidationError):
        return error_response(from_validation(exception, model=_body_model(request)))
    response = error_response(error_of(exception))
    # The response to a bug is made outside all middleware, so the id is added here.
    if response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and hasattr(request.state, "request_id"):
        response.headers["X-Request-Id"] = request.state.request_id
    return response


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of `app` the envelope."""
    for kind in (APIError, EngineError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle)

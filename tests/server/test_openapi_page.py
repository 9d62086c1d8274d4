"""docs/api.md is what the code says, and has an example of every operation."""

from configs.http import HTTPSettings
from server.app import create_app
from server.openapi_examples import EXAMPLES
from server.openapi_page import PAGE, render_page


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run: python -m server.openapi_page"


def test_every_operation_has_an_example() -> None:
    paths = create_app(HTTPSettings(), {}).openapi()["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == set(EXAMPLES)


def test_every_field_is_explained() -> None:
    schemas = create_app(HTTPSettings(), {}).openapi()["components"]["schemas"]
    bodies = [schema for name, schema in schemas.items() if name.endswith("Body")]
    assert len(bodies) >= 5
    unexplained = [
        (body["title"], name)
        for body in bodies
        for name, field in body["properties"].items()
        if not field.get("description")
    ]
    assert unexplained == []

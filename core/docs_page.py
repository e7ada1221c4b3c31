"""/docs as one HTML page made here from the application's OpenAPI: nothing is loaded from elsewhere, no script.

docs_page.install(app)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

_METHODS = ("get", "post", "put", "patch", "delete")
# The page may show what it holds and send nothing anywhere.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6472; --line: #dfe3ea; --paper: #fff; --tint: #f5f7fa;
  --get: #0b6e4f; --post: #8a4b08 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #2d3440; --paper: #14181f;
  --tint: #1c222b; --get: #4cc38a; --post: #f0a35e } }
* { box-sizing: border-box }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
main { max-width: 58rem; margin: 0 auto; padding: 2rem 1.25rem 5rem }
h1 { margin: 0; font-size: 1.9rem } h2 { margin: 2.5rem 0 .5rem; text-transform: capitalize }
p { margin: .5rem 0 } .soft { color: var(--soft) }
code, pre { font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
pre { margin: .4rem 0; padding: .75rem 1rem; overflow-x: auto; background: var(--tint); border: 1px solid var(--line);
  border-radius: .5rem }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .6rem }
summary { padding: .6rem .9rem; cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap }
summary code { font-weight: 600; overflow-wrap: anywhere } details > div { padding: 0 .9rem .9rem }
.method { min-width: 3.2rem; font-weight: 700; font-size: .8rem; letter-spacing: .04em }
.get { color: var(--get) } .post, .put, .patch, .delete { color: var(--post) }
h3 { margin: 1rem 0 .2rem; font-size: .95rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem }
td, th { padding: .35rem .7rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
a { color: inherit }
"""

Schema = dict[str, Any]


def install(app: FastAPI) -> None:
    """Adds GET /docs."""

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        openapi = app.openapi()
        servers = openapi.get("servers", [{"url": str(request.base_url).rstrip("/")}])
        page = render(openapi, servers[0]["url"])
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


def render(openapi: Schema, base_url: str) -> str:
    """A whole HTML page; everything in it is escaped."""
    info = openapi["info"]
    groups: dict[str, list[str]] = {}
    for path, methods in openapi.get("paths", {}).items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                tag = (operation.get("tags") or ["endpoints"])[0]
                groups.setdefault(tag, []).append(_operation(openapi, base_url, path, method, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in groups.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(info["title"])}</h1><p class="soft">version {escape(info["version"])} · '
        f'<a href="openapi.json">openapi.json</a></p><p>{_text(info.get("description", ""))}</p>'
        f"{sections}</main></body></html>"
    )


def _operation(openapi: Schema, base_url: str, path: str, method: str, operation: Schema) -> str:
    parts = [f"<p>{_text(part)}</p>" for part in operation.get("description", "").split("\n\n") if part]
    rows = [_parameter(openapi, p) for p in operation.get("parameters", [])]
    content_type, body = _content(openapi, operation.get("requestBody", {}))
    rows += _properties(openapi, body)
    if rows:
        parts.append(
            f'<div class="scroll"><table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>{"".join(rows)}'
            "</table></div>"
        )
    parts.append(
        f"<h3>Try it</h3><pre>{escape(_curl(openapi, base_url, path, method, content_type, body))}</pre>"
    )
    parts += _responses(openapi, operation)
    return (
        f'<details id="{escape(operation.get("operationId", path))}"><summary>'
        f'<span class="method {method}">{method.upper()}</span><code>{escape(path)}</code>'
        f'<span class="soft">{escape(operation.get("summary", ""))}</span></summary>'
        f"<div>{''.join(parts)}</div></details>"
    )


def _parameter(openapi: Schema, parameter: Schema) -> str:
    said = {**parameter.get("schema", {}), "description": parameter.get("description")}
    return _row(openapi, parameter["name"], parameter["in"], said, required=parameter.get("required", False))


def _properties(openapi: Schema, schema: Schema) -> list[str]:
    required = schema.get("required", [])
    return [
        _row(openapi, name, "body", given, required=name in required)
        for name, given in schema.get("properties", {}).items()
    ]


def _row(openapi: Schema, name: str, place: str, schema: Schema, *, required: bool) -> str:
    said = schema.get("description") or _resolved(openapi, schema).get("description") or ""
    if schema.get("default") is not None:
        said = f"{said} Default: `{json.dumps(schema['default'])}`."
    shown = escape(name) if required else f'{escape(name)}<span class="soft">?</span>'
    kind = escape(_type(openapi, schema))
    return (
        f"<tr><td><code>{shown}</code></td><td>{escape(place)}</td><td>{kind}</td><td>{_text(said)}</td></tr>"
    )


def _text(said: str) -> str:
    """Escaped; what stands between backticks becomes code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(said))


def _responses(openapi: Schema, operation: Schema) -> Iterator[str]:
    errors = []
    for status, response in operation.get("responses", {}).items():
        if not status.startswith("2"):
            said = _text(response.get("description", ""))
            errors.append(f"<tr><td><code>{escape(status)}</code></td><td>{said}</td></tr>")
            continue
        _, schema = _content(openapi, response)
        example = _example(openapi, schema, whole=True)
        if example is not None:
            shown = json.dumps(example, indent=2, ensure_ascii=False)
            yield f"<h3>{status}</h3><pre>{escape(shown)}</pre>"
    if errors:
        yield f'<h3>Errors</h3><div class="scroll"><table>{"".join(errors)}</table></div>'


def _curl(
    openapi: Schema, base_url: str, path: str, method: str, content_type: str | None, body: Schema
) -> str:
    line = "curl" if method == "get" else f"curl -X {method.upper()}"
    line += f" '{base_url}{path}'"
    if content_type == "multipart/form-data":
        return f"{line} -F 'file=@drawing.png'"
    if content_type is None:
        return line
    example = json.dumps(_example(openapi, body) or {}, ensure_ascii=False)
    return f"{line} \\\n  -H 'Content-Type: {content_type}' \\\n  -d '{example}'"


def _content(openapi: Schema, described: Schema) -> tuple[str | None, Schema]:
    """The first content type with its schema, references followed."""
    for content_type, content in described.get("content", {}).items():
        return content_type, _resolved(openapi, content.get("schema", {}))
    return None, {}


def _resolved(openapi: Schema, schema: Schema) -> Schema:
    """Follows references; of alternatives takes the first that is not null."""
    while True:
        if "$ref" in schema:
            schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        elif "anyOf" in schema:
            schema = next((s for s in schema["anyOf"] if s.get("type") != "null"), {})
        else:
            return schema


def _example(openapi: Schema, schema: Schema, *, whole: bool = False) -> Any:
    """The stated example, else one put together from the parts' own; None when nothing is known.

    whole: with the fields that the example does not have, which FastAPI drops when they are null.
    """
    schema = _resolved(openapi, schema)
    properties = schema.get("properties", {})
    if schema.get("examples"):
        stated = schema["examples"][0]
        if not properties or not isinstance(stated, dict):
            return stated
        # FastAPI also sorts an example's keys; the fields' own order reads better.
        return {name: stated.get(name) for name in properties if whole or name in stated}
    if properties:
        return {name: _example(openapi, part, whole=whole) for name, part in properties.items()}
    if schema.get("type") == "array":
        return [_example(openapi, schema.get("items", {}), whole=whole)]
    return schema.get("default")


def _type(openapi: Schema, schema: Schema) -> str:
    optional = any(s.get("type") == "null" for s in schema.get("anyOf", []))
    inner = _resolved(openapi, schema)
    name = str(inner.get("format") or inner.get("type") or inner.get("title") or "")
    if "enum" in inner:
        name = " | ".join(map(str, inner["enum"]))
    return f"{name} or null" if optional and name else name

"""Serves the drawing app: `python -m ui`. Settings say where (core/settings.py)."""

from __future__ import annotations

from fastapi import FastAPI

from core import pages, web
from core.settings import settings

DESCRIPTION = "The drawing app's pages. Below `/api` the gateway answers, below `/runs` the viewer."


def create_app() -> FastAPI:
    app = web.application("pages", DESCRIPTION)

    @app.get("/healthz", tags=["health"], summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    here = settings()
    pages.install(app, pages.built("draw"), {"/api": here.api_url, "/runs": here.viewer_url})
    return app


def main() -> None:
    web.serve(create_app(), settings().ui_port, "pages")


if __name__ == "__main__":
    main()

"""Runs the gateway: `python -m api`. Settings say where (core/settings.py)."""

from __future__ import annotations

from api import predictions
from api.app import create_app
from api.lean import Shortcut
from api.overload import refusing
from core import start, web
from core.settings import settings


def main() -> None:
    start.begin("gateway")
    app = create_app()
    refuse = refusing(lambda: app.state.gateway.batcher, settings().default_model)
    web.serve(Shortcut(app, predictions.lean, "gateway"), settings().api_port, "gateway", refuse)


if __name__ == "__main__":
    main()

"""Runs the gateway: `python -m api`. Settings say where (core/settings.py)."""

from __future__ import annotations

from api import predictions
from api.app import create_app
from api.direct import Direct
from core import start, web
from core.settings import settings


def main() -> None:
    start.begin("gateway")
    app = create_app()
    direct = Direct(app, predictions.lean, "gateway", settings().default_model)
    web.serve(app, settings().api_port, "gateway", direct)


if __name__ == "__main__":
    main()

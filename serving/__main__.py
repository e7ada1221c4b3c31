"""Runs the model server: `python -m serving`. Settings say where (core/settings.py)."""

from __future__ import annotations

from core import http_server, telemetry
from core.memory import spare_the_collector
from core.registry import Registry
from core.settings import settings
from serving.app import ModelServer, create_app
from serving.direct import Direct
from serving.follower import Follower
from serving.on_demand import OnDemand
from serving.versions import Versions


def main() -> None:
    here = settings()
    telemetry.configure("serving")
    with Registry(here.mlflow_tracking_uri, timeout_seconds=5) as registry:
        versions = Versions(here.default_model)
        cache = here.data_dir / "serving"
        follower = Follower(registry, versions, cache, database_url=lambda: here.database_url)
        on_demand = OnDemand(registry, cache)
        server = ModelServer(versions, follower, on_demand)
        spare_the_collector()
        http_server.run(
            create_app(server),
            host=here.host,
            port=here.serving_port,
            graceful_seconds=5,
            direct=Direct(server),
        )


if __name__ == "__main__":
    main()

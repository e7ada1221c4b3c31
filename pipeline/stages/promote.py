"""promote: if the gate said so, `champion` moves to the new version, and the stage waits until it answers.

Whether promotion is paused (after a rollback) and which version the challenger was compared with comes in the
manifest. When the model server does not answer with the new version in time, `champion` moves back and the
stage fails.
"""

from __future__ import annotations

from core.registry import Registry
from core.settings import settings
from pipeline.champion import MOVED_BACK, Aliases, NotServed, move_champion, version_of
from pipeline.stages import Result, StageError, StageRun, main


def promote(stage: StageRun) -> Result:
    """Move champion to the new version if the verdict says so."""
    model: str = stage.manifest["model"]
    version = int(stage.result_of("register")["version"])
    compared_with: int | None = stage.result_of("version")["base_version"]
    verdict = stage.result_of("evaluate")["verdict"]
    if not verdict["promoted"]:
        print(verdict["sentence"])
        return Result(figures={"promoted": "no"}, data={"promoted": False, "why": verdict["sentence"]})
    if stage.manifest["promotion_paused"]:
        why = (
            f"version {version} passed the gate and was not put live: promotion is paused after a rollback. `emend "
            f"promote {version}` puts it live; `emend promotion-resume` lets later runs do so"
        )
        print(why)
        return Result(figures={"promoted": "paused"}, data={"promoted": False, "why": why})
    timeout_seconds = stage.params.stages.promote_timeout_seconds
    with Registry(settings().mlflow_tracking_uri) as registry:
        champion = version_of(registry, model, "champion")
        if champion not in (compared_with, version):  # version: an earlier attempt moved it and was killed
            raise StageError(
                f"champion moved to version {champion} while this run compared version {version} with "
                f"{compared_with}; start a new run"
            )
        try:
            seconds = move_champion(
                registry,
                model,
                Aliases(version, compared_with),
                back_to=Aliases(compared_with, stage.manifest["previous_version"]),
                server_urls=settings().model_server_urls,
                timeout_seconds=timeout_seconds,
            )
        except NotServed:
            (stage.folder / MOVED_BACK).touch()
            raise
    print(f"{model} version {version} is live")
    return Result(
        figures={"promoted": "yes", "live_after_seconds": round(seconds, 3)}, data={"promoted": True}
    )


if __name__ == "__main__":
    main("promote", promote)

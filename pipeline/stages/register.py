"""register: the challenger becomes a version in the MLflow registry, also when the gate said no.

The only place that imports mlflow (1.5 s and more), which is why the orchestrator warms this stage up while
`train` works. It waits while MLflow or its store is away: a repeated attempt finds the version the first one made by
its MLflow run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.patience import patiently
from core.redaction import redacted
from core.registry import Registry, RegistryUnavailable, Version
from core.settings import settings
from core.storage import write_json
from pipeline import workspace
from pipeline.stages import Result, StageRun, main, read_json

EXTRA_FILES = ("categories.json", "input.json", "example_answer.json", "weights.safetensors")


def register(stage: StageRun) -> Result:
    """Log the model with MLflow as a new version, with its figures and origin."""
    return patiently(lambda: _register(stage), print)


def _register(stage: StageRun) -> Result:
    model: str = stage.manifest["model"]
    verdict = stage.result_of("evaluate")["verdict"]
    with Registry(settings().mlflow_tracking_uri) as registry:
        registry.ensure_model(model)
        mlflow_run = stage.manifest.get("mlflow_run_id") or _new_mlflow_run(registry, stage)
        version = _already_there(registry, model, mlflow_run)
        if version is None:
            with _away_when_mlflow_is():
                _log_model(stage, model, mlflow_run)
            version = _already_there(registry, model, mlflow_run)
            assert version is not None
        registry.set_tags(model, version.version, _tags(stage, verdict))
        registry.set_alias(model, "challenger", version.version)
        registry.log_batch(mlflow_run, params=_parameters(stage), tags={"emend.verdict": verdict["sentence"]})
    print(f"registered {model} version {version.version}")
    outputs = read_json(stage.home / "model" / "categories.json")["outputs"]
    return Result(
        figures={"version": version.version, "categories": len(outputs)},
        data={
            "version": version.version,
            "mlflow_run_id": mlflow_run,
            "category_ids": [output["id"] for output in outputs],
        },
    )


def _new_mlflow_run(registry: Registry, stage: StageRun) -> str:
    """When no orchestrator made one. Kept for a repeated attempt."""
    kept = stage.folder / "mlflow_run.json"
    if not kept.exists():
        experiment = registry.ensure_experiment(stage.manifest["model"])
        write_json(kept, {"mlflow_run_id": registry.create_run(experiment, f"run-{stage.run}")})
    return str(read_json(kept)["mlflow_run_id"])


def _already_there(registry: Registry, model: str, mlflow_run: str) -> Version | None:
    return next((v for v in registry.versions(model) if v.run_id == mlflow_run), None)


@contextmanager
def _away_when_mlflow_is() -> Iterator[None]:
    """Raises RegistryUnavailable for what mlflow raises when the server, or the store behind it, is away."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as exc:
        if isinstance(exc, MlflowException):
            status = exc.get_http_status_code()
        else:
            status = 503 if exc.response is None else exc.response.status_code
        if status < 500:
            raise
        raise RegistryUnavailable(f"MLflow did not take the model: {redacted(str(exc))}") from exc


def _log_model(stage: StageRun, model: str, mlflow_run: str) -> None:
    import mlflow
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    folder = stage.home / "model"
    example = np.asarray(
        read_json(folder / "example_answer.json")["inputs"], dtype=np.uint8
    )  # (1, H, W[, 3])
    classes = len(read_json(folder / "categories.json")["outputs"])
    mlflow.set_tracking_uri(settings().mlflow_tracking_uri)
    with mlflow.start_run(run_id=mlflow_run):
        mlflow.onnx.log_model(
            onnx.load(folder / "model.onnx"),
            name="model",
            registered_model_name=model,
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *example.shape[1:]), "pixels")]),
                outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes), "probabilities")]),
            ),
            input_example={"pixels": example},
            # Explicit: left to itself MLflow starts a process that imports everything to find them out.
            pip_requirements=["onnxruntime"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            extra_files=[str(folder / name) for name in EXTRA_FILES],
            await_registration_for=None,
        )


def _tags(stage: StageRun, verdict: dict[str, Any]) -> dict[str, str]:
    tags = {
        "emend.run": str(stage.run),
        "emend.dataset_version": str(stage.result_of("version")["dataset_version"]),
        "emend.dataset_hash": stage.result_of("version")["dataset_hash"],
        "emend.git_commit": workspace.head(stage.home),
        "emend.verdict": "promoted" if verdict["promoted"] else "rejected",
        "emend.verdict_sentence": verdict["sentence"],
    }
    figures = {f"emend.{k}": json.dumps(v) for k, v in verdict["figures"].items() if v is not None}
    return tags | figures


def _parameters(stage: StageRun) -> dict[str, str]:
    return {key: str(value) for key, value in stage.params.train.model_dump().items()}


def _warm_up() -> None:
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the stage itself waits, and says so
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow
    import mlflow.models
    import mlflow.onnx
    import onnx

    del mlflow, onnx


if __name__ == "__main__":
    main("register", register, _warm_up)

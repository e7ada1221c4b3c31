"""Stage 1: is there enough to do, and is all of it there?

    python -m pipeline.stages.ingest --home data/doodles --run 12

The manifest is the snapshot: which corrections and imports this run takes. Files it names that are gone are
listed and left out. With fewer new images than `ingest.min_new_images` the run is halted, unless something is to be
taken out of the dataset: a withdrawal is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.patience import patiently
from pipeline import mirror
from pipeline.stages import Result, StageRun, main


def ingest(stage: StageRun) -> Result:
    """Checks the run's manifest against the files and against ingest.min_new_images."""
    manifest = stage.manifest
    missing = missing_files(stage.home, manifest)
    gone = {m["correction_id"] or m["import_id"] for m in missing}
    corrections = [c for c in manifest["corrections"] if c["id"] not in gone and not c["withdrawn"]]
    withdrawals = sum(c["withdrawn"] for c in manifest["corrections"]) + untrained_withdrawals(manifest)
    imports = [i for i in manifest["imports"] if i["id"] not in gone]
    figures = {
        "corrections": len(corrections),
        "withdrawals": withdrawals,
        "imports": len(imports),
        "import_images": sum(i["images"] for i in imports),
        "untrained_images": manifest["untrained_images"],
        "missing_files": len(missing),
    }
    for entry in missing:
        print(f"left out: {entry['file']} {entry['reason']}")
    new = figures["corrections"] + figures["import_images"] + figures["untrained_images"]
    asked = stage.params.ingest.min_new_images
    print(f"{new} new images: {figures}")
    halted = None
    if new < asked and not withdrawals and not manifest["force"] and manifest["trigger"] != "initial":
        halted = (
            f"{counted(new, 'new image')}; params.yaml asks for {asked} (ingest.min_new_images): "
            f"{asked - new} more {'is' if asked - new == 1 else 'are'} missing, or start the run with --force"
        )
    return Result({"new_images": new, **figures}, halted, {"new_images": new, "missing": missing})


def untrained_withdrawals(manifest: dict[str, Any]) -> int:
    """Taken out of the dataset by an earlier run that did not get as far as a new version."""
    return int(manifest.get("untrained_withdrawals", 0))  # a manifest of an older Emend has none


def missing_files(home: Path, manifest: dict[str, Any]) -> list[dict[str, str | None]]:
    """What the manifest names and neither the home nor the object store has. A withdrawal needs no picture."""
    waiting = [
        (inbox_path(home, c), str(c["image_sha256"])) for c in manifest["corrections"] if not c["withdrawn"]
    ]
    patiently(lambda: mirror.bring_waiting(home, waiting), print)
    missing: list[dict[str, str | None]] = []
    for correction in manifest["corrections"]:
        path = inbox_path(home, correction)
        if not correction["withdrawn"] and not path.is_file():
            missing.append(_missing(path.relative_to(home), correction_id=correction["id"]))
    for item in manifest["imports"]:
        if not (home / item["file"]).is_file():
            missing.append(_missing(Path(item["file"]), import_id=item["id"]))
    return missing


def _missing(
    path: Path, *, correction_id: str | None = None, import_id: str | None = None
) -> dict[str, str | None]:
    return {
        "correction_id": correction_id,
        "import_id": import_id,
        "file": str(path),
        "reason": "is no longer there",
    }


def inbox_path(home: Path, correction: dict[str, Any]) -> Path:
    return home / "inbox" / str(correction["label"]) / f"{correction['image_sha256']}.png"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    main("ingest", ingest)

"""The gateway over real HTTP, with a real PostgreSQL behind it and the real model server."""

from __future__ import annotations

import base64
import io
import re
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import func, select
from sqlalchemy.orm import Session

import core.database
from api import schemas
from core.database import (
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    Outcome,
    Prediction,
    Run,
    RunStatus,
)
from core.images import decode_png, encode_png, name_of
from pipeline import dataset
from tests.support import tiny_model
from tests.support.gateway import (
    World,
    promote,
    world_of_two_models,
)
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def world(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of_two_models(postgres, tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    """Each test is an actor of its own."""
    with world.gateway.client(**{"Emend-Actor": uuid.uuid4().hex}) as opened:
        yield opened


def drawing() -> NDArray[np.uint8]:
    """Another one each time."""
    pixels: NDArray[np.uint8] = tiny_model.images(1, seed=uuid.uuid4().int % 2**32)[0]
    return pixels


def encoded(pixels: NDArray[np.uint8], file_format: str | None = None) -> str:
    if file_format is None:
        return base64.b64encode(pixels.tobytes()).decode()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return base64.b64encode(buffer.getvalue()).decode()


def answered(graph_seed: int, pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = tiny_model.answer(tiny_model.graph(graph_seed, shape), pixels[None])[
        0
    ]
    return probabilities


def correct(client: httpx.Client, label: str, pixels: NDArray[np.uint8] | None = None, **more: Any) -> Any:
    response = client.post(
        "/save-image/",
        json={"image": encoded(drawing() if pixels is None else pixels), "label": label, **more},
    )
    assert response.status_code == 201, response.text
    return response.json()


def metric(client: httpx.Client, line_start: str, **labels: str) -> float:
    """The sum over all series with these labels."""
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    found = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith(line_start) and all(label in line for label in wanted)
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found)


# Predictions


def test_an_answer_has_the_contracts_fields_and_the_graphs_figures(client: httpx.Client) -> None:
    pixels = drawing()
    response = client.post("/invocations/", json={"image": encoded(pixels), "model": "doodles"})
    assert response.status_code == 200
    answer = response.json()
    schemas.PredictionAnswer.model_validate(answer)
    assert list(answer) == ["prediction_id", "model", "version", "label", "confidence", "probabilities"]
    assert (answer["model"], answer["version"]) == ("doodles", 1)
    assert uuid.UUID(answer["prediction_id"]).version == 7
    expected = answered(1, pixels, tiny_model.DOODLE)
    assert list(answer["probabilities"]) == list(tiny_model.CATEGORIES)
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
    assert answer["label"] == tiny_model.CATEGORIES[int(expected.argmax())]
    assert answer["confidence"] == max(answer["probabilities"].values())


@pytest.mark.parametrize("path", ["/invocations", "/invocations/"])
def test_with_and_without_a_trailing_slash(client: httpx.Client, path: str) -> None:
    assert client.post(path, json={"image": encoded(drawing())}).status_code == 200


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_raw_pixels_and_a_file_of_them_are_one_image(client: httpx.Client, file_format: str) -> None:
    pixels = drawing()
    pixels[0] = pixels[-1] = pixels[:, 0] = pixels[:, -1] = 0  # a dark border: ink on paper already
    raw = client.post("/invocations/", json={"image": encoded(pixels)}).json()
    options = {"lossless": True} if file_format == "WEBP" else {}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    file = client.post("/invocations/", json={"image": base64.b64encode(buffer.getvalue()).decode()}).json()
    assert file["probabilities"] == raw["probabilities"]


def test_several_images_are_answered_in_order(client: httpx.Client) -> None:
    images = [drawing() for _ in range(5)]
    body = client.post("/invocations/", json={"images": [encoded(i) for i in images]}).json()
    answers = schemas.PredictionAnswers.model_validate(body).predictions
    for pixels, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(
            list(answer.probabilities.values()), answered(1, pixels, tiny_model.DOODLE), atol=1e-5
        )


def test_a_request_of_exactly_as_many_images_as_the_documentation_says_is_answered_and_one_more_is_not(
    client: httpx.Client,
) -> None:
    most = schemas.MOST_IMAGES
    images = [encoded(drawing(), "PNG") for _ in range(most + 1)]
    answered = client.post("/invocations/", json={"images": images[:-1], "draft": True})
    assert answered.status_code == 200
    assert len(schemas.PredictionAnswers.model_validate(answered.json()).predictions) == most
    refused = client.post("/invocations/", json={"images": images, "draft": True})
    assert refused.status_code == 413
    error = refused.json()["error"]
    assert (error["code"], error["field"]) == ("too_large", "images")
    assert error["message"] == f"{most + 1} images at once; send at most {most}"


def test_another_model_sees_its_own_input(client: httpx.Client) -> None:
    pixels = tiny_model.images(1, tiny_model.PHOTO, seed=4)[0]
    answer = client.post("/invocations/", json={"image": encoded(pixels, "PNG"), "model": "photos"}).json()
    assert answer["model"] == "photos"
    np.testing.assert_allclose(
        list(answer["probabilities"].values()), answered(2, pixels, tiny_model.PHOTO), atol=1e-5
    )


def test_many_at_once_are_all_answered_each_with_its_own_figures(client: httpx.Client) -> None:
    calls_before = metric(client, "emend_upstream_batch_images_count")
    images = [drawing() for _ in range(120)]
    with ThreadPoolExecutor(24) as threads:
        answers = list(
            threads.map(lambda i: client.post("/invocations/", json={"image": encoded(i)}).json(), images)
        )
    for pixels, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(
            list(answer["probabilities"].values()), answered(1, pixels, tiny_model.DOODLE), atol=1e-5
        )
    assert metric(client, "emend_upstream_batch_images_count") - calls_before <= 120


def test_a_draft_is_counted_but_not_recorded(client: httpx.Client, world: World) -> None:
    before = metric(client, "emend_predictions_total", draft="true")
    pixels = drawing()
    answer = client.post("/invocations/", json={"image": encoded(pixels), "draft": True}).json()
    assert answer["prediction_id"] is None
    assert metric(client, "emend_predictions_total", draft="true") == before + 1
    recorded = client.post("/invocations/", json={"image": encoded(drawing())}).json()
    wait_until(lambda: written(world, recorded["prediction_id"]))
    with Session(world.engine) as db:
        found = db.scalar(select(func.count()).where(Prediction.image_sha256 == name_of(pixels)))
    assert found == 0


def test_an_uploaded_file_keeps_its_name_without_its_folders(client: httpx.Client, world: World) -> None:
    png = base64.b64decode(encoded(drawing(), "PNG"))
    answer = client.post("/predict", files={"file": ("C:\\secret\\whisk\u200bers.png", png)}).json()
    schemas.PredictionAnswer.model_validate(answer)
    wait_until(lambda: written(world, answer["prediction_id"]))
    (item,) = [i for i in client.get("/predictions").json()["items"] if i["id"] == answer["prediction_id"]]
    assert item["filename"] == "whiskers.png"


def written(world: World, prediction_id: str) -> bool:
    with Session(world.engine) as db:
        return db.scalar(select(func.count()).where(Prediction.id == uuid.UUID(prediction_id))) == 1


# History


def test_history_pages_from_the_newest_on_and_ends(client: httpx.Client, world: World) -> None:
    ids = [
        client.post("/invocations/", json={"image": encoded(drawing())}).json()["prediction_id"]
        for _ in range(7)
    ]
    wait_until(lambda: all(written(world, i) for i in ids))
    seen: list[str] = []
    before: dict[str, str] = {}
    while len(seen) < 7:
        page = client.get("/predictions", params={"limit": 3, **before}).json()
        schemas.HistoryPage.model_validate(page)
        seen += [item["id"] for item in page["items"]]
        before = {"before": page["next_before"]}
    assert seen[:7] == ids[::-1]
    with Session(world.engine) as db:
        count = db.scalar(select(func.count()).select_from(Prediction)) or 0
    everything = client.get("/predictions", params={"limit": min(500, count + 1)}).json()
    assert everything["next_before"] is None
    assert len(everything["items"]) == count


def test_history_filters_by_model_label_version_and_correction(client: httpx.Client, world: World) -> None:
    pixels = drawing()
    answer = client.post("/invocations/", json={"image": encoded(pixels)}).json()
    correct(client, "fish", pixels, prediction_id=answer["prediction_id"])
    wait_until(lambda: written(world, answer["prediction_id"]))

    def listed(**query: Any) -> set[str]:
        items = client.get("/predictions", params={"limit": 500, **query}).json()["items"]
        return {item["id"] for item in items}

    here = answer["prediction_id"]
    assert here in listed(model="doodles", label=answer["label"], version=1, corrected=True)
    assert here not in listed(model="photos")
    assert here not in listed(version=2)
    assert here not in listed(corrected=False)
    assert here not in listed(label="no such label")
    (item,) = [
        i for i in client.get("/predictions?corrected=true&limit=500").json()["items"] if i["id"] == here
    ]
    assert item["corrected"] == "fish"
    assert item["prediction"] == answer["label"]


def test_a_predictions_image_is_what_the_model_saw_at_once_and_later(
    client: httpx.Client, world: World
) -> None:
    pixels = drawing()
    answer = client.post("/invocations/", json={"image": encoded(pixels)}).json()
    at_once = client.get(f"/predictions/{answer['prediction_id']}/image")
    wait_until(lambda: written(world, answer["prediction_id"]))
    later = client.get(f"/predictions/{answer['prediction_id']}/image")
    for response in (at_once, later):
        assert response.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(decode_png(response.content), pixels)


# Corrections


def test_a_correction_is_on_disk_and_in_the_database_when_acknowledged(
    client: httpx.Client, world: World
) -> None:
    pixels = drawing()
    kept = correct(client, "cat", pixels)
    schemas.CorrectionAnswer.model_validate(kept)
    assert kept["image_sha256"] == name_of(pixels)
    file = world.data_dir / "doodles" / "inbox" / "cat" / f"{kept['image_sha256']}.png"
    np.testing.assert_array_equal(decode_png(file.read_bytes()), pixels)
    with Session(world.engine) as db:
        row = db.get_one(Correction, uuid.UUID(kept["correction_id"]))
        assert (row.status, row.label, row.category_id) == (CorrectionStatus.accepted, "cat", 0)
    image = client.get(f"/corrections/{kept['correction_id']}/image")
    np.testing.assert_array_equal(decode_png(image.content), pixels)


def test_the_original_is_kept_beside_what_the_model_sees(client: httpx.Client, world: World) -> None:
    large = np.zeros((300, 200), np.uint8)
    large[100:180, 60:140] = 255
    response = client.post("/save-image/", json={"image": encoded(large, "PNG"), "label": "cat"})
    sha256 = response.json()["image_sha256"]
    original = world.data_dir / "doodles" / "originals" / sha256[:2] / f"{sha256}.png"
    np.testing.assert_array_equal(decode_png(original.read_bytes()), large)
    seen = world.data_dir / "doodles" / "inbox" / "cat" / f"{sha256}.png"
    assert decode_png(seen.read_bytes()).shape == (28, 28)


def test_a_new_label_becomes_a_pending_category_however_it_is_spelt(
    client: httpx.Client, world: World
) -> None:
    first = correct(client, "  Ice   Cream ")
    second = correct(client, "ice cream")
    assert first["label"] == second["label"] == "Ice Cream"
    receipt = client.get(second["receipt"]).json()
    assert receipt["category"]["state"] == "pending"
    assert receipt["category"]["missing"] == 20
    assert "20 more training images" in receipt["sentence"]
    with Session(world.engine) as db:
        rows = db.scalars(
            select(Category).where(Category.model == "doodles", Category.key == "ice cream")
        ).all()
        assert len(rows) == 1


def test_new_labels_at_the_same_time_get_one_id_each(client: httpx.Client, world: World) -> None:
    labels = [f"thing {i % 4} {client.headers['Emend-Actor'][:6]}" for i in range(24)]
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda label: correct(client, label), labels))
    with Session(world.engine) as db:
        rows = db.scalars(select(Category).where(Category.model == "doodles")).all()
    assert sorted(r.id for r in rows) == list(range(len(rows)))
    assert {r.name for r in rows} >= set(labels)


def test_an_alias_means_its_category(client: httpx.Client, world: World) -> None:
    with Session(world.engine) as db:
        db.get_one(Category, ("doodles", 1)).aliases = ["Hound"]
        db.commit()
    assert correct(client, "hound")["label"] == "dog"


def test_the_same_key_and_body_give_the_first_answer_again(client: httpx.Client) -> None:
    body = {"image": encoded(drawing()), "label": "cat"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = client.post("/save-image/", json=body, headers=key)
    again = client.post("/save-image/", json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "Idempotent-Replay" not in first.headers
    assert again.headers["Idempotent-Replay"] == "true"


def test_the_same_key_with_another_body_is_refused_and_leaves_no_file(
    client: httpx.Client, world: World
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    client.post("/save-image/", json={"image": encoded(drawing()), "label": "cat"}, headers=key)
    other = drawing()
    response = client.post("/save-image/", json={"image": encoded(other), "label": "cat"}, headers=key)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "idempotency_mismatch"
    assert not list(world.data_dir.glob(f"*/inbox/*/{name_of(other)}.png"))


def test_a_key_belongs_to_its_actor(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "1"}
    body = {"image": encoded(drawing()), "label": "cat"}
    mine = client.post("/save-image/", json=body, headers=key)
    theirs = client.post("/save-image/", json=body, headers={**key, "Emend-Actor": uuid.uuid4().hex})
    assert mine.json()["correction_id"] != theirs.json()["correction_id"]


def test_a_key_holds_for_somebody_who_has_no_name_and_keeps_no_cookie(world: World) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"image": encoded(drawing()), "label": "cat"}
    first, again = (httpx.post(f"{world.gateway.url}/save-image/", json=body, headers=key) for _ in range(2))
    other = httpx.post(f"{world.gateway.url}/save-image/", json={**body, "label": "dog"}, headers=key)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replay"] == "true"
    assert other.status_code == 422


def test_one_key_sent_twenty_times_at_once_is_kept_once(client: httpx.Client, world: World) -> None:
    body = {"image": encoded(drawing()), "label": "cat"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: client.post("/save-image/", json=body, headers=key), range(20)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["correction_id"] for a in answers}) == 1
    assert sum("Idempotent-Replay" not in a.headers for a in answers) == 1


def test_one_key_with_different_images_at_once_keeps_one_and_no_orphan(
    client: httpx.Client, world: World
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    images = [drawing() for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        statuses = list(
            threads.map(
                lambda i: (
                    client.post(
                        "/save-image/", json={"image": encoded(i), "label": "cat"}, headers=key
                    ).status_code
                ),
                images,
            )
        )
    assert sorted(statuses) == [201] + [422] * 15
    files = [i for i in images if list(world.data_dir.glob(f"*/inbox/*/{name_of(i)}.png"))]
    assert len(files) == 1


def test_a_double_click_without_a_key_is_one_correction(client: httpx.Client) -> None:
    pixels = drawing()
    first, again = correct(client, "cat", pixels), correct(client, "CAT", pixels)
    changed_mind = correct(client, "dog", pixels)
    assert first == again
    assert changed_mind["correction_id"] != first["correction_id"]


def test_somebody_new_gets_a_cookie_and_is_known_by_it_afterwards(world: World) -> None:
    with world.gateway.client() as browser:
        response = browser.post("/save-image/", json={"image": encoded(drawing()), "label": "cat"})
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        again = browser.post("/save-image/", json={"image": encoded(drawing()), "label": "cat"})
        assert "Set-Cookie" not in again.headers
        mine = browser.get("/corrections", params={"mine": True}).json()
        schemas.CorrectionsPage.model_validate(mine)
        assert [i["correction_id"] for i in mine["items"]] == [
            again.json()["correction_id"],
            response.json()["correction_id"],
        ]
        token = browser.cookies["emend_actor"]
    with Session(world.engine) as db:
        actors = db.scalars(select(Correction.actor)).all()
    assert token not in actors
    assert all(re.fullmatch("[0-9a-f]{64}", actor) for actor in actors)
    salt = world.data_dir / "actor_salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert len(salt.read_bytes()) == 32


def test_a_prediction_can_be_spoken_of_the_moment_it_was_answered(client: httpx.Client) -> None:
    pixels = drawing()
    answer = client.post("/invocations/", json={"image": encoded(pixels)}).json()
    label = next(name for name in tiny_model.CATEGORIES if name != answer["label"])
    series = {"agreement": "disagrees", "model": "doodles", "version": "1", "category": label}
    before = metric(client, "emend_corrections_total", **series)
    kept = correct(client, label, pixels, prediction_id=answer["prediction_id"])
    receipt = client.get(kept["receipt"]).json()
    assert receipt["prediction"] == {"id": answer["prediction_id"], "label": answer["label"], "version": 1}
    assert metric(client, "emend_corrections_total", **series) == before + 1


def test_a_prediction_that_never_was_leaves_the_correction_unlinked(client: httpx.Client) -> None:
    for unknown in ("019a1c7e-5f0a-7c3e-8b1d-2f6a9c4e7d10", str(uuid.uuid4())):
        kept = correct(client, "cat", prediction_id=unknown)
        assert client.get(kept["receipt"]).json()["prediction"] is None


def test_a_samples_source_is_kept(client: httpx.Client) -> None:
    assert client.get(correct(client, "cat", source="sample")["receipt"]).json()["source"] == "sample"


def test_a_merged_corrections_image_comes_from_its_shard(client: httpx.Client, world: World) -> None:
    pixels = drawing()
    kept = correct(client, "cat", pixels)
    row = dict.fromkeys(dataset.SCHEMA.names) | {
        "sha256": kept["image_sha256"],
        "image": {"bytes": encode_png(pixels), "path": None},
        "split": "train",
        "source": "correction",
        "labelled_at": datetime.now(UTC),
    }
    shard = dataset.shard_path(world.data_dir / "doodles", 40)
    shard.parent.mkdir(parents=True, exist_ok=True)
    dataset.write_shard(shard, pa.Table.from_pylist([row], schema=dataset.SCHEMA))
    settled(world, kept, status=CorrectionStatus.merged, dataset_version=40)
    (world.data_dir / "doodles" / "inbox" / "cat" / f"{kept['image_sha256']}.png").unlink()
    image = client.get(f"/corrections/{kept['correction_id']}/image")
    np.testing.assert_array_equal(decode_png(image.content), pixels)
    shard.unlink()
    assert client.get(f"/corrections/{kept['correction_id']}/image").status_code == 404


# Taking back


def test_a_correction_is_taken_back_by_who_made_it_and_by_nobody_else(
    client: httpx.Client, world: World
) -> None:
    pixels = drawing()
    kept = correct(client, "cat", pixels)
    with world.gateway.client(**{"Emend-Actor": "somebody else"}) as stranger:
        refused = stranger.post(f"{kept['receipt']}/withdraw")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_yours")
    with world.gateway.client() as nobody:
        assert nobody.post(f"{kept['receipt']}/withdraw").status_code == 403
    for _ in range(2):
        taken = client.post(f"{kept['receipt']}/withdraw")
        assert taken.status_code == 200
        schemas.ReceiptAnswer.model_validate(taken.json())
        assert (taken.json()["status"], taken.json()["waiting"]) == ("withdrawn", None)
        assert taken.json()["sentence"] == "Taken back: nothing was trained on it."
    assert client.post(f"/corrections/{uuid.uuid4()}/withdraw").status_code == 404
    again = correct(client, "cat", pixels)  # said again, it is another one
    assert again["correction_id"] != kept["correction_id"]
    spoken_of = client.post("/invocations/", json={"image": encoded(pixels)}).json()["prediction_id"]
    wait_until(lambda: written(world, spoken_of))
    about = correct(client, "dog", prediction_id=spoken_of)
    assert client.get("/predictions", params={"corrected": True}).json()["items"][0]["corrected"] == "dog"
    client.post(f"{about['receipt']}/withdraw")
    newest = client.get("/predictions", params={"corrected": False}).json()["items"][0]
    assert (newest["id"], newest["corrected"]) == (spoken_of, None)
    settled(world, again, status=CorrectionStatus.merged, dataset_version=9)
    taken = client.post(f"{again['receipt']}/withdraw").json()
    assert (taken["status"], taken["dataset_version"]) == ("merged", 9)
    assert "until the next run" in taken["sentence"]
    assert client.get("/models/doodles").json()["waiting"]["withdrawals"] >= 1
    settled(world, again, status=CorrectionStatus.withdrawn)


def test_samples_are_taken_back_by_anybody_one_or_all(client: httpx.Client, world: World) -> None:
    images = [encoded(each, "PNG") for each in tiny_model.images(4, tiny_model.PHOTO)]
    of_photos = {"label": "cat", "model": "photos"}
    one, other, merged = (
        client.post("/save-image/", json={"image": image, "source": "sample", **of_photos}).json()
        for image in images[:3]
    )
    real = client.post("/save-image/", json={"image": images[3], **of_photos}).json()
    settled(world, merged, status=CorrectionStatus.merged, dataset_version=9)
    with world.gateway.client() as nobody:
        assert nobody.post(f"{one['receipt']}/withdraw").json()["status"] == "withdrawn"
        done = nobody.post("/models/photos/samples/withdraw").json()
        assert done == {"withdrawn": 1, "by_the_next_run": 1}
        assert nobody.post("/models/photos/samples/withdraw").json() == {"withdrawn": 0, "by_the_next_run": 0}
        assert nobody.post("/models/nothing/samples/withdraw").status_code == 404
    assert client.get(other["receipt"]).json()["status"] == "withdrawn"
    assert client.get(real["receipt"]).json()["status"] == "accepted"
    assert client.get("/models/photos").json()["waiting"]["missing_for_a_run"] == 0
    settled(world, merged, status=CorrectionStatus.withdrawn)


# Review


def reviewed(client: httpx.Client, *decisions: tuple[dict[str, Any], str, str | None]) -> httpx.Response:
    given = [
        {"correction_id": kept["correction_id"], "action": action, **({"label": label} if label else {})}
        for kept, action, label in decisions
    ]
    return client.post("/corrections/review", json={"decisions": given})


def set_aside(world: World, kept: dict[str, Any]) -> None:
    """As merge sets a contradiction aside, and cleanup clears the inbox."""
    waiting = world.data_dir / "doodles" / "inbox" / kept["label"] / f"{kept['image_sha256']}.png"
    target = world.data_dir / "doodles" / "quarantine" / "conflict" / waiting.name
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting.rename(target)
    settled(
        world, kept, status=CorrectionStatus.quarantined, reason="conflict: another person said otherwise"
    )


def test_what_was_set_aside_is_decided_by_a_person(client: httpx.Client, world: World) -> None:
    fine, wrong, useless = (correct(client, "cat") for _ in range(3))
    for kept in (fine, wrong, useless):
        set_aside(world, kept)
    with world.gateway.client(**{"Emend-Actor": "a reviewer"}) as reviewer:
        response = reviewed(
            reviewer, (fine, "accept", None), (wrong, "relabel", "a zebra"), (useless, "reject", None)
        )
    assert response.status_code == 200, response.text
    results = schemas.ReviewAnswer.model_validate(response.json()).results
    assert [str(r.correction_id) for r in results] == [k["correction_id"] for k in (fine, wrong, useless)]
    assert {r.status for r in results} == {"quarantined"}
    assert [r.new_correction_id is None for r in results] == [False, False, True]
    for kept, result, label in ((fine, results[0], "cat"), (wrong, results[1], "a zebra")):
        new = client.get(f"/corrections/{result.new_correction_id}").json()
        assert (new["label"], new["source"], new["status"]) == (label, "review", "accepted")
        assert new["image_sha256"] == kept["image_sha256"]
        waiting = world.data_dir / "doodles" / "inbox" / label / f"{kept['image_sha256']}.png"
        assert name_of(decode_png(waiting.read_bytes())) == kept["image_sha256"]
    told = [client.get(kept["receipt"]).json() for kept in (fine, wrong, useless)]
    assert told[0]["sentence"].startswith("A person looked at it and agreed. Received: it waits")
    assert told[1]["sentence"] == "A person looked at it and gave the image another label, a zebra."
    assert told[2]["sentence"] == "A person looked at it and left it out for good."
    assert [t["review"] for t in told] == ["accept", "relabel", "reject"]
    assert all(t["reviewed_at"] and t["reviewed_by"].startswith("actor ") for t in told)
    again = reviewed(client, (useless, "accept", None))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_decided_corrections_are_listed_by_the_decisions_time(client: httpx.Client, world: World) -> None:
    first, second, third, undecided = (correct(client, "cat") for _ in range(4))
    for kept in (first, second, third, undecided):
        set_aside(world, kept)
    for decision in ((third, "reject", None), (first, "relabel", "an owl"), (second, "accept", None)):
        assert reviewed(client, decision).status_code == 200
    told: list[dict[str, Any]] = []
    given: dict[str, Any] = {"model": "doodles", "reviewed": True, "limit": 1}
    while len(told) < 3:  # others' decisions come after these
        page = client.get("/corrections", params=given).json()
        told += schemas.CorrectionsPage.model_validate(page).model_dump(mode="json")["items"]
        given["before"] = page["next_before"]
    assert [(item["correction_id"], item["reviewed_as"]) for item in told] == [
        (second["correction_id"], "cat"),
        (first["correction_id"], "an owl"),
        (third["correction_id"], None),
    ]
    given = {"model": "doodles", "reviewed": False, "status": "quarantined", "limit": 500}
    listed = [item["correction_id"] for item in client.get("/corrections", params=given).json()["items"]]
    assert undecided["correction_id"] in listed
    assert not {kept["correction_id"] for kept in (first, second, third)} & set(listed)


def test_what_waits_is_relabelled_or_rejected(client: httpx.Client, world: World) -> None:
    wrong, useless = correct(client, "cat"), correct(client, "cat")
    response = reviewed(client, (wrong, "relabel", "dog"), (useless, "reject", None))
    assert response.status_code == 200, response.text
    first, second = response.json()["results"]
    assert (first["status"], first["reason"]) == ("superseded", "a reviewer says it is dog")
    assert (second["status"], second["reason"]) == ("quarantined", "rejected by a reviewer")
    assert client.get(f"{useless['receipt']}/image").status_code == 200
    copies = (world.data_dir / "doodles" / "quarantine" / "rejected").iterdir()
    assert f"{useless['image_sha256']}.png" in {path.name for path in copies}


def test_decisions_are_taken_all_or_none(client: httpx.Client, world: World) -> None:
    aside, waits, merged, sample = (correct(client, "cat") for _ in range(4))
    set_aside(world, aside)
    settled(world, merged, status=CorrectionStatus.merged, dataset_version=9)
    settled(world, sample, source="sample")
    refusals = [
        ((merged, "reject", None), 409),
        ((waits, "accept", None), 409),
        ((sample, "relabel", "dog"), 409),
        (({"correction_id": str(uuid.uuid4())}, "reject", None), 404),
        ((waits, "relabel", None), 400),
        ((waits, "reject", "dog"), 400),
        ((aside, "reject", None), 400),  # twice
        ((waits, "relabel", "   "), 400),
    ]
    for refused, expected in refusals:
        response = reviewed(client, (aside, "relabel", "never"), refused)
        assert response.status_code == expected, response.text
    assert client.post("/corrections/review", json={"decisions": []}).status_code == 400
    told = client.get(aside["receipt"]).json()
    assert (told["review"], told["reviewed_at"]) == (None, None)
    assert not (world.data_dir / "doodles" / "inbox" / "never").exists() or not any(
        (world.data_dir / "doodles" / "inbox" / "never").iterdir()
    )
    assert "never" not in {c["name"] for c in client.get("/models/doodles").json()["categories"]}
    assert reviewed(client, (sample, "reject", None)).status_code == 200
    settled(world, merged, status=CorrectionStatus.superseded)


def test_a_picture_that_is_gone_can_only_be_rejected(client: httpx.Client, world: World) -> None:
    gone = correct(client, "cat")
    set_aside(world, gone)
    (world.data_dir / "doodles" / "quarantine" / "conflict" / f"{gone['image_sha256']}.png").write_bytes(b"x")
    refused = reviewed(client, (gone, "accept", None))
    assert refused.status_code == 409
    assert "it can only be rejected" in refused.json()["error"]["message"]
    assert reviewed(client, (gone, "reject", None)).status_code == 200


# Receipts


def settled(world: World, kept: dict[str, Any], **changes: Any) -> None:
    with Session(world.engine) as db:
        row = db.get_one(Correction, uuid.UUID(kept["correction_id"]))
        for name, value in changes.items():
            setattr(row, name, value)
        db.commit()


def test_a_receipt_tells_of_each_state(client: httpx.Client, world: World) -> None:
    waiting, aside, later, exam, merged = (correct(client, "cat") for _ in range(5))
    settled(world, aside, status=CorrectionStatus.quarantined, reason="two people say different things")
    settled(world, later, status=CorrectionStatus.superseded, reason="the same image was there already")
    settled(world, exam, status=CorrectionStatus.exam, dataset_version=9)
    settled(world, merged, status=CorrectionStatus.merged, dataset_version=9)

    def receipt(kept: dict[str, Any]) -> Any:
        body = client.get(kept["receipt"]).json()
        schemas.ReceiptAnswer.model_validate(body)
        return body

    assert receipt(waiting)["sentence"].startswith("Received: it waits for the next run")
    assert receipt(waiting)["waiting"]["corrections"] >= 1
    assert "two people say different things" in receipt(aside)["sentence"]
    assert "the same image was there already" in receipt(later)["sentence"]
    assert receipt(exam)["split"] == "exam question"
    assert receipt(exam)["sentence"] == "Kept as an exam question: no version is ever trained on it."
    assert receipt(merged)["split"] == "learned"
    assert receipt(merged)["trained_versions"] == []
    assert "the next version will be trained on it" in receipt(merged)["sentence"]


def test_a_receipt_says_when_the_live_version_gets_it_right_and_survives_a_rollback(
    client: httpx.Client, world: World
) -> None:
    kept = correct(client, "cat")
    settled(world, kept, status=CorrectionStatus.merged, dataset_version=30)
    number = uuid.uuid4().int % 1000 + 1000
    with Session(world.engine) as db:
        promote(db, "doodles", number, [0, 1, 2])
        version = db.get_one(core.database.Version, ("doodles", number))
        version.dataset_version = 30
        for known, label in ((1, "dog"), (number, "cat")):
            db.add(
                Outcome(
                    correction_id=uuid.UUID(kept["correction_id"]),
                    model="doodles",
                    version=known,
                    label=label,
                    correct=label == "cat",
                )
            )
        db.commit()
    receipt = client.get(kept["receipt"]).json()
    assert receipt["trained_versions"] == [number]
    assert receipt["live"] == {"version": number, "label": "cat", "correct": True}
    assert [o["correct"] for o in receipt["history"]] == [False, True]
    assert receipt["sentence"] == f"Now right: version {number} was trained on it and gets it right."
    with Session(world.engine) as db:
        db.add(
            core.database.LedgerEntry(
                model="doodles",
                action=core.database.LedgerAction.rollback,
                version=1,
                actor="test",
                reason="test",
                outcome=core.database.LedgerOutcome.done,
            )
        )
        db.commit()
    receipt = client.get(kept["receipt"]).json()
    assert receipt["live"] == {"version": 1, "label": "dog", "correct": False}
    listed = client.get("/corrections", params={"mine": True}).json()["items"]
    assert [item["live"] for item in listed] == [receipt["live"]]
    assert receipt["sentence"] == f"Learned by version {number}, but version 1, now live, says dog."


def test_corrections_are_listed_newest_first_and_by_status(client: httpx.Client, world: World) -> None:
    ids = [correct(client, "cat")["correction_id"] for _ in range(3)]
    first = client.get("/corrections", params={"mine": True, "limit": 2}).json()
    rest = client.get("/corrections", params={"mine": True, "before": first["next_before"]}).json()
    assert [i["correction_id"] for i in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next_before"] is None
    assert not client.get("/corrections", params={"mine": True, "status": "merged"}).json()["items"]


def test_corrections_are_filtered_by_source_reason_and_label(client: httpx.Client, world: World) -> None:
    plain, odd, aside = (
        correct(client, "cat"),
        correct(client, "dog", source="sample"),
        correct(client, "cat"),
    )
    settled(world, aside, status=CorrectionStatus.quarantined, reason="100%_certain: two people disagree")

    def listed(**given: Any) -> list[str]:
        response = client.get("/corrections", params={"mine": True, **given})
        assert response.status_code == 200, response.text
        return [item["correction_id"] for item in response.json()["items"]]

    plain_id, odd_id, aside_id = (kept["correction_id"] for kept in (plain, odd, aside))
    assert listed(source="sample") == [odd_id]
    assert listed(source="correction") == [aside_id, plain_id]
    assert listed(source=["correction", "sample"]) == [aside_id, odd_id, plain_id]
    assert listed(label=" cat ") == [aside_id, plain_id]
    assert listed(reason="100%_certain") == [aside_id]
    assert listed(reason="100__certain") == []  # no pattern
    assert listed(reason="two people") == []
    assert listed(label="cat", status="accepted", source="correction") == [plain_id]
    assert client.get("/corrections", params={"source": "nobody"}).status_code == 400


# Models and runs


def test_models_tell_input_champion_counts_and_categories(client: httpx.Client) -> None:
    correct(client, "cat")
    body = client.get("/models").json()
    schemas.ModelsAnswer.model_validate(body)
    assert [m["name"] for m in body["models"]] == ["doodles", "photos"]
    doodles = client.get("/models/doodles").json()
    assert doodles["input"] == {"mode": "L", "width": 28, "height": 28, "drawing": False}
    assert doodles["champion"]["holdout_accuracy"] == 0.9
    assert doodles["corrections_waiting"] >= 1
    assert doodles["categories"][0]["name"] == "cat"
    assert doodles["promotion_paused"] is False
    ledger = client.get("/models/photos/promotions").json()
    schemas.PromotionsAnswer.model_validate(ledger)
    assert [(entry["version"], entry["actor"], entry["outcome"]) for entry in ledger["promotions"]] == [
        (1, "gate", "done")
    ]


def test_an_unknown_model_is_refused_with_the_names_of_the_known(client: httpx.Client) -> None:
    for response in (
        client.post("/invocations/", json={"image": encoded(drawing()), "model": "poems"}),
        client.post("/save-image/", json={"image": encoded(drawing()), "label": "cat", "model": "poems"}),
        client.post("/pipeline_runs", json={"model": "poems"}),
        client.get("/models/poems"),
        client.post("/models/poems/rollback"),
    ):
        assert response.status_code == 404, response.text
        assert "doodles, photos" in response.json()["error"]["message"]


def test_a_run_is_asked_for_once_shown_cancelled_and_not_resumed_twice(
    client: httpx.Client, world: World
) -> None:
    asked = client.post("/pipeline_runs", json={"model": "photos"})
    assert asked.status_code == 202
    run_id = asked.json()["run_id"]
    again = client.post("/pipeline_runs", json={"model": "photos"})
    assert again.status_code == 409
    assert again.json()["run_id"] == run_id
    assert again.json()["error"]["code"] == "run_active"
    shown = client.get(f"/pipeline_runs/{run_id}").json()
    assert (shown["status"], shown["stages"], shown["verdict"]) == ("queued", [], None)
    assert client.get("/pipeline_runs?model=photos&limit=1").json()["runs"][0]["run_id"] == run_id
    assert client.get("/models/photos").json()["active_run"] == run_id
    assert client.post(f"/pipeline_runs/{run_id}/resume").status_code == 409
    assert client.post(f"/pipeline_runs/{run_id}/cancel").status_code == 202
    with Session(world.engine) as db:  # what the orchestrator would do
        db.get_one(Run, run_id).status = RunStatus.cancelled
        db.commit()
    assert client.post(f"/pipeline_runs/{run_id}/resume").status_code == 202
    assert client.get("/pipeline_runs/999999").status_code == 404
    with Session(world.engine) as db:
        db.get_one(Run, run_id).status = RunStatus.cancelled
        db.commit()


def test_promotion_is_resumed_and_a_rollback_without_the_registry_is_refused(
    client: httpx.Client, world: World
) -> None:
    with Session(world.engine) as db:
        db.get_one(core.database.Model, "photos").promotion_paused_at = datetime.now(UTC)
        db.commit()
    assert client.get("/models/photos").json()["promotion_paused"] is True
    assert client.post("/models/photos/promotion/resume").json()["promotion_paused"] is False
    for refused in (
        client.post("/models/photos/rollback", json={"reason": "test"}),
        client.post("/models/photos/promote", json={"version": 1, "reason": "test"}),
    ):
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers


def test_a_version_that_retention_removed_is_not_promoted_and_not_asked(
    client: httpx.Client, world: World
) -> None:
    with Session(world.engine) as db:
        promote(db, "photos", 2, [0, 1, 2])
        run = db.scalars(select(Run).where(Run.model == "photos").order_by(Run.id.desc())).first()
        assert run is not None
        run.version, run.weights_removed_at = 2, datetime.now(UTC)
        db.commit()
    refused = client.post("/models/photos/promote", json={"version": 2})
    assert refused.status_code == 404
    assert refused.json()["error"]["field"] == "version"
    assert "retention removed its weights" in refused.json()["error"]["message"]
    image = encoded(tiny_model.images(1, tiny_model.PHOTO)[0], "PNG")

    def gone() -> bool:  # the gateway reads it within seconds
        answer = client.post("/invocations/", json={"image": image, "model": "photos", "version": 2})
        return answer.status_code == 404 and "retention removed" in answer.json()["error"]["message"]

    wait_until(gone)
    live = client.post("/invocations/", json={"image": image, "model": "photos", "version": 1}).json()
    assert (live["version"], live["prediction_id"]) == (1, None)


# Health, metrics, documentation


def test_health_readiness_and_metrics(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"database": {"ok": True}, "model_server": {"ok": True}}
    exported = client.get("/metrics").text
    for name in (
        "emend_predictions_total",
        "emend_prediction_confidence",
        "emend_inbox_corrections",
        "emend_champion_version",
        "emend_champion_holdout_accuracy",
        "emend_history_buffer_predictions",
        "emend_http_requests_total",
    ):
        assert f"\n{name}" in exported, name


def test_every_endpoint_is_documented_with_an_example(client: httpx.Client) -> None:
    spec = client.get("/openapi.json").json()
    assert {
        "/invocations/",
        "/save-image/",
        "/predict",
        "/predictions",
        "/corrections/{correction_id}",
        "/models/{name}",
        "/pipeline_runs/{run_id}",
    } <= set(spec["paths"])
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert operation["responses"], (method, path)
    for name in ("InvocationRequest", "SaveImageRequest", "PredictionAnswer", "ReceiptAnswer", "ErrorAnswer"):
        assert spec["components"]["schemas"][name]["examples"], name


def test_the_bare_address_leads_to_the_docs_page(client: httpx.Client) -> None:
    response = client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/docs")


def test_the_docs_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    page = response.text
    assert "/save-image/" in page
    assert "curl -X POST" in page
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", page)
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_a_request_id_goes_back_and_into_the_log(client: httpx.Client, world: World) -> None:
    request_id = uuid.uuid4().hex
    response = client.get("/healthz", headers={"X-Request-Id": request_id})
    assert response.headers["X-Request-Id"] == request_id
    client.get("/models", headers={"X-Request-Id": request_id})
    wait_until(lambda: request_id in world.gateway.log.read_text())


def test_a_retired_category_takes_no_corrections(client: httpx.Client, world: World) -> None:
    with Session(world.engine) as db:
        db.add(
            Category(model="photos", id=90, name="fax", key="fax", aliases=[], state=CategoryState.retired)
        )
        db.commit()
    pixels = tiny_model.images(1, tiny_model.PHOTO)[0]
    response = client.post("/save-image/", json={"image": encoded(pixels), "label": "fax", "model": "photos"})
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "label"

"""BentoML with adaptive batching: `bentoml serve bench.serving.others.bentoml_batches:Service`."""

from __future__ import annotations

import bentoml
import numpy as np

from bench.serving.others.network import Classifier


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(batchable=True, max_batch_size=64)  # type: ignore[untyped-decorator]
    def predict(self, images: list[str]) -> list[list[float]]:
        pixels = np.stack([self.classifier.pixels(each) for each in images])
        rows: list[list[float]] = self.classifier.probabilities(pixels).tolist()
        return rows

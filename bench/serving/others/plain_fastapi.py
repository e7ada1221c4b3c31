"""FastAPI with torch in the process: `uvicorn bench.serving.others.plain_fastapi:app`."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from bench.serving.others.network import Classifier

app = FastAPI()
classifier = Classifier()


class Asked(BaseModel):
    image: str


@app.post("/predict")
async def predict(asked: Asked) -> dict[str, list[float]]:
    pixels = np.array(classifier.pixels(asked.image))
    return {"probabilities": classifier.probabilities(pixels[None])[0].tolist()}

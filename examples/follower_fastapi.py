"""A web service that answers with the model in service and changes over by itself.

    pip install '/path/to/retrain_worker[serving]' fastapi uvicorn
    REDIS_URL=redis://localhost:6379 uvicorn --app-dir examples follower_fastapi:app

ENGINE_MODELS_DIR names the directory in which models must lie (default: /opt/quantum/ai_engine/models).
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from retrain_worker.domain.labels import action_of
from retrain_worker.errors import ContractError
from retrain_worker.serving import ModelFollower

follower = ModelFollower(os.environ.get("REDIS_URL", "redis://localhost:6379"), consumer="fastapi-example")


class Window(BaseModel):
    """The newest rows of one symbol, oldest first; the features in the order that /model names."""

    rows: list[list[float]]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Follow the model while the service runs."""
    with follower:
        yield


app = FastAPI(title="The model in service", lifespan=lifespan)


@app.get("/model")
def model() -> dict[str, object]:
    """What answers now, and what keeps a newer model from it."""
    served = follower.served
    if served is None:
        raise HTTPException(503, f"no model: {follower.problem or 'none was promoted yet'}")
    contract = served.bundle.contract
    return {
        "version": served.version,
        "context_length": contract.context_length,
        "feature_names": contract.feature_names,
        "label": contract.label,
        "problem": follower.problem,
    }


@app.post("/predict")
def predict(window: Window) -> dict[str, object]:
    """P(label = 1) of the newest row, and its action by the thresholds of the model file."""
    served = follower.served
    if served is None:
        raise HTTPException(503, f"no model: {follower.problem or 'none was promoted yet'}")
    try:
        probability = float(served.bundle.probabilities(np.array([window.rows], dtype=np.float32))[0])
    except (ContractError, ValueError) as error:  # ValueError: rows of different lengths
        raise HTTPException(422, str(error)) from error
    if not np.isfinite(probability):
        raise HTTPException(422, "a feature is not a finite number")
    thresholds = served.bundle.manifest.thresholds
    return {"version": served.version, "probability": probability, "action": action_of(probability, thresholds)}

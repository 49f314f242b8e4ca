"""The bootstrap has its own tests; 25 draws are enough to see what is drawn."""

from functools import partial

import pytest

from src import metrics


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, repeats=25))

"""Makes `systems` and `runs` importable, and keeps each test to one thread and its own folder."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items):
    """Slow tests begin first, so that none is left alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Compiled code goes to a folder of this run, which its processes share, and not to the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("NPCALC_CACHE", str(shared / "npcalc-cache"))


@pytest.fixture
def reference_data():
    """Folder of the reference data beside the project; users do not have it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("reference data is not there")
    return folder

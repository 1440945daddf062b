from __future__ import annotations

import pytest
import slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Two nodes, for all tests; skipped with the reason where there can be none."""
    if reason := slurm.missing():
        pytest.skip(reason)
    made = slurm.Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()

"""A worker pool of several nodes: the README's example with Ray's pool, on a cluster of two nodes on this machine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import schema_url
from test_readme import BLOCKS, DATABASE

from maestro_shm.postgres.migration import migrate

CLUSTER = """
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False)
NODES = set()
"""
WHERE = """
    import ray
    return ray.get_runtime_context().get_node_id()
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_same_worker_runs_in_a_pool_of_several_nodes(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if DATABASE in block)
    head, main = block.split('\nif __name__ == "__main__":\n')
    with schema_url() as url:
        migrate(url)
        text = head.rstrip() + WHERE + CLUSTER + main.replace("    with", "with", 1).replace("\n    ", "\n")
        text = text.replace("from multiprocessing import Pool", "from ray.util.multiprocessing import Pool")
        text = text.replace("pool.map(", "NODES |= set(pool.map(").replace("] * 4)", "] * 4))").replace(DATABASE, url)
        script = tmp_path / "example.py"
        script.write_text(
            text + "\nassert len(NODES) == 2, NODES\nray.shutdown()\ncluster.shutdown()\n", encoding="utf-8"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr

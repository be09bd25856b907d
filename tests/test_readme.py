from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from postgres_server import schema_url

from maestro_shm.postgres.migration import migrate

DATABASE = "postgresql://orders@db.internal/orders"
README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1].strip()[:40])
def test_an_example_of_the_readme_runs_as_it_stands(block: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    # Whoever runs the tests may have a store of that name.
    text = block.replace("shm:orders", f"shm:test-{uuid4().hex[:12]}")
    with schema_url() if DATABASE in text else contextlib.nullcontext("") as url:
        if url:
            migrate(url)
        script.write_text(text.replace(DATABASE, url), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")

"""The noise on two real ranks: each script here runs under torchrun and says which of its checks held."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def on_ranks(script: str, *arguments: str, num_ranks: int = 2) -> list[str]:
    """Run a script of this folder on that many ranks; its checks that held on all of them."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", f"tests.parallel.{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [line.removeprefix("held: ") for line in done.stdout.splitlines() if line.startswith("held: ")]


def test_data_parallel_ranks_noise_their_rows_as_one_process_would():
    assert on_ranks("data_parallel") == [
        "ddp",
        "equal_shapes_get_different_noise",
        "fsdp2",
        "fsdp2_in_bfloat16",
        "fsdp1",
        "ratio_of_a_sharded_table",
    ]


def test_trainer_on_two_ranks_learns_and_logs_what_it_does_on_one(tmp_path):
    results = []
    for num_ranks in (1, 2):
        folder = tmp_path / str(num_ranks)
        folder.mkdir()
        on_ranks("in_trainer", str(folder), num_ranks=num_ranks)
        results.append([json.loads(path.read_text()) for path in sorted(folder.iterdir()) if path.suffix == ".json"])
    (alone,), both = results
    assert len(both) == 2
    assert alone["log"][-1]["noise_documents"] == 16
    for rank in both:
        assert rank["own_documents"] == 8, "the handle counts its own rank's documents, the log everyone's"
        assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-6)
        assert len(rank["log"]) == len(alone["log"]) == 2
        for here, there in zip(rank["log"], alone["log"], strict=True):
            assert here == pytest.approx(there, rel=1e-5)

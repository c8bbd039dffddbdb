"""The noise on two real ranks: each script here runs under torchrun and says which of its checks held."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel import in_trainer

ROOT = Path(__file__).resolve().parents[2]


def on_ranks(script: str, *arguments: str, num_ranks: int = 2) -> list[str]:
    """Run a script of this folder on that many ranks; its checks that held on all of them."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", f"tests.parallel.{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [line.removeprefix("held: ") for line in done.stdout.splitlines() if line.startswith("held: ")]


def test_two_ranks_add_the_noise_of_one_process_or_refuse(tmp_path):
    held = on_ranks("two_ranks", str(tmp_path))
    assert held == [
        "ddp",
        "equal_shapes_get_different_noise",
        "fsdp2",
        "fsdp2_in_bfloat16",
        "fsdp1",
        "ratio_of_a_sharded_table",
        "every_layout_of_the_embeddings",
        "uneven_tokens",
        "attached_before_dividing",
        "partial_sums_are_refused",
        "draws_of_tensor_parallel_ranks_must_agree",
        "transformers_own_plan",
        "pipeline",
        "every_layout_in_either_order",
        "whole_rows_of_masks_and_keys_are_taken_as_they_are",
        "responses_alone",
        "rows_that_zigzag_cannot_divide",
        "parts_without_a_group_are_refused",
        "what_a_group_cannot_read_is_refused",
        "draws_of_a_sequence_group_must_agree",
        "inside_torch_context_parallel",
        "callback_finds_the_group_of_accelerate",
        "compiled_data_parallel",
        "compiled_tensor_parallel",
        "compiled_context_parallel",
    ]


def test_two_kinds_of_parallelism_at_once_on_four_ranks():
    assert on_ranks("mixed_parallel", num_ranks=4) == ["fsdp2_over_tensor_parallel", "context_over_tensor_parallel"]


@pytest.mark.slow
def test_zero3_ranks_noise_their_rows_as_one_process_would():
    # Not among the pinned packages: it compiles an extension when it first runs.
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed, which this environment does not have")
    assert on_ranks("zero3") == ["zero3", "ratio_of_a_partitioned_table"]


def test_trainer_on_two_ranks_learns_and_logs_what_it_does_on_one(tmp_path):
    in_trainer.main(str(tmp_path / "1"))
    on_ranks("in_trainer", str(tmp_path / "2"))
    alone, *both = (
        json.loads((tmp_path / name).read_text()) for name in ("1/rank0.json", "2/rank0.json", "2/rank1.json")
    )
    assert alone["log"][-1]["noise_documents"] == 16
    for rank in both:
        assert rank["own_documents"] == 8, "the handle counts its own rank's documents, the log everyone's"
        assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-6)
        assert len(rank["log"]) == len(alone["log"]) == 2
        for here, there in zip(rank["log"], alone["log"], strict=True):
            assert here == pytest.approx(there, rel=1e-5)

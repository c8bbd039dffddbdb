"""A run on two ranks is the run of one process: the same documents in every step, the same noise to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neftune.training.shares import BLANK_LENGTH
from tests.parallel import finetuned
from tests.parallel.test_parallel import on_ranks
from tests.tiny_training import assert_same_bits, tiny_documents

pytestmark = pytest.mark.slow

CASES = ("noisy", "last batch of one", "several passes", "alpha=0", "lora", "stopped", "still")
TOLERANCE = 1e-5
"""Of weights, relative to their tensor's largest, and of losses: what another order of sums leaves in float32."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    alone, both = (tmp_path_factory.mktemp(name) for name in ("alone", "both"))
    finetuned.main(alone)
    on_ranks("finetuned", str(both))
    return alone, both


def outcomes(folders: tuple[Path, Path], name: str) -> list[dict[str, Any]]:
    """Of one process, and of each of the two ranks."""
    alone, both = folders
    return [json.loads(path.read_text()) for path in (alone / f"{name}-0.json", *sorted(both.glob(f"{name}-?.json")))]


@pytest.mark.parametrize("name", CASES)
def test_weights_history_and_noise_are_those_of_one_process(folders: tuple[Path, Path], name: str):
    alone, *both = outcomes(folders, name)
    assert len(both) == 2
    for rank, outcome in enumerate(both):
        assert outcome["counts"] == alone["counts"]
        assert [point["step"] for point in outcome["history"]] == [point["step"] for point in alone["history"]]
        for here, there in zip(outcome["history"], alone["history"], strict=True):
            assert here["values"] == pytest.approx(there["values"], rel=TOLERANCE)
        weights = torch.load(folders[1] / f"{name}-{rank}.pt", weights_only=True)
        expected = torch.load(folders[0] / f"{name}-0.pt", weights_only=True)
        for key, value in expected.items():
            assert (weights[key] - value).abs().max() <= TOLERANCE * value.abs().max(), key
        if alone["noise"]:
            if name == "lora":  # whose micro-batches are half as large: twice the passes
                alone["noise"]["num_forwards"] = outcome["noise"]["num_forwards"]
            assert outcome["noise"] == pytest.approx(alone["noise"], rel=1e-6)
        else:
            assert outcome["noise"] is None
    assert both[0]["history"] == both[1]["history"]
    assert both[0]["noise"] == both[1]["noise"]


def test_cases_are_what_they_are_called(folders: tuple[Path, Path]):
    stopped = outcomes(folders, "stopped")[0]
    assert 0 < stopped["counts"]["steps"] < 12
    assert stopped["counts"]["stop_loss_reached"] == 1
    assert outcomes(folders, "alpha=0")[0]["noise"] is None
    # Of its last batch of one document, the second rank had none.
    both = outcomes(folders, "last batch of one")[1:]
    assert [len(batch[0]) for batch in both[1]["documents"]].count(BLANK_LENGTH) == 2


def test_ranks_share_every_epoch_and_every_document_is_seen_once_in_it(folders: tuple[Path, Path]):
    documents = sorted(list(document.input_ids) for document in tiny_documents(21))
    alone, *both = outcomes(folders, "noisy")
    rows = [[row for batch in rank["documents"] for row in batch if len(row) > BLANK_LENGTH] for rank in both]
    assert sorted(rows[0] + rows[1]) == sorted(documents * 2)
    assert len(rows[0]) > len(rows[1]) > 0
    # The micro-batches are the very ones of a single process, dealt out in turn.
    dealt = [batch for pair in zip(both[0]["documents"], both[1]["documents"], strict=True) for batch in pair]
    assert [batch for batch in dealt if batch != [[0]]] == alone["documents"]


def test_every_documents_noise_is_that_of_one_process_bit_for_bit(folders: tuple[Path, Path]):
    alone, *both = outcomes(folders, "still")
    single = sorted(entry for entry in alone["embedded"])
    assert len({digest for _, digest in single}) == 42, "two exposures of 21 documents, all different"
    assert sorted(entry for rank in both for entry in rank["embedded"] if len(entry[0]) > BLANK_LENGTH) == single
    blank = [digest for rank in both for ids, digest in rank["embedded"] if len(ids) == BLANK_LENGTH]
    assert len(blank) == 2
    assert len(set(blank)) == 1, "what fills up an epoch gets no noise"


def test_dropout_of_the_ranks_is_independent(folders: tuple[Path, Path]):
    # With dropout two ranks are another draw than one process: close, and not equal.
    alone, *both = outcomes(folders, "whole")
    assert both[0]["history"] == both[1]["history"]
    assert both[0]["history"][-1]["values"] != pytest.approx(alone["history"][-1]["values"], rel=TOLERANCE)
    assert both[0]["history"][-1]["values"] == pytest.approx(alone["history"][-1]["values"], rel=0.1, abs=0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_resumed_from_a_checkpoint_equals_uninterrupted_bit_for_bit(folders: tuple[Path, Path], rank: int):
    whole, resumed = (json.loads((folders[1] / f"{name}-{rank}.json").read_text()) for name in ("whole", "resumed"))
    assert resumed["history"] == whole["history"]
    assert resumed["noise"] == whole["noise"]
    assert_same_bits(
        *(torch.load(folders[1] / f"{name}-{rank}.pt", weights_only=True) for name in ("whole", "resumed"))
    )

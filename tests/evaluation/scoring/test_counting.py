"""What benchmarks.scoring counts is what the two backends do."""

from benchmarks.scoring import totals, unpadded
from benchmarks.scoring_setting import counted_positions
from lm_eval.models.huggingface import HFLM

from tests.evaluation.scoring.models import make_model, make_requests, sharing
from tests.tiny_tokenizers import byte_level


def test_positions_are_those_of_the_forward_passes():
    model = make_model()
    requests = [*make_requests(), (None, [5, 6, 7], [8]), (None, [5, 6, 7], [9])]
    hf = HFLM(pretrained=model, tokenizer=byte_level(), batch_size=1)
    with counted_positions(model) as counts:
        hf._loglikelihood_tokens(requests, disable_tqdm=True)
    assert sum(counts) == unpadded(requests, hf.max_length)
    ours = sharing(model)
    with counted_positions(model) as counts:
        ours._loglikelihood_tokens(requests, disable_tqdm=True)
    first = sum(counts)
    with counted_positions(model) as counts:
        ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert first > sum(counts) == ours.progress.positions / 2


def test_parts_of_a_benchmark_are_added_up():
    part = {"documents": 2, "requests": 8, "different_greedy_flags": 0, "different_accuracies": 1}
    part |= {"largest_difference": 1e-6, "largest_difference_of_mc2": 0.0}
    part["positions"] = {"hf": 120, "neftune": 20, "unpadded": 100}
    found = totals({"mmlu_anatomy": part, "mmlu_virology": {**part, "largest_difference": 3e-6}, "arc[0:2]": part})
    assert found["mmlu"]["documents"] == 4
    assert found["mmlu"]["largest_difference"] == 3e-6
    assert found["mmlu"]["times_fewer"] == {"hf": 6.0, "unpadded": 5.0}
    assert found["arc"]["different_accuracies"] == 1

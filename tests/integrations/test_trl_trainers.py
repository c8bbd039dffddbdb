"""Every trainer of TRL that trains on one machine: exact noise in each training forward, none in any other."""

import pytest
import torch

import neftune
from neftune.errors import ConfigError, NoiseError
from tests.tiny import make_checkpoint
from tests.tiny_trl import KINDS, make_trainer
from tests.witness import Witness

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

GENERATE = {"GRPO", "RLOO", "GMPO", "A2PO", "Distillation", "GKD", "GOLD", "OnlineDPO", "SDFT", "SDPO", "IWOPD"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"), width=16)


@pytest.mark.parametrize("name", KINDS)
def test_each_document_gets_the_papers_noise_and_every_other_forward_none(checkpoint, tmp_path, name):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    make_trainer(name, checkpoint, tmp_path, [noise, witness]).train()
    lengths = [length for seen in witness.noised for length in seen.lengths]
    assert len(set(lengths)) > 2, "documents of several lengths"
    realised = noise.realised()
    assert (realised.num_documents, realised.num_tokens) == (len(lengths), sum(lengths))
    assert bool(witness.generations) == (name in GENERATE)


@pytest.mark.parametrize("name", KINDS)
def test_the_baseline_equals_training_without_the_callback_bit_for_bit(checkpoint, tmp_path, name):
    trained = {}
    for alpha in (None, 0.0, 20.0):
        callbacks = [] if alpha is None else [neftune.NoiseCallback(alpha)]
        trainer = make_trainer(name, checkpoint, tmp_path, callbacks)
        trainer.train()
        trained[alpha] = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(trained[None], trained[0.0], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(trained[None], trained[20.0], strict=True))


def test_answers_alone_need_labels_which_a_reward_model_is_not_given(checkpoint, tmp_path):
    trainer = make_trainer("Reward", checkpoint, tmp_path, [neftune.NoiseCallback(5.0, positions="response")])
    with pytest.raises(NoiseError, match=r"labels"):
        trainer.train()


@pytest.mark.parametrize("name", KINDS)
def test_both_noises_are_refused_by_every_trainers_arguments(checkpoint, tmp_path, name):
    with pytest.raises(ConfigError, match=r"got NoiseCallback and the training argument neftune_noise_alpha=5\.0"):
        make_trainer(name, checkpoint, tmp_path, [neftune.NoiseCallback(5.0)], neftune_noise_alpha=5.0)

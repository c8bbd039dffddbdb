"""Tiny models with lively weights, and the two backends around them."""

import random

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from neftune.evaluation.scoring.lm_eval_model import SharingLM
from tests.tiny_families import DECODERS, VOCAB
from tests.tiny_tokenizers import byte_level


def make_model(family="llama", **changed):
    """A random model whose outputs differ from token to token: at the usual scale a wrong mask would hardly show."""
    torch.manual_seed(0)
    kind = DECODERS[family]
    model = type(kind)(kind.model, {**kind.config, **changed}).build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def plain(model, **options):
    """lm-eval's backend without its cache of one-token continuations, which can be wrong."""
    return HFLM(pretrained=model, tokenizer=byte_level(), batch_size=4, logits_cache=False, **options)


def sharing(model, **options):
    return SharingLM(pretrained=model, tokenizer=byte_level(), batch_size=4, **options)


def make_requests(seed=0, *, few_shot=12, questions=5, choices=4, longest=8):
    """Token requests like a benchmark's, and the awkward ones."""
    draw = random.Random(seed)

    def tokens(length):
        return [draw.randrange(3, VOCAB) for _ in range(length)]

    block = tokens(few_shot)
    found = []
    for _ in range(questions):
        context = block + tokens(draw.randint(1, longest))
        found += [(None, context, tokens(draw.randint(1, 5))) for _ in range(choices)]
    _, context, continuation = found[0]
    split_elsewhere = (None, context + continuation[:1], [*continuation[1:], 5])
    prefix_of_another = (None, context[:-1], context[-1:])
    return [*found, split_elsewhere, prefix_of_another, (None, [1], [7, 8]), found[2], (None, tokens(70), tokens(3))]


def instances(pairs):
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(pairs)
    ]

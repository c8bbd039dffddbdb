"""`neftune audit`: what noise a training pipeline really applies to a model and data."""

import argparse
from dataclasses import asdict

import neftune
from neftune.config import DataConfig, Knobs, ModelConfig
from neftune.study.store import write_json


class Audited(Knobs):
    """What is audited: the sections of a recipe that an audit obeys."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()


def perform(audited: Audited, options: argparse.Namespace) -> None:
    """Audit, print the table and the verdict, and write what was asked for."""
    import torch

    from neftune.training.audit import Pipeline, audit_pipeline

    pipeline = Pipeline(options.alpha, options.provider, options.layout, options.batch_size, options.batches)
    torch.set_num_threads(options.threads)
    result = audit_pipeline(audited.model, audited.data, pipeline)
    print(result)  # noqa: T201
    if result.find().mean > 0:
        print(result.translation)  # noqa: T201
    if options.json:
        settings = {"pipeline": asdict(pipeline), **audited.model_dump(mode="json"), "version": neftune.__version__}
        write_json(options.json, {**result.to_dict(), "settings": settings})
    if options.figure:
        from neftune.report.audit import write_audit_figure

        print(f"figure: {write_audit_figure(result, options.figure)}")  # noqa: T201

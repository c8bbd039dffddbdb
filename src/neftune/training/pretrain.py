"""The microworld's base model, pretrained at first use and then taken from the cache."""

import ast
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from neftune.data.microworld import corpus, grammar, instructions, lexicon, tokenizer, world
from neftune.errors import StoreError
from neftune.records import content_hash
from neftune.training import base_model
from neftune.training.base_model import OnProgress, PretrainSettings, pretrain

_log = logging.getLogger(__name__)


def microworld_base(
    world_seed: int,
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    settings: PretrainSettings | None = None,
) -> Path:
    """Folder with the base of a world: a Hugging Face checkpoint and its tokenizer.

    The first call pretrains it (about 80 s on one core); later calls find it in the cache. Of several processes
    that ask at once, one pretrains and the others wait for it. What a killed process left behind is cleared away.

    Args:
        world_seed: Seed of the world.
        cache: Folder that keeps bases; `default_cache()` where not given.
        on_progress: Called after every step, in place of the progress bar on stderr.
        settings: Sizes; the defaults are those of the quickstart.

    Raises:
        StoreError: The cache cannot be written.
    """
    settings = settings or PretrainSettings()
    cache = default_cache() if cache is None else cache
    folder = cache / f"microworld-{world_seed}-{base_key(world_seed, settings)}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not folder.is_dir():
                _pretrain_into(folder, world_seed, settings, on_progress)
    except OSError as error:
        raise StoreError(
            f"the cache of pretrained bases must be a folder that can be written, got {cache} ({error}). "
            "Name another one in the environment variable NEFTUNE_CACHE."
        ) from error
    return folder


def default_cache() -> Path:
    """The folder in the environment variable NEFTUNE_CACHE, or ``~/.cache/neftune``."""
    named = os.environ.get("NEFTUNE_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "neftune"


def base_key(world_seed: int, settings: PretrainSettings) -> str:
    """Hash of all that determines the base: seed, settings, library versions and the code of text and training."""
    modules = (base_model, corpus, grammar, instructions, lexicon, tokenizer, world)
    code = [_code(Path(str(module.__file__))) for module in modules]
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return content_hash([world_seed, asdict(settings), libraries, code])


def _code(path: Path) -> str:
    """What a module does: its syntax tree without comments and docstrings, which pretrain nothing anew."""
    return ast.dump(_WithoutDocs().visit(ast.parse(path.read_text(encoding="utf-8"))))


class _WithoutDocs(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def _pretrain_into(folder: Path, world_seed: int, settings: PretrainSettings, on_progress: OnProgress | None) -> None:
    """Pretrain beside ``folder`` and move the result there in one step; the caller holds the lock."""
    for left_over in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        model = pretrain(world_seed, settings, folder=Path(temporary) / "trainer", on_progress=on_progress)
        done = Path(temporary) / "done"
        with _quiet():
            model.save_pretrained(done)
        tokenizer.make_tokenizer().save_pretrained(done)
        done.rename(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock beside ``folder``; the operating system lets go of a killed process's lock."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("Another process is pretraining %s; waiting for it.", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers inside."""
    from transformers.utils import logging as bars

    was_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            bars.enable_progress_bar()

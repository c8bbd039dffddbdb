import json
from pathlib import Path

import pytest

from neftune.errors import StoreError
from neftune.training.checkpoints import (
    CHECKPOINTS,
    SEAL,
    checkpoint_folder,
    last_checkpoint,
    remove_checkpoints,
    seal,
)


def write(folder: Path, step: int, *, run: str = "run", sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"x" * 100)
    (checkpoint / "optimizer.pt").write_bytes(b"y" * 200)
    if sealed:
        seal(checkpoint, run=run, state={"history": [step]})
    return checkpoint


def test_the_latest_whole_one_wins_by_number_not_by_name(tmp_path):
    for step in (9, 10):
        write(tmp_path, step)
    found = last_checkpoint(tmp_path, run="run")
    assert found is not None
    assert found.folder.name == "checkpoint-10"
    assert found.state == {"history": [10]}


def test_nothing_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path / "missing", run="run") is None


def test_one_without_a_seal_is_removed_and_the_earlier_one_used(tmp_path):
    write(tmp_path, 5)
    broken = write(tmp_path, 10, sealed=False)
    found = last_checkpoint(tmp_path, run="run")
    assert found is not None
    assert found.folder.name == "checkpoint-5"
    assert not broken.exists()


@pytest.mark.parametrize("damage", ["shorter", "missing", "more", "seal"])
def test_one_whose_files_do_not_match_its_seal_is_ignored(tmp_path, damage):
    checkpoint = write(tmp_path, 5)
    if damage == "shorter":
        (checkpoint / "optimizer.pt").write_bytes(b"y" * 199)
    elif damage == "missing":
        (checkpoint / "optimizer.pt").unlink()
    elif damage == "more":
        (checkpoint / "model.safetensors.tmp").write_bytes(b"z")
    else:
        (checkpoint / SEAL).write_text(json.dumps({})[:-1])
    assert last_checkpoint(tmp_path, run="run") is None


def test_another_runs_checkpoint_is_refused(tmp_path):
    write(tmp_path, 5, run="other")
    with pytest.raises(StoreError, match="written with other settings, data or starting weights"):
        last_checkpoint(tmp_path, run="run")


def test_folder_vanishes_unless_something_was_kept(tmp_path):
    with checkpoint_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with checkpoint_folder(tmp_path) as folder:
        write(folder, 5)
    assert folder.exists()
    remove_checkpoints(tmp_path)
    assert not (tmp_path / CHECKPOINTS).exists()


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Choose another output folder"), checkpoint_folder(tmp_path / "file"):
        pass

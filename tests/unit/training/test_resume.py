"""A run that was killed goes on where it was, and ends where it would have ended."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_world import CONFIG, content_store, write_world

from nextact_server.sequence.checkpoint import load_model
from nextact_server.training.epochs import Epoch, Run
from nextact_server.training.resume import load_run
from nextact_server.training.run import run_training

SHORT = CONFIG.replace("epochs = 12", "epochs = 5")


class Killed(Exception):
    """The run ends here."""


def run(folder: Path, config: str = SHORT, out: str = "1") -> dict[str, torch.Tensor]:
    run_training(
        write_world(folder, config),
        folder / out,
        logs_dir=folder / "logs",
        store=content_store(folder),
        console=Console(quiet=True),
    )
    return load_model(folder / out)[0].state_dict()


def kill(monkeypatch: pytest.MonkeyPatch, number: int, folder: Path) -> None:
    """Run up to the beginning of epoch `number`."""
    whole = Run.epoch

    def epoch(self: Run, at: int, validation: object) -> Epoch:
        if at == number:
            raise Killed
        return whole(self, at, validation)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch", epoch)
        with pytest.raises(Killed):
            run(folder)


def test_a_killed_run_goes_on_and_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    wanted = run(tmp_path / "whole")
    broken = tmp_path / "broken"
    broken.mkdir()
    kill(monkeypatch, 4, broken)
    assert len((broken / "logs" / "fit.csv").read_text().splitlines()) == 4
    found = run(broken)
    assert len((broken / "logs" / "fit.csv").read_text().splitlines()) == 6
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert not list((broken / "logs").glob("*.run")), "what is done needs nothing to go on from"


def test_another_configuration_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(monkeypatch, 4, tmp_path)
    run(tmp_path, SHORT.replace("learning_rate = 0.02", "learning_rate = 0.01").replace("epochs = 5", "epochs = 2"))
    assert len((tmp_path / "logs" / "fit.csv").read_text().splitlines()) == 3


def test_a_saved_run_that_is_broken_or_holds_code_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "fit.run"
    path.write_bytes(b"not a run")
    assert load_run(path, "key") is None
    torch.save({"key": Path("x")}, path)
    assert load_run(path, "key") is None

import subprocess
import sys

import pytest

from nextact_server.inference import device
from nextact_server.inference.device import DeviceError, choose_device


@pytest.mark.parametrize(
    ("kind", "driver", "seen", "chosen"),
    [
        ("KIND_AUTO", True, True, "cuda"),
        ("KIND_AUTO", True, False, "cpu"),
        ("KIND_AUTO", False, True, "cpu"),
        ("KIND_CPU", True, True, "cpu"),
        ("KIND_GPU", True, True, "cuda"),
    ],
)
def test_auto_takes_cuda_where_torch_sees_it_else_the_cpu(
    monkeypatch: pytest.MonkeyPatch, kind: device.InstanceKind, driver: bool, seen: bool, chosen: str
) -> None:
    monkeypatch.setattr(device, "cuda_possible", lambda: driver)
    monkeypatch.setattr(device, "_torch_sees_cuda", lambda: seen)
    assert choose_device(kind) == chosen


def test_a_model_that_insists_on_a_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_possible", lambda: False)
    with pytest.raises(DeviceError, match=r"KIND_GPU.*KIND_AUTO"):
        choose_device("KIND_GPU")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_device_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not device.cuda_possible()


def test_looking_for_cuda_without_a_driver_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom nextact_server.inference import device\n"
        "device.cuda_possible = lambda: False\n"
        "assert device.choose_device() == 'cpu'\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"

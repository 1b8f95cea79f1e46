"""Who starts the processes of several devices: this project, torchrun, SLURM or nobody."""

import pytest
import torch

from radar.config.training import TrainConfig
from radar.errors import InputError
from radar.training import devices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 4, "batch_size": 3}, r"train\.batch_size=3 is not possible on 4 devices .* choose 4 at least"),
        (
            {"devices": 2, "batch_size": 5, "micro_batch": 1},
            "not possible on 2 devices with 3 parts of a step each: .* choose 6",
        ),
        ({"devices": 2, "nodes": 2, "device": "cpu"}, r"train\.nodes=2 needs a launcher"),
    ],
)
def test_what_is_not_possible(options, said):
    with pytest.raises(InputError, match=said):
        devices.must_start(TrainConfig(**options))


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda:0"))
    with pytest.raises(InputError, match=r"train\.devices=9 is not possible: this process sees \d CUDA devices"):
        devices.must_start(TrainConfig(devices=9))


def test_a_launcher_is_noticed(monkeypatch):
    assert devices.must_start(TrainConfig(devices=2, device="cpu"))
    by_torchrun = {"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6"}
    for started in (by_torchrun, {"SLURM_NTASKS": "6", "SLURM_JOB_NAME": "train"}):
        with monkeypatch.context() as patch:
            for name, value in started.items():
                patch.setenv(name, value)
            assert not devices.must_start(TrainConfig(devices=2, nodes=3, device="cpu"))
            with pytest.raises(InputError, match="need 2 processes, and 6 were started"):
                devices.must_start(TrainConfig(devices=2, device="cpu"))
            assert not devices.must_start(TrainConfig(device="cpu")), "independent workers"


def test_a_batch_script_without_srun_has_started_nothing(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert devices.must_start(TrainConfig(devices=2, device="cpu"))
    with pytest.raises(InputError, match="needs a launcher"):
        devices.must_start(TrainConfig(devices=2, nodes=2, device="cpu"))


def test_a_launch_has_a_name_of_its_own(monkeypatch):
    here = devices.launch_name()
    assert here == devices.launch_name()
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_STEP_ID", "MASTER_PORT"):
        monkeypatch.setenv(name, "17")
        assert devices.launch_name() != here
        here = devices.launch_name()

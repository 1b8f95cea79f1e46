"""The linear probe: exact on separable features, blind to the label that is given, refused for diffusion."""

import json

import pytest
import torch

from ablations.cli import main
from radar.config.load import to_config
from radar.errors import InputError
from radar.scoring.probe import check_probe, classify, features
from radar.tokenizers.tokenizer import OnlyCodes
from radar.training.generators import generator_builder
from tests.command_line import fails


def test_what_is_linear_is_found():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 8, generator=generator).double()
    labels = torch.arange(90) % 3
    x = 5 + 100 * (centres[labels] + 0.1 * torch.randn(90, 8, generator=generator).double())
    wanted = torch.nn.functional.one_hot(labels, 3).double()
    assert torch.equal(classify(x[:60], wanted[:60], x[60:]), labels[60:])
    assert classify(torch.zeros(60, 8).double(), wanted[:60], x[60:]).unique().numel() == 1, "nothing to go by"


@pytest.mark.parametrize(
    "arm",
    [
        ["order.name=raster", "attention=causal"],
        ["attention=nested"],
        ["order.name=random", "attention=full", "model.query_share=0.0"],
    ],
)
def test_features_do_not_know_the_label(arm):
    """They are those of the layer and of the content alone, in every order and attention."""
    config = to_config({"model": {"dim": 16, "layers": 2, "heads": 1}, "train": {"batch_size": 4}}, arm)
    module = generator_builder(config)(config, OnlyCodes(16), 3, (4, 4)).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    class Split:
        labels = torch.arange(6) % 3
        tokens = torch.randint(16, (6, 16), generator=torch.Generator().manual_seed(0))

        def __len__(self):
            return 6

        def gather(self, index, view=0):
            return self.tokens[index], self.labels[index]

    split, other = Split(), Split()
    other.labels = (split.labels + 1) % 3
    found, labels = features(module, split)
    assert found.shape == (6, 16) and labels.tolist() == split.labels.tolist()
    assert torch.equal(found, features(module, other)[0])
    other.tokens = split.tokens.flip(0)
    assert torch.allclose(features(module, other)[0], found.flip(0), atol=1e-5) and found.std(0).min() > 0
    assert not module.model.blocks[0]._forward_hooks


def test_diffusion_is_refused(tmp_path, capsys):
    config = to_config({"method": "dit", "evaluate": {"probe": True}})
    with pytest.raises(InputError, match="no diffusion"):
        check_probe(config, generator_builder(config)(config, OnlyCodes(16), 3, (4, 4)))


def test_in_a_row(tmp_path, capsys):
    small = ["model.dim=16", "model.heads=1", "model.layers=1", "train.max_steps=2", f"data.cache={tmp_path}"]
    main(["train", "digits", f"run={tmp_path / 'run'}", *small])
    main(["evaluate", str(tmp_path / "run" / "last.ckpt"), "evaluate.images=20", "evaluate.probe=true"])
    assert 0 < json.loads((tmp_path / "run" / "evaluation.json").read_text())["probe"] < 1
    capsys.readouterr()
    main(["train", "digits", "method=dit", f"run={tmp_path / 'dit'}", *small])
    assert "no diffusion" in fails(capsys, "evaluate", tmp_path / "dit" / "last.ckpt", "evaluate.probe=true")

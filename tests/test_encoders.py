"""Frozen image encoders: read from folders, as features, as a teacher, as tokens."""

import json
import shutil
from functools import partial

import pytest
import torch

from ablations.cli import main
from radar.config.load import to_config
from radar.config.options import DataConfig, TokenizerConfig
from radar.data import load_data
from radar.encoders.folder import ImageEncoder, load_encoder
from radar.encoders.network import FeatureNetwork
from radar.errors import InputError
from radar.networks.features import extract, load_features
from radar.tokenizers import build_tokenizer, tokenizer_hash
from radar.training.checkpoints import load_tokenizer
from radar.training.runs import train_tokenizer
from tests.command_line import fails

transformers = pytest.importorskip("transformers")
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50000,
}
IMAGES = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def clip():
    config = transformers.CLIPConfig(vision_config=VISION | {"intermediate_size": 32}, text_config=TEXT)
    return transformers.CLIPModel(config)


MODELS = {
    "clip": clip,
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VISION)),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VISION, intermediate_size=32)),
}


def folder(tmp_path, name="dinov2", seed=0):
    torch.manual_seed(seed)
    path = tmp_path / f"{name}-{seed}"
    MODELS[name]().save_pretrained(path)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(statistics))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_patches_are_those_of_the_model(name, tmp_path):
    """At the size of its training, cell by cell; and one patch per cell of any grid."""
    path = folder(tmp_path, name)
    network = load_encoder(str(path))
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    model = transformers.AutoModel.from_pretrained(path)
    model = getattr(model, "vision_model", model).eval()
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    with torch.no_grad():
        expected = model(((images + 1) / 2 - mean) / deviation).last_hidden_state[:, 1:]
        found = network.cells(images, (4, 4))
    assert torch.allclose(found.flatten(2).mT, expected, atol=1e-5)
    assert network.cells(images, (2, 3)).shape == (2, 16, 2, 3)
    assert network.label == f"{name}-0" and network.num_features == 16


def test_features_and_alignment(tmp_path):
    path, data = folder(tmp_path), load_data(DataConfig("shapes", images=20))
    network = load_features(str(path), data, str(tmp_path))
    assert extract(network, IMAGES).shape == (3, 16) and not any(p.requires_grad for p in network.parameters())
    run = [f"run={tmp_path / 'run'}", f"data.cache={tmp_path}", "train.max_steps=2", "train.batch_size=4"]
    main(["train", "digits", *run, f"train.align={path}", "model.layers=1", "model.dim=16", "model.heads=1"])
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_a_folder_without_its_pooler(tmp_path):
    """As classifiers are saved: the same features every time. What else is missing is told."""
    path = folder(tmp_path, "vit")
    torch.manual_seed(1)
    config = transformers.ViTConfig(**VISION, intermediate_size=32)
    transformers.ViTForImageClassification(config).save_pretrained(path)
    assert ImageEncoder(str(path)).digest == ImageEncoder(str(path)).digest
    shape = json.loads((path / "config.json").read_text()) | {"num_hidden_layers": 3}
    (path / "config.json").write_text(json.dumps(shape))
    with pytest.raises(InputError, match=r"lacks weights: \d+, the first of which is .*layer"):
        ImageEncoder(str(path))


def test_half_precision_is_read_as_float32(tmp_path):
    path = folder(tmp_path)
    transformers.AutoModel.from_pretrained(path).to(torch.bfloat16).save_pretrained(path)
    network = load_encoder(str(path))
    assert network.cells(torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16), (2, 2)).dtype == torch.float32


def test_an_encoder_is_known_by_what_it_holds(tmp_path, monkeypatch):
    """Not by its path: renamed, moved or seen from elsewhere it is the same tokenizer."""
    path = folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    shared = ["data.name=shapes", "data.images=20", f"data.cache={tmp_path}", "train.batch_size=4", "train.warmup=1"]
    shared += ["tokenizer.name=frozen", "tokenizer.width=8", "train.max_steps=1", f"run={tmp_path / 'run'}"]
    checkpoint = str(train_tokenizer(to_config({}, [*shared, f"tokenizer.encoder=./{path.name}"])))
    first = load_tokenizer(TokenizerConfig(name="frozen", checkpoint=checkpoint))
    moved = load_tokenizer(TokenizerConfig(name="frozen", checkpoint=checkpoint, encoder=str(copy)))
    assert tokenizer_hash(first) == tokenizer_hash(moved)
    again = train_tokenizer(to_config({}, [*shared, f"tokenizer.encoder={copy}"]))
    assert str(again) == checkpoint, "its training is finished"
    with pytest.raises(InputError, match="encoder"):
        train_tokenizer(to_config({}, [*shared, f"tokenizer.encoder={folder(tmp_path, seed=1)}"]))


@pytest.mark.parametrize("grid", [(2, 3), (4, 2)])
def test_cells_of_efficientnet(grid):
    """One place of the map per cell: a change within a cell is largest there."""
    network, images = load_encoder("efficientnet_lite0"), torch.zeros(2, 3, 8 * grid[0], 8 * grid[1])
    images[1, :, :8, -8:] = 1
    found = network.cells(images, grid)
    assert found.shape[2:] == grid
    assert (found[1] - found[0]).square().sum(0).argmax() == grid[1] - 1


@pytest.mark.parametrize("codes", [{}, {"codebook": 32}, {"fsq_levels": [4, 4, 3]}], ids=str)
def test_frozen_tokens(codes, tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TokenizerConfig(name="frozen", encoder=str(folder(tmp_path)), width=8, **codes))
    restored, tokens, loss = tokenizer.train()(IMAGES)
    assert restored.shape == IMAGES.shape and tokens.shape == (3, 64) and loss > 0
    loss.backward()
    assert tokenizer.told.weight.grad is not None and tokenizer.encoder[1].weight.grad.abs().max() > 0
    assert not any("network" in name for name in tokenizer.state_dict()), "the encoder is not kept"
    tokens = tokenizer.eval().encode(IMAGES)
    assert torch.equal(tokens, torch.cat([tokenizer.encode(IMAGES[i : i + 1]) for i in range(3)]))
    assert tokenizer.decode(tokens, (8, 8)).shape == IMAGES.shape


def test_from_images_to_a_row(tmp_path, capsys):
    path, checkpoint = folder(tmp_path), tmp_path / "tokenizer" / "last.ckpt"
    shared = ["data.name=shapes", "data.images=40", f"data.cache={tmp_path / 'cache'}", "train.batch_size=8"]
    shared += ["tokenizer.name=frozen", f"tokenizer.encoder={path}", "tokenizer.fsq_levels=[4,4]", "tokenizer.width=8"]
    shared += [f"tokenizer.checkpoint={checkpoint}", "train.max_steps=2", "train.warmup=1"]
    main(["tokenizer", "shapes_fsq", *shared])
    main(["evaluate", str(checkpoint), "evaluate.images=20"])
    assert json.loads((checkpoint.parent / "evaluation.json").read_text())["psnr"] > 0
    small = ["model.layers=1", "model.dim=16", "model.heads=1", f"run={tmp_path / 'run'}"]
    main(["train", "shapes_fsq", *shared, *small])
    main(["evaluate", str(tmp_path / "run" / "last.ckpt"), "evaluate.images=20", "evaluate.timing_repeats=1"])
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["nll"] > 0
    capsys.readouterr()
    other = [f"tokenizer.encoder={folder(tmp_path, seed=1)}"]
    assert "was trained with another encoder" in fails(capsys, "train", "shapes_fsq", *shared, *small[:3], *other)
    for name in path.iterdir():
        name.write_bytes((tmp_path / "dinov2-1" / name.name).read_bytes())
    with pytest.raises(InputError, match="was trained with another encoder"):
        load_tokenizer(TokenizerConfig(name="frozen", checkpoint=str(checkpoint)))


def test_what_is_no_encoder(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"no folder of an image encoder: preprocessor_config\.json"):
        ImageEncoder(str(empty))
    (empty / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    with pytest.raises(InputError, match="cannot be read by transformers"):
        ImageEncoder(str(empty))
    text = transformers.BertModel(transformers.BertConfig(**TEXT | {"vocab_size": 10}))
    text.save_pretrained(empty)
    with pytest.raises(InputError, match="is no image encoder of patches: it is BertModel"):
        ImageEncoder(str(empty))
    shape = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    transformers.SwinModel(transformers.SwinConfig(**shape)).save_pretrained(empty)
    with pytest.raises(InputError, match="does not give one token per patch: it is SwinModel"):
        ImageEncoder(str(empty))
    (empty / "model.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(InputError, match="cannot be read by transformers"):
        ImageEncoder(str(empty))
    run = [f"run={tmp_path / 'run'}", "tokenizer.name=frozen", "tokenizer.levels=null", "tokenizer.checkpoint=null"]
    tokenizer = partial(fails, capsys, "tokenizer", "digits", *run)
    assert "choose from: efficientnet_lite0" in tokenizer("tokenizer.encoder=clip")
    assert "no folder of an image encoder" in tokenizer("tokenizer.encoder=./nowhere")
    assert "of another kind than" in tokenizer("tokenizer.codebook=8", "tokenizer.fsq_levels=[4,4]")
    assert not (tmp_path / "run").exists()


class Maps(FeatureNetwork):
    label = "maps"

    def maps(self, images):
        return [images, images[:, :, ::2, ::2]]


def test_cells_of_a_network_with_maps():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(Maps().cells(images, (8, 8)), images)
    assert torch.allclose(Maps().cells(images, (4, 4)), images[:, :, ::2, ::2])
    with pytest.raises(InputError, match="a grid of 16x16 cells is not possible with maps, whose largest map is 8x8"):
        Maps().cells(images, (16, 16))

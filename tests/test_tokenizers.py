"""Round trips, hashes, and caches that know who made them."""

import json
import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from radar.config.load import to_config
from radar.config.options import DataConfig, TokenizerConfig
from radar.data import load_data
from radar.data.batches import batch_indices
from radar.data.images import load_images
from radar.data.tokens import cached_tokens
from radar.errors import InputError
from radar.networks.features import load_features
from radar.scoring.restoration import Restoration, restore
from radar.tokenizers import TOKENIZERS, Convolutional, build_tokenizer, codebook_use, normalise, tokenizer_hash
from radar.training.checkpoints import load_tokenizer
from radar.training.runs import train_tokenizer
from radar.training.tokenizer import perceptual_distance


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_every_tokenizer(name):
    torch.manual_seed(0)
    sides = [1, 2] if name == "var_vae" else None  # which has 16 pixels per cell
    tokenizer = build_tokenizer(TokenizerConfig(name=name, sides=sides)).eval()
    images, _ = load_images(load_data(DataConfig(name="shapes" if tokenizer.learned else "digits")).train, range(6))
    grid = tokenizer.grid((images.shape[2], images.shape[3]))
    tokens = tokenizer.encode(images)
    if tokenizer.continuous:
        assert tokens.shape == (6, grid[0] * grid[1], tokenizer.channels) and tokens.dtype == torch.float32
    else:
        assert tokens.shape == (6, grid[0] * grid[1]) and tokens.dtype == torch.int64
        assert tokens.min() >= 0 and tokens.max() < tokenizer.vocabulary
    restored = tokenizer.decode(tokens, grid)
    assert restored.shape == images.shape and restored.dtype == torch.uint8
    assert tokenizer.learned or torch.equal(restored, images)
    assert torch.equal(tokens[2:3], tokenizer.encode(images[2:3])), "tokens do not depend on the batch"


def test_levels_is_lossless_on_all_digits():
    data, tokenizer = load_data(DataConfig()), build_tokenizer(TokenizerConfig())
    for split in (data.train, data.held_out):
        images, _ = load_images(split, range(len(split)))
        assert torch.equal(tokenizer.decode(tokenizer.encode(images), data.size), images)


def test_what_is_counted_of_restored_images():
    """Equal images are as alike as can be, others as torchmetrics finds all at once; small ones have no SSIM."""
    torch.manual_seed(0)
    images, _ = load_images(load_data(DataConfig(name="shapes")).train, range(10))
    digits, _ = load_images(load_data(DataConfig()).train, range(10))

    def told(name, images):
        tokenizer = build_tokenizer(TokenizerConfig(name=name)).eval()
        counted = Restoration(torch.zeros(tokenizer.vocabulary))
        back = torch.cat(list(restore(tokenizer, images.split(4), torch.device("cpu"), counted)))
        return counted, back.float(), images.float()

    counted, _, _ = told("levels", digits)
    assert counted.psnr == math.inf and counted.ssim == 1.0
    counted, back, images = told("fsq", images)
    assert counted.psnr == pytest.approx(float(peak_signal_noise_ratio(back, images, data_range=255.0)), abs=1e-4)
    whole = structural_similarity_index_measure(back, images, data_range=255.0)
    assert counted.ssim == pytest.approx(float(whole), abs=1e-5) and -1 < counted.ssim < 1
    assert told("levels", digits[..., :4, :4])[0].ssim is None


def test_codes_that_are_to_be_diverse():
    """More weight of the entropy is a lower loss, and another gradient of the encoder."""
    images, _ = load_images(load_data(DataConfig(name="shapes")).train, range(6))
    found = []
    for diversity in (None, 0.5, 1.0):
        torch.manual_seed(0)
        made = build_tokenizer(TokenizerConfig(name="vq", codebook=16, width=8, diversity=diversity)).train()
        made(images)  # k-means
        _, _, loss = made(images)
        loss.backward()
        found.append((float(loss.detach()), [p.grad for p in made.encoder.parameters() if p.grad is not None]))
    (plain, _), (half, some), (full, more) = found
    assert plain - half == pytest.approx(half - full, rel=1e-3) and half != plain, "in proportion to its weight"
    assert any(not torch.equal(a, b) for a, b in zip(some, more, strict=True))


def test_levels_refuses_what_it_would_lose():
    images, _ = load_images(load_data(DataConfig(name="shapes")).train, range(2))
    with pytest.raises(InputError, match="'levels' with levels=17 would lose colours or grey levels"):
        build_tokenizer(TokenizerConfig()).encode(images)


def test_forward_and_encode_agree():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TokenizerConfig(name="fsq")).eval()
    assert isinstance(tokenizer, Convolutional)
    images, _ = load_images(load_data(DataConfig(name="shapes")).train, range(3))
    _, tokens, _ = tokenizer(images)
    assert torch.equal(tokens, tokenizer.encode(images))


def test_hash_changes_with_weights():
    tokenizer = build_tokenizer(TokenizerConfig(name="fsq"))
    before = tokenizer_hash(tokenizer)
    assert before == tokenizer_hash(tokenizer)
    with torch.no_grad():
        next(tokenizer.parameters()).view(-1)[0] += 1e-3
    assert tokenizer_hash(tokenizer) != before
    assert len({tokenizer_hash(build_tokenizer(TokenizerConfig(levels=n))) for n in (17, 18)}) == 2
    swapped = build_tokenizer(TokenizerConfig(name="fsq", fsq_levels=[5, 6, 8]))
    swapped.load_state_dict(tokenizer.state_dict())
    assert tokenizer_hash(swapped) != tokenizer_hash(tokenizer), "levels are no weights"


def test_codebook_use():
    assert codebook_use(torch.tensor([5, 5, 0, 0])) == pytest.approx({"codebook_use": 0.5, "perplexity": 2.0})


def test_cache_is_made_once_and_refused_for_another_tokenizer(tmp_path):
    data, tokenizer = load_data(DataConfig()), build_tokenizer(TokenizerConfig())
    splits = cached_tokens(data, tokenizer, str(tmp_path))
    images, labels = load_images(data.held_out, [3, 1])
    tokens, found = splits["held_out"].gather(torch.tensor([3, 1]).numpy())
    assert torch.equal(tokens, tokenizer.encode(images)) and torch.equal(found, labels)
    (folder,) = tmp_path.glob("tokens-*")
    stamp = (folder / "train-tokens.npy").stat().st_mtime_ns
    cached_tokens(data, tokenizer, str(tmp_path))
    assert (folder / "train-tokens.npy").stat().st_mtime_ns == stamp
    cached_tokens(data, tokenizer, str(folder))
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["classes"] == list(data.classes) and meta["crop"] == "none"
    with pytest.raises(InputError, match=r"token cache .* was made with another vocabulary \(17, this run has 256\)"):
        cached_tokens(data, build_tokenizer(TokenizerConfig(levels=256)), str(folder))
    meta["tokenizer"] = "levels-17-0"
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"was made with another tokenizer \(levels-17-0, this run has"):
        cached_tokens(data, tokenizer, str(tmp_path))
    (folder / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"token cache .* is damaged"):
        cached_tokens(data, tokenizer, str(tmp_path))


def test_nothing_is_left_of_a_cache_that_failed(tmp_path):
    data = load_data(DataConfig(name="shapes", images=100))
    with pytest.raises(InputError, match="would lose colours"):
        cached_tokens(data, build_tokenizer(TokenizerConfig()), str(tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_batches_are_permutations_end_to_end():
    parts = torch.cat([torch.from_numpy(batch_indices(1, i, 4, 10)) for i in range(5)])
    assert parts[:10].sort().values.tolist() == list(range(10)) == parts[10:].sort().values.tolist()
    assert parts[:10].tolist() != parts[10:].tolist()
    assert batch_indices(1, 3, 4, 10).tolist() == parts[12:16].tolist()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig(name="vqgan"), "unknown tokenizer 'vqgan'; choose from: levels, vq, fsq"),
        (TokenizerConfig(name="vq", levels=4), "tokenizer 'vq' takes no option 'levels'"),
        (TokenizerConfig(name="vq", downsample=3), "tokenizer.downsample=3"),
        (TokenizerConfig(name="fsq", fsq_levels=[8, 1]), "every level must be at least 3"),
        (TokenizerConfig(levels=1), "tokenizer.levels=1 is not possible"),
    ],
)
def test_bad_tokenizers(config, message):
    with pytest.raises(InputError, match=message):
        build_tokenizer(config)


@pytest.mark.parametrize("name", ["vq", "fsq", "llamagen_vq"])
def test_an_image_alone_is_coded_as_in_company(name):
    """Convolutions of a single image take other kernels: 4 of 122,880 values differed by one level."""
    torch.manual_seed(0)
    options = {"width": 32, "downsample": 8} if name == "llamagen_vq" else {"width": 32}
    tokenizer = build_tokenizer(TokenizerConfig(name=name, **options)).eval()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    if name == "vq":
        tokenizer.train()(images)  # its codes come from the first batch
        tokenizer.eval()
    tokens = tokenizer.encode(images)
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(alone, tokens)
    decoded = tokenizer.decode(tokens, tokenizer.grid((32, 32)))
    seen = []
    tokenizer.decoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    single = torch.cat([tokenizer.decode(row[None], tokenizer.grid((32, 32))) for row in tokens])
    assert torch.equal(single, decoded) and min(seen) > 1, "never one alone"


def test_what_is_not_given_is_taken_from_the_checkpoint(tmp_path):
    small = ["data.name=shapes", "data.images=20", "train.max_steps=1", "train.warmup=1", "train.batch_size=4"]
    small += [f"run={tmp_path}", f"data.cache={tmp_path}", "tokenizer.name=fsq", "tokenizer.fsq_levels=[4,4]"]
    path = str(train_tokenizer(to_config({}, [*small, "tokenizer.width=16", "tokenizer.downsample=8"])))
    for given in ({}, {"width": 16}):
        tokenizer = load_tokenizer(TokenizerConfig(name="fsq", checkpoint=path, **given))
        assert tokenizer.kind == "fsq-4x4-width16-down8"
    with pytest.raises(InputError, match=r"holds another tokenizer: width is 16, tokenizer\.width=32"):
        load_tokenizer(TokenizerConfig(name="fsq", checkpoint=path, width=32))
    with pytest.raises(InputError, match=r"holds another tokenizer: name is fsq, tokenizer\.name=vq"):
        load_tokenizer(TokenizerConfig(name="vq", checkpoint=path))


@pytest.mark.parametrize("name", ["cnn", "efficientnet_lite0"])
def test_what_a_network_sees_is_restored_too(name, tmp_path):
    """The loss is zero for the image itself, its gradient reaches the pixels, and no network is trained or kept."""
    data = load_data(DataConfig("shapes", images=20))
    network, images = load_features(name, data, str(tmp_path)), load_images(data.train, range(3))[0]
    assert perceptual_distance(network, normalise(images), images) < 1e-9
    noisy = (normalise(images) + 0.1 * torch.randn(images.shape)).requires_grad_()
    perceptual_distance(network, noisy, images).backward()
    assert noisy.grad.abs().max() > 0 and not any(p.requires_grad for p in network.parameters())
    options = {
        "data": {"name": "shapes", "images": 20, "cache": str(tmp_path)},
        "tokenizer": {"name": "fsq", "width": 8},
    }
    options["train"] = {"max_steps": 1, "batch_size": 2, "warmup": 1}
    weights = []
    for number, chosen in enumerate(("[]", f"[{name}]")):
        config = to_config(options, [f"run={tmp_path / str(number)}", f"train.perceptual={chosen}"])
        weights.append(torch.load(train_tokenizer(config), weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys(), "the network is not kept"
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_networks_that_show_no_maps(tmp_path):
    torch.jit.script(torch.nn.Flatten()).save(str(tmp_path / "flat.pt"))
    options = {"data": {"name": "shapes", "images": 20}, "tokenizer": {"name": "fsq", "width": 8}}
    options |= {"train": {"perceptual": [str(tmp_path / "flat.pt")]}, "run": str(tmp_path / "run")}
    with pytest.raises(InputError, match="flat shows no maps of its layers"):
        train_tokenizer(to_config(options))
    assert not (tmp_path / "run").exists()

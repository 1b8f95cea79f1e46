"""Augmentation: encoded once, drawn by (seed, batch, place), and none of what is judged."""

import numpy as np
import pytest
import torch
from PIL import Image

from radar.config.load import to_config
from radar.config.options import DataConfig
from radar.data import AugmentedImages, load_data
from radar.data.augment import AUGMENTS
from radar.data.batches import BatchDataset, image_batches
from radar.data.images import center_crop
from radar.data.tokens import cached_tokens, token_batches
from radar.errors import InputError
from radar.networks.classifier import train_classifier
from radar.scoring.metrics import score
from radar.scoring.reference import build_reference
from radar.tokenizers import build_tokenizer


def images(tmp_path, name="folder"):
    root = tmp_path / "images"
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(random.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(root / label / f"{i}.png")
    return {"name": name, "root": str(root), "size": 20, "held_out": 0.5, "cache": str(tmp_path / "cache")}


def test_flip_and_ten_crops(tmp_path):
    options = images(tmp_path)
    plain = load_data(DataConfig(**options))
    flips = AugmentedImages(load_data(DataConfig(**options, augment="flip")))
    assert len(flips) == 2 * len(plain.train)
    for i in range(len(plain.train)):
        assert torch.equal(flips[2 * i][0], plain.train[i][0]) and flips[2 * i][1] == flips[2 * i + 1][1]
        assert torch.equal(flips[2 * i + 1][0], plain.train[i][0].flip(-1))
    crops = AugmentedImages(load_data(DataConfig(**options, augment="tencrop")))
    assert len(crops) == 20 * len(plain.train)
    source = Image.open(plain.train.paths[1]).convert("RGB")
    for place, side in ((0, 22), (10, 21)):
        large = torch.from_numpy(np.asarray(center_crop(source, side)).copy()).permute(2, 0, 1)
        rest, half = side - 20, (side - 20) // 2
        found = [crops[20 + place + j][0] for j in range(10)]
        corners = [(half, half), (0, 0), (0, rest), (rest, 0), (rest, rest)]
        assert all(torch.equal(found[j], large[:, r : r + 20, c : c + 20]) for j, (r, c) in enumerate(corners))
        assert all(torch.equal(found[j + 5], found[j].flip(-1)) for j in range(5))


def test_all_views_are_encoded_and_none_of_held_out_images(tmp_path):
    data = load_data(DataConfig(augment="flip"))
    splits = cached_tokens(data, build_tokenizer(to_config({}).tokenizer), str(tmp_path))
    train, held_out = splits["train"], splits["held_out"]
    assert (train.views, held_out.views) == (2, 1) and len(train) == len(data.train)
    first, second = (train.gather(np.arange(5), np.full(5, v))[0].view(5, 8, 8) for v in (0, 1))
    assert torch.equal(second, first.flip(-1)) and torch.equal(first.flatten(1), train.gather(np.arange(5))[0])
    assert torch.equal(train.gather(np.array([3]), np.array([1]))[1], torch.tensor([data.train[3][1]]))


def test_batches_draw_views_by_seed_batch_and_place(tmp_path):
    drawn = []
    batches = BatchDataset(lambda i, v: drawn.append((i, v)) or (torch.zeros(1), torch.zeros(1)), 50, 8, 3, 99, 0, 20)
    later = BatchDataset(batches.gather, 50, 8, 3, 99, 5, 20)
    for number in range(40):
        batches[number]
    assert set(np.concatenate([v for _, v in drawn]).tolist()) == set(range(20))
    later[1]
    assert all(np.array_equal(a, b) for a, b in zip(drawn[-1], drawn[6], strict=True)), "a resume draws the same"
    assert not np.array_equal(drawn[0][1], drawn[1][1])
    BatchDataset(batches.gather, 50, 8, 4, 99, 0, 20)[0]
    assert not np.array_equal(drawn[-1][1], drawn[0][1])


def test_through_the_data_modules(tmp_path):
    config = to_config(
        {"data": {"augment": "flip", "cache": str(tmp_path)}, "train": {"max_steps": 4, "batch_size": 16}}
    )
    data = load_data(config.data)
    splits = cached_tokens(data, build_tokenizer(config.tokenizer), str(tmp_path))
    plain = splits["train"].gather(np.arange(len(splits["train"])))[0].view(-1, 8, 8)
    for batches in (token_batches(config, splits), image_batches(config, data)):
        batch = next(iter(batches.train_dataloader()))
        seen = batch.inputs.view(16, 8, 8) if batch.inputs.ndim == 2 else batch.inputs[:, 0]
        own = plain[batch.images]
        own = own if batch.inputs.ndim == 2 else torch.stack([data.train[int(i)][0][0] for i in batch.images])
        mirrored = (seen == own.flip(-1)).flatten(1).all(1)
        assert ((seen == own).flatten(1).all(1) | mirrored).all() and 2 < int(mirrored.sum()) < 14
        held_out = next(iter(batches.val_dataloader()))
        assert held_out.images.tolist() == list(range(16))


def test_unknown_augmentation():
    with pytest.raises(InputError, match="unknown augmentation 'mixup'; choose from: none, flip, tencrop"):
        load_data(DataConfig(augment="mixup"))
    assert list(AUGMENTS) == ["none", "flip", "tencrop"]


def test_a_mirrored_training_image_is_memorised(tmp_path):
    for augment, share in (("none", 0.5), ("flip", 1.0)):
        data = load_data(DataConfig(augment=augment))
        reference = build_reference(data, train_classifier(data, steps=2), most=20)
        image = data.train[1][0]  # none of the 20 reference images
        samples = torch.stack([image, image.flip(-1)])
        found = score(["duplicates"], samples, torch.zeros(2, dtype=torch.long), reference)
        assert found["memorised"] == share, augment

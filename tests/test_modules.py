"""Training: what is corrupted, what is counted, when it stops."""

import itertools
import re

import pytest
import torch

from radar.attention import VARIANTS, Bands
from radar.config.load import load_config, to_config
from radar.config.options import Config, ModelConfig, OrderConfig
from radar.config.sampling import SampleConfig
from radar.config.training import TrainConfig
from radar.data.batches import Batch
from radar.errors import InputError, NonFiniteLoss
from radar.parts import Draws, Part
from radar.training.callbacks import WeightAverage
from radar.training.checkpoints import load_generator, read_checkpoint, restore_weights
from radar.training.corruption import CORRUPTIONS, corruption_mask
from radar.training.generator import GeneratorModule
from radar.training.layouts import LAYOUTS
from radar.training.runs import train_generator
from radar.training.trained import learning_rate
from tests.arms import layout, typical

SMALL = ["model.dim=16", "model.heads=1", "model.layers=1", "train.batch_size=4", "train.warmup=2"]


def module(order: str = "radial", attention: str = "nested", **train: object) -> GeneratorModule:
    torch.manual_seed(0)
    train = {"layout": "packed", **train}
    model = ModelConfig(dim=16, layers=1, heads=1)
    config = Config(order=OrderConfig(name=order), attention=attention, model=model, train=TrainConfig(**train))
    made = GeneratorModule(config, 7, 3, (4, 4))
    torch.nn.init.normal_(made.model.head.weight, std=0.5)
    return made


TOKENS = torch.randint(7, (8, 16), generator=torch.Generator().manual_seed(0))
BATCH = Batch(0, TOKENS, torch.arange(8) % 3, torch.arange(8), others=TOKENS.roll(1, 0))


def test_corruption_touches_only_known_tokens_at_its_rate():
    _, slots = layout("radial", "nested")
    torch.manual_seed(0)
    mask = corruption_mask(slots, Draws(Part.all(4000), torch.device("cpu")), 0.6)
    assert not mask[:, ~slots.revises].any()
    assert mask[:, slots.revises].double().mean() == pytest.approx(0.3, abs=0.02)
    rates = mask[:, slots.revises & (slots.step == slots.step.max())].double().mean(1)
    assert rates.std() > 0.1, "every image has its own rate"


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_every_corruption_trains(kind):
    made = module(corruption=kind, corruption_rate=0.9)
    seen = []
    original = made.cross_entropy
    made.cross_entropy = lambda slots, mask, content, *rest: (
        seen.append(content) or original(slots, mask, content, *rest)
    )
    loss = made.training_step(BATCH, 0)
    assert torch.isfinite(loss) and loss.requires_grad
    truth = BATCH[1][:, made.order.permutation][:, made.slots.rank.clamp(min=0)]
    changed = seen[0] != truth
    assert changed[:, made.slots.revises].any() and not changed[:, ~made.slots.revises].any()
    assert seen[0].min() >= 0 and seen[0].max() < 7


def test_without_corruption_known_tokens_are_clean():
    made = module(corruption_rate=0.0, correction_weight=0.0)
    made.config.model.label_dropout = 0.0
    asked = made.nll(BATCH[1], BATCH[2]).mean() / 16
    assert float(made.training_step(BATCH, 0).detach()) == pytest.approx(float(asked), rel=1e-5)


def test_bands_train_and_judge_as_the_whole_mask_does(monkeypatch):
    """On a grid whose layout is long enough to be cut."""
    config = to_config({"model": {"dim": 16, "layers": 2, "heads": 2}, "train": {"corruption": "model"}})
    tokens = torch.randint(7, (4, 64))
    batch = Batch(0, tokens, torch.arange(4) % 3, torch.arange(4))
    found = []
    for backend in ("auto", "sdpa"):
        torch.manual_seed(0)
        config.model.backend = backend
        made = GeneratorModule(config, 7, 3, (8, 8))
        torch.nn.init.normal_(made.model.head.weight)
        assert isinstance(made.packed().mask, Bands) == (backend == "auto")
        made.training_step(batch, 0).backward()
        judged = [made.nll(tokens, batch.labels, settings).detach() for settings in (None, SampleConfig())]
        found.append([*judged, *(weight.grad for weight in made.parameters() if weight.grad is not None)])
        monkeypatch.setattr("radar.training.generator.banded", lambda mask: mask)
    for bands, whole in zip(*found, strict=True):
        assert torch.allclose(bands, whole, rtol=1e-4, atol=1e-5)


def test_revising_less_in_sampling_than_in_training():
    made = module(corruption_rate=0.0)
    most = sum(len(each.slots) for each in made.passes(SampleConfig()))
    fewer = sum(len(each.slots) for each in made.passes(SampleConfig(revise_rings=1)))
    assert fewer == 2 * 16 + 1 - int((made.step == made.step.max()).sum()) < most
    made = module(corruption_rate=0.0)
    made.config.revise.every = 2
    assert sum(len(each.slots) for each in made.passes(SampleConfig(revise_every=1))) == most


@pytest.mark.parametrize(
    ("order", "variant"), [arm for arm in typical() if arm[1] != "block_causal"]
)  # test_multiscale.py
def test_the_sampled_layout_estimates_the_packed_loss(order, variant, monkeypatch):
    """Averaged over all choices of two steps, its loss and gradient are those of the packed layout."""
    made = module(order, variant, corruption_rate=0.0, layout="sampled", layout_steps=2)
    made.config.model.label_dropout = 0.0

    def gradient(layout: str) -> tuple[float, torch.Tensor]:
        made.zero_grad()
        made.layout = LAYOUTS[layout]
        loss = made.training_step(BATCH, 0)
        loss.backward()
        return float(loss.detach()), torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])

    packed = gradient("packed")
    parts = []
    for pair in itertools.combinations(range(made.steps), 2):
        monkeypatch.setattr(torch, "randperm", lambda n, pair=pair: torch.tensor(pair))
        parts.append(gradient("sampled"))
    losses, gradients = zip(*parts, strict=True)
    assert sum(losses) / len(losses) == pytest.approx(packed[0], rel=1e-5)
    assert torch.allclose(torch.stack(gradients).mean(0), packed[1], atol=1e-5)


def test_auto_layout_goes_by_the_number_of_slots():
    made = module(layout="auto")
    assert len(LAYOUTS["auto"](made).slots) < len(made.slots), "nested is sampled"
    made.slots = VARIANTS["plain"](torch.bincount(made.step).tolist())
    assert len(LAYOUTS["auto"](made).slots) == len(made.slots), "plain is packed"


def test_randomness_is_a_function_of_seed_and_batch_number():
    made = module(corruption_rate=0.5)
    first = float(made.training_step(BATCH, 0))
    torch.manual_seed(99)
    assert float(made.training_step(BATCH, 5)) == first
    assert float(made.training_step(BATCH._replace(number=1), 0)) != first


def test_learning_rate():
    config = TrainConfig(max_steps=100, warmup=10, decay=None)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 == rates[10]
    assert rates[100] == pytest.approx(0) and all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_a_short_training_has_a_curve_and_a_short_warm_up():
    assert [TrainConfig(max_steps=n).validation_steps for n in (1, 9, 100, 1500)] == [1, 1, 10, 150]
    assert [TrainConfig(max_steps=n).warmup_steps for n in (1, 100, 500, 1500)] == [0, 10, 50, 50]
    assert TrainConfig(max_steps=100, val_every=500).validation_steps == 100, "at its end at least"


def test_average_follows_the_weights():
    made, average = module(), WeightAverage(0.9)
    trainer = type("Trainer", (), {"global_step": 0})()
    average.on_train_start(trainer, made)
    start = [a.clone() for a in average.average]
    for weight in average.parameters(made):
        weight.add_(1.0)
    trainer.global_step = 1
    average.on_train_batch_end(trainer, made)
    average.on_train_batch_end(trainer, made)  # a second micro-batch of the same step counts once
    decay = 2 / 11
    assert all(torch.allclose(a, s + 1 - decay, atol=1e-6) for a, s in zip(average.average, start, strict=True))
    weights = [w.clone() for w in average.parameters(made)]
    average.on_validation_start(trainer, made)
    assert all(
        torch.allclose(w, s + 1 - decay, atol=1e-6) for w, s in zip(average.parameters(made), start, strict=True)
    )
    average.on_exception(trainer, made, KeyboardInterrupt())
    assert all(torch.equal(w, kept) for w, kept in zip(average.parameters(made), weights, strict=True))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    options = [
        *SMALL,
        f"run={tmp_path / 'run'}",
        f"data.cache={tmp_path}",
        "train.max_steps=20",
        "train.checkpoint_every=4",
    ]
    original = GeneratorModule.cross_entropy

    def broken(self, *args):
        return original(self, *args) * (float("nan") if self.global_step >= 10 else 1.0)

    monkeypatch.setattr(GeneratorModule, "cross_entropy", broken)
    with pytest.raises(NonFiniteLoss, match="loss or gradient became nan at step 10; what was"):
        train_generator(load_config(None, options))
    checkpoint = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert checkpoint["global_step"] == 8
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_checkpoint_holds_config_and_commit_and_the_average_is_loaded(tmp_path):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path}", "train.max_steps=3"]
    path = train_generator(load_config(None, options))
    checkpoint = read_checkpoint(path)
    assert to_config(checkpoint["radar"]["config"]) == load_config(None, options)
    assert checkpoint["radar"]["commit"]
    generator = load_generator(path)
    average = checkpoint["callbacks"]["WeightAverage"]["average"]
    loaded = WeightAverage.parameters(generator.module)
    assert all(torch.equal(a, b) for a, b in zip(loaded, average, strict=True))
    assert not generator.module.training and generator.train_seconds > 0
    logged = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/nll" in logged


def test_logs_hold_what_the_docs_say(tmp_path):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path}", "train.max_steps=4", "train.log_every=2"]
    options += ["train.layout=packed"]
    train_generator(load_config(None, options))
    lines = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    columns = set(lines[0].split(","))
    assert {"train/loss", "train/correction_loss", "train/grad_norm", "train/images_seen", "val/nll"} <= columns
    assert {f"order/step_{k:03d}" for k in range(7)} <= columns
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))


def test_a_run_of_another_configuration_is_not_continued(tmp_path):
    options = [*SMALL, f"run={tmp_path / 'run'}", f"data.cache={tmp_path}", "train.max_steps=2"]
    train_generator(load_config(None, options))
    with pytest.raises(InputError, match=r"belongs to another configuration \(train.lr: None, this run has 0.1\)"):
        train_generator(load_config(None, [*options, "train.lr=0.1"]))
    assert train_generator(load_config(None, [*options, "sample.images=3"])).exists()


def test_an_order_per_image_trains(tmp_path):
    options = [
        *SMALL,
        f"run={tmp_path / 'run'}",
        f"data.cache={tmp_path}",
        "train.max_steps=2",
        "train.permutations=reseeded",
    ]
    options += ["order.name=random", "order.steps=7", "attention=plain"]
    assert train_generator(load_config(None, options)).exists()


@pytest.mark.parametrize("damage", ["cut", "foreign", "missing", "shape"])
def test_bad_checkpoints(damage, tmp_path):
    path = train_generator(
        load_config(None, [*SMALL, f"run={tmp_path}", f"data.cache={tmp_path}", "train.max_steps=1", "train.warmup=1"])
    )
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    if damage == "missing":
        path.unlink()
    if damage == "shape":
        checkpoint = read_checkpoint(path)
        generator = load_generator(path)
        del checkpoint["state_dict"]["model.query"]
        with pytest.raises(InputError, match="does not fit this model"):
            restore_weights(generator.module, checkpoint, path)
        return
    message = {
        "cut": "is damaged or not a checkpoint",
        "foreign": "not written by this project",
        "missing": "not exist",
    }
    with pytest.raises(InputError, match=message[damage]):
        load_generator(path)


def test_the_printed_loss_is_that_of_a_whole_step(tmp_path, capfd):
    printed = []
    for part in (None, 3):
        train = TrainConfig(max_steps=10, batch_size=8, micro_batch=part)
        config = Config(model=ModelConfig(dim=16, heads=1, layers=1), train=train, run=str(tmp_path / str(part)))
        config.order, config.attention = OrderConfig("raster"), "causal"
        config.tokenizer.levels, config.data.cache = 17, str(tmp_path)
        train_generator(config)
        lines = re.findall(r"step (\d+)/10, loss ([\d.]+)", capfd.readouterr().out)
        printed.append({step: float(loss) for step, loss in lines if step != "1"})  # the first may be too early to tell
    assert len(printed[0]) == 9 and printed[1] == pytest.approx(printed[0], abs=2e-3)

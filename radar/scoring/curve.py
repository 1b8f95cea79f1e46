"""fid over training, of few samples at every validation."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from lightning.pytorch import Callback, LightningModule, Trainer

from radar import clock
from radar.config.options import Config
from radar.data import load_data
from radar.encoders.network import FeatureNetwork
from radar.networks.features import extract
from radar.scoring.distances import frechet_distance
from radar.scoring.reference import build_references
from radar.scoring.sample_pictures import samples_sheet
from radar.scoring.samples import drawing
from radar.scoring.statistics import Moments
from radar.training.callbacks import TrainingClock
from radar.training.checkpoints import Generator, generator_tokenizer
from radar.training.generative import GenerativeModule
from radar.training.loggers import can_show, show_image
from radar.training.shares import fetched


def curve_callbacks(config: Config) -> Sequence[Callback]:
    """What logs fid over training, where `train.val_samples` asks for it."""
    return [FidCurve(config)] if config.train.val_samples else []


class FidCurve(Callback):
    """Logs fid of `train.val_samples` samples at every validation, by the first feature network: val/fid.

    It is biased by their number: good for comparing steps and arms, not with figures of more samples.
    """

    def __init__(self, config: Config) -> None:
        e = config.evaluate
        first = replace(e, features=e.features[:1], reference=e.reference[:1], metrics=["fid"])
        self.config = replace(config, evaluate=first)

    @cached_property
    def generator(self) -> Generator:
        """Data and tokenizer, opened at the first validation; the module is that of the training."""
        config = self.config
        tokenizer = generator_tokenizer(config).to(self.module.device)
        return Generator(config, self.module, load_data(config.data), tokenizer, "", 0.0)

    @cached_property
    def judge(self) -> tuple[FeatureNetwork, Moments]:
        """Feature network, and what it sees of the real images."""
        reference = build_references(self.config, self.generator.data, self.module.device)[0]
        return reference.network, reference.real.features

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw from the averaged weights, which are in place during a validation."""
        assert isinstance(pl_module, GenerativeModule)
        self.module, began = pl_module, clock.seconds()
        settings = replace(self.config.sample, images=self.config.train.val_samples)
        network, real = self.judge
        mine = range(settings.images)[trainer.global_rank :: trainer.world_size]
        fake = Moments.none(network.num_features)
        with fetched(pl_module), drawing(self.generator, settings, self.config.evaluate.labels) as draw:
            if mine:
                drawn = draw(mine)
                fake.add(extract(network, drawn.images))
                if can_show(pl_module.loggers):
                    sheet = samples_sheet(self.generator, drawn)
                    show_image(pl_module.loggers, "val/samples", sheet, trainer.global_step)
        fid = frechet_distance(real, fake.over_devices())
        for logger in pl_module.loggers:
            logger.log_metrics({"val/fid": fid}, trainer.global_step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TrainingClock):
                callback.began += clock.seconds() - began  # an order of many steps is not slower to train

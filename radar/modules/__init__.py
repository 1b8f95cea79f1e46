"""LightningModules around the tokenizer and the transformer."""

from radar.modules.generator import LAYOUTS, GeneratorModule
from radar.modules.order import DecodingOrder
from radar.modules.tokenizer import TokenizerModule
from radar.modules.trained import TrainedModule, learning_rate

__all__ = ["LAYOUTS", "DecodingOrder", "GeneratorModule", "TokenizerModule", "TrainedModule", "learning_rate"]

"""YAML and ``-o key=value`` -> one checked, read-only configuration.

    config = load_config("configs/quick_start/MobileNetV2_finetune.yaml", ["Global.epochs=5"])
    config.arch.name, config.run.update_freq, config.train.sampler.batch_size, config.where("Global.epochs")

Everything is checked when it is loaded, before any data is read. ``parts.py`` holds the known keys: a dataclass a
section, which functions take as arguments. ``config["Arch"]["name"]`` is the mapping behind them, for showing.
"""

from ppmobilenet.config.fields import MissingKey
from ppmobilenet.config.loading import load_config
from ppmobilenet.config.tree import Config, Section

__all__ = ["Config", "MissingKey", "Section", "load_config"]

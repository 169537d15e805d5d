"""YAML and ``-o key=value`` -> one checked, read-only configuration.

    config = load_config("configs/quick_start/MobileNetV2_finetune.yaml", ["Global.epochs=5"])
    config["Arch"]["name"], config.get("Global.update_freq"), config.where("Global.epochs")

Everything is checked when it is loaded, before any data is read. ``schema.py`` is the table of known keys.
"""

from ppmobilenet.config.loading import load_config
from ppmobilenet.config.tree import Config, MissingKey, Section

__all__ = ["Config", "MissingKey", "Section", "load_config"]

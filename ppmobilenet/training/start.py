"""Where a network's weights come from: decided here and nowhere else.

The order, the first that is there: ``Global.checkpoints``, ``Global.pretrained_model``, ``Arch.pretrained``. What is
typed (``-o``; ``-c RUN``, which means the run's best weights) comes before all of that in a file: then the others are
out of the configuration (``config/rivals.py``). One is never passed over in training: ``Global.checkpoints: auto``, for
a run's own checkpoint began with the other weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.config.parts import Arch, Weights
from ppmobilenet.errors import UserError
from ppmobilenet.training import checkpoint
from ppmobilenet.training.device import set_device
from ppmobilenet.weights.download import published_file
from ppmobilenet.weights.files import resolve
from ppmobilenet.weights.loading import LoadReport, load_weights
from ppmobilenet.zoo import create_model


@dataclass(frozen=True)
class Start:
    """Weights that a configuration names.

    Attributes:
        key: the key that names them.
        named: a path as it was given, or True: the published weights of ``model``.
        model: the network's name.
        use_ssld: of the published ones, those trained by distillation.
        checkpoint: the state that a training goes on from.
    """

    key: str
    named: str | bool
    model: str
    use_ssld: bool = False
    checkpoint: checkpoint.Found | None = None

    def file(self) -> Path:
        """Return the file or folder; published weights are downloaded if they have not been.

        Raises:
            UserError: there is none.
        """
        if self.named is True:
            return Path(published_file(self.model, use_ssld=self.use_ssld))
        return resolve(self.named)


def find_start(weights: Weights, *, training: bool = False) -> Start | None:
    """Return the weights that a configuration names; None: it names none.

    Args:
        weights: ``weights`` of a config.
        training: the weights to go on training with; otherwise those that answer, which are others with EMA.

    Raises:
        UserError: it names a checkpoint that is not there.
        DamagedFileError: a checkpoint that is not what was written.
    """
    # `checkpoints: auto` of a file may stand beside other weights that are typed
    if weights.checkpoints and (training or not weights.others_typed):
        found = checkpoint.find(weights.checkpoints, weights.folder, weights.network)
        if found is not None:
            trained = found.place("pdema") if training else None  # .pdparams is the average where there is one
            file = trained if trained and trained.is_file() else found.place("pdparams")
            return Start("Global.checkpoints", str(file), weights.network, checkpoint=found)
    if weights.pretrained_model:
        return Start("Global.pretrained_model", weights.pretrained_model, weights.network)
    if weights.published:
        return Start("Arch.pretrained", weights.published, weights.network, weights.use_ssld)
    return None


def require_start(weights: Weights, random_init: bool = False) -> Start | None:
    """Return the weights that a configuration names for an answer; None only where ``random_init`` is set.

    Raises:
        UserError: it names none.
    """
    start = find_start(weights)
    if start is None and not random_init:
        raise UserError(
            "no weights are named: the answers would be random",
            where="Global.pretrained_model",
            hint="-c output/RUN for a run with its best weights, -o Global.pretrained_model=output/best_model, "
            "-o Arch.pretrained=True for the published weights, or --random-init if random weights are what you want",
        )
    return start


def load_start(model: nn.Layer, start: Start, *, new_head: bool = False) -> LoadReport:
    """Load the weights into a network, strictly.

    Args:
        model: of ``start.model``.
        start: as :func:`find_start` gives it.
        new_head: the classifier may begin anew where the class counts differ: in training only.

    Raises:
        UserError, DamagedFileError, NumericsError: they do not fit.
    """
    return load_weights(model, start.file(), class_num_may_differ=new_head and start.checkpoint is None)


def network_for_answers(arch: Arch, start: Start | None, **instead) -> nn.Layer:
    """Build a network with weights of :func:`require_start`: strictly, nothing starts anew.

    Args:
        arch: of the config.
        start: the weights; None: random ones.
        **instead: arguments in place of the config's.

    Raises:
        UserError, DamagedFileError, NumericsError: they do not fit.
    """
    model = create_model(arch.name, **{**arch.parameters, **instead})
    if start is not None:
        load_start(model, start)
    return model


def model_with_weights(config: Config, random_init: bool = False) -> nn.Layer:
    """Build the config's network with the weights that it names, for answers and for what is deployed.

    One that trained in NHWC becomes the same network in NCHW: Paddle Lite, ONNX and Paddle Inference's own fusions of
    the old format take no other.

    Raises:
        UserError: no weights are named and ``random_init`` is not set, or they do not fit.
    """
    start = require_start(config.weights, random_init)
    if config.typed("Global.device"):  # what a file says is where it was trained
        set_device(config.run.device)
    layout = {"data_format": "NCHW"} if "data_format" in config.arch.parameters else {}
    return network_for_answers(config.arch, start, **layout)

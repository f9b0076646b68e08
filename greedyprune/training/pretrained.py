"""Weights that the backbone of a new model starts from."""

from pathlib import Path
from typing import cast

from greedyprune.errors import UserError
from greedyprune.models import Detector, read_checkpoint
from greedyprune.models.backbone import Backbone

_INSIDE = "backbone.0.body."  # begins the names of a detector's backbone


def load_backbone(model: Detector, path: Path) -> None:
    """Load torchvision's weights into a ResNet backbone, or those of tools/pretrain_backbone.py or a detector into any.

    Args:
        model: a detector.
        path: a state dict as torchvision publishes it, with or without the classifier, or the same as safetensors; or
            a checkpoint of a detector with the same backbone.

    Raises:
        UserError: the file is of another network.
    """
    name, body = model.options.backbone, cast(Backbone, model.backbone[0]).body
    own = body.state_dict()
    read = read_checkpoint(path)[0]
    inside = {key.removeprefix(_INSIDE): value for key, value in read.items() if key.startswith(_INSIDE)}
    state = {
        key: value
        for key, value in (inside or read).items()
        if not key.startswith("fc.") and (key in own or not key.endswith("num_batches_tracked"))
    }
    for key in (*own, *state):
        have, want = (None if key not in tensors else list(tensors[key].shape) for tensors in (state, own))
        if have != want:
            raise UserError(
                f"--backbone_weights {path} is not of {name}: {key} has shape {have or 'none'} there "
                f"and {want or 'none'} in the model"
            )
    body.load_state_dict(state)

"""The zoo, and the loading of anyone's model and weights."""

from rlprune.models import lenet, mobilenet, resnet, vgg  # noqa: F401 - importing registers them
from rlprune.models.catalogue import MODELS, create_model, list_models, register_model

__all__ = ["MODELS", "create_model", "list_models", "register_model"]

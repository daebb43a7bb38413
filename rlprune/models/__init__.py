"""The zoo, and the loading of anyone's model and weights."""

from rlprune.models import lenet, mobilenet, resnet, ternausnet, unet, vgg  # noqa: F401 - importing registers them
from rlprune.models.catalogue import MODELS, create_model, list_models, register_model
from rlprune.models.drawn import FAMILIES, family_of
from rlprune.models.resolving import brings_weights, resolve_model
from rlprune.models.weights import default_weights, load_weights, weights_normalisation

__all__ = [
    "FAMILIES",
    "MODELS",
    "brings_weights",
    "create_model",
    "default_weights",
    "family_of",
    "list_models",
    "load_weights",
    "register_model",
    "resolve_model",
    "weights_normalisation",
]

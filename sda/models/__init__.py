"""The stack, the model that is trained, and the models for fine-tuning."""

from sda.models.stack import StackedDenoisingAutoencoder

__all__ = ["StackedDenoisingAutoencoder"]

"""The stack, the model that is trained, and the models for fine-tuning."""

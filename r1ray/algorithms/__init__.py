"""The mathematics of GRPO: tensors in, tensors out; no config, no Ray, no model."""

"""The mathematics of GRPO and its relatives: tensors in, tensors out; no config, no Ray, no model.

From rewards to a loss: `advantages` and `batch_advantages`, then per token `policy_losses`, `kl` and `importance`,
weighted by `aggregation`. `supervised` and `preference` are the losses of the stages before.
"""

"""Which model to fine-tune: laws of the loss, and scores that need no training."""

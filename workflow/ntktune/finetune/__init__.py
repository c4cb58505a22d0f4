"""Fine-tuning with hold-out early stopping: the test error as a function of n (SR26 section 5)."""

"""How many labels, when to stop, what to train: predicted from a pilot's kernel."""

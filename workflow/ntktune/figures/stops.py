"""The four stopping rules, as figures show them."""

# rule → what it is called, and the marker that tells it apart in a grey print
RULES = {
    "theory": ("theory (T̂)", "o"),
    "holdout": ("hold-out", "s"),
    "sure": ("SURE", "^"),
    "oracle": ("oracle", "D"),
}

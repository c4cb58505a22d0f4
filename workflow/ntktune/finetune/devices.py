"""GPUs that the account of a study knows by name."""

# Peak TFLOP/s of float32 and of bfloat16 products, and memory in 10^9 bytes: makers' data sheets,
# dense, float32 without TF32 (which this package leaves off).
DEVICES = {
    "A10": (31.2, 125.0, 24),
    "A100-40GB": (19.5, 312.0, 40),
    "A100-80GB": (19.5, 312.0, 80),
    "H100": (67.0, 989.0, 80),
    "H200": (67.0, 989.0, 141),
    "L40S": (91.6, 362.0, 48),
    "RTX-4090": (82.6, 165.2, 24),
}

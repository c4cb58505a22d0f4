"""Pretrained networks: loading, heads, tangents, matrix products, devices."""

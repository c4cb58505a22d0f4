"""Chapter ``data``: what comes from outside, checked, so that later chapters can trust it."""

"""Kernels of attention: prefill and decode."""

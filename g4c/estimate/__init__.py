"""Estimates: what a model's programs compute, move and hold, and what that means on a Neuron instance."""

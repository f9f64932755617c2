"""g4c: an ahead-of-time compiler for Gemma 4 on AWS Neuron."""

__version__ = "0.1.0"

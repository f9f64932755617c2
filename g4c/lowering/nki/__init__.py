"""NKI: kernels in the dialect of the `nki` package and the simulator that runs and checks them."""

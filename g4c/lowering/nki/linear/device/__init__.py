"""What the kernels of the linear family are made of: functions whose text goes into the generated sources.

They are written against the simulator's `nl` and `nisa`, which in a generated file are those of `nki`.

    tiles           where features lie
    transposition   rows in HBM to features on the partitions, and back
    normalization   RMS norms
    one_row         one row times a weight
    streaming       weights through a ring of buffers, multiplied as they arrive
    epilogues       what becomes of products
    vocabulary      products with the vocabulary
"""

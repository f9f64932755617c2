"""The passes: verified IR in, verified IR out, one file per pass.

`contract` says what a pass is, `pipelines` lists them all and the default order, `pipeline` reads pipeline strings,
`manager` runs them. Invariant: after every pass the module verifies, and means what it meant before.
"""

"""The intermediate representation: types, ops, modules, text, verifier, interpreter.

Imports nothing of g4c but the errors.
"""

"""The intermediate representation: types, ops, modules, text, verifier, interpreter. Imports nothing of ours but the errors."""

"""Is a bundle right? Its programs against Hugging Face's own model on the same weights, position by position."""

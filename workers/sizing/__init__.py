"""How much GPU memory a model needs, from its ``config.json`` alone: no GPU, no weights, no network."""

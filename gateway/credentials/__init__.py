"""How a request shows whose it is. Formats know nothing of it: what each kind of provider takes is in its row."""

"""Several processes of one gateway behind one port: who starts them, and what they tell one another."""

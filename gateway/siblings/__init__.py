"""Several processes of one gateway behind one port: how they are started, and how they share what they learn."""

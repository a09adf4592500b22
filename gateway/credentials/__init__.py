"""How a request shows an upstream which account it is from. A provider's row names the signer; formats know none."""

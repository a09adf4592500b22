"""Authentication: which key a request comes with."""

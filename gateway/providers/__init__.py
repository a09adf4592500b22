"""Wire formats of upstreams, one file each; see ``base`` for the contract and ``registry`` for the rows."""

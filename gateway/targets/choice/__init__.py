"""Which replica of a target answers a call: policies, one file each, and the index of what replicas have cached."""

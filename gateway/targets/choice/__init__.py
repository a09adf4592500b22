"""Policies that choose one of a target's replicas for a call, one file each; and an index of what replicas cached."""
